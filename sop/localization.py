"""Localization: how much of the sound the model assigns to each pixel."""

import torch
from torch import Tensor

from sop.dsp.spectrogram import to_linear_frequency
from sop.model.pixelplayer import PixelPlayer, Spectra


def pixel_energy(player: PixelPlayer, spectra: Spectra, frames: Tensor) -> Tensor:
    """Energy of the mixture's sound that the masks of each pixel let through.

    Args:
        player: the model, in evaluation mode.
        spectra: of B mixtures.
        frames: ImageNet-normalised, (B, T, 3, H, W): the same number for each mixture.

    Returns:
        (B, T, h, w), the sum of squared masked magnitudes on the linear frequency axis.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (sound of pixels, visualised energy).
    """
    sound = player.sound_features(spectra.magnitude)
    power = spectra.mixture.abs().square()
    energies = []
    # A frame at a time: the masks of all its pixels are h x w spectrograms.
    for features in player.pixel_features(frames).unbind(1):
        masks = player.masks(player.synthesizer.pixelwise(features, sound).flatten(1, 2))
        if player.spectrogram.log_frequency:
            masks = to_linear_frequency(masks, power.shape[-2])
        energy = (masks.square() * power[:, None]).sum(dim=(-2, -1))
        energies.append(energy.unflatten(1, tuple(features.shape[-2:])))
    return torch.stack(energies, dim=1)
