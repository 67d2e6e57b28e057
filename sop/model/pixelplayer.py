"""The whole PixelPlayer: from mixed sound and frames of each source to a mask for each source."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sop.model.sound import UNET_LEVELS, SoundNet
from sop.model.spectrogram import (
    binary_masks,
    network_input,
    network_magnitude,
    ratio_masks,
    stft,
)
from sop.model.synthesizer import Synthesizer
from sop.model.vision import VisionNet, pool_background, pool_pixels
from sop.params import Activation, ModelParams, SpectrogramParams, TrainParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Spectra(NamedTuple):
    """What the networks and the loss see of a batch; R is 256 rows or F, see `log_frequency`."""

    mixture: Tensor
    """Complex spectrogram of the mixture, (B, F, M)."""
    magnitude: Tensor
    """The mixture's magnitude plus `MAGNITUDE_FLOOR`, (B, R, M)."""
    sources: Tensor
    """Magnitudes of the true sources, (B, N, R, M)."""


class PixelPlayer(nn.Module):
    """Sound net, vision net and synthesizer.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018.
    """

    def __init__(self, model: ModelParams, spectrogram: SpectrogramParams) -> None:
        super().__init__()
        self.params = model
        self.spectrogram = spectrogram
        self.sound = SoundNet(UNET_LEVELS[model.sound], model.channels, model.sound_width)
        self.vision = VisionNet(model.channels, model.vision, model.vision_width)
        self.synthesizer = Synthesizer(model.synthesizer, model.channels)

    def forward(self, magnitude: Tensor, frames: Tensor, background: bool = False) -> Tensor:
        """Logits of the masks: `activate` them with `output_activation`.

        Args:
            magnitude: of the mixture, (B, R, M), > 0.
            frames: of each source, ImageNet-normalised, (B, N, T, 3, H, W).
            background: those of each source's background too, behind the sources.

        Returns:
            (B, N, R, M), or (B, 2 N, R, M) with backgrounds.
        """
        pixels = self._pixels(frames)
        image = self._image_features(pool_pixels(pixels, self.params.image_pooling), frames)
        if background:
            behind = self._image_features(pool_background(pixels), frames)
            image = torch.cat([image, behind], dim=1)
        logits: Tensor = self.synthesizer(image, self.sound_features(magnitude))
        return logits

    def spectra(self, sources: Tensor) -> Spectra:
        """Spectrograms of the sources and of their sum, warped if the frequency axis is log.

        Args:
            sources: samples of each source, (B, N, L), already divided by N.
        """
        mixture = stft(sources.sum(dim=1), self.spectrogram)
        return Spectra(
            mixture,
            network_input(mixture, self.spectrogram),
            network_magnitude(stft(sources, self.spectrogram), self.spectrogram),
        )

    def true_masks(self, spectra: Spectra) -> Tensor:
        """What the masks should be, (B, N, R, M)."""
        ideal = binary_masks if self.params.mask == "binary" else ratio_masks
        return ideal(spectra.sources, spectra.magnitude)

    def sound_features(self, magnitude: Tensor) -> Tensor:
        """Component maps of the mixture: (B, R, M) to (B, C, R, M)."""
        return activate(self.sound(magnitude.log()[:, None]), self.params.sound_activation, 1)

    def image_features(self, frames: Tensor) -> Tensor:
        """Pooled image features: (B, N, T, 3, H, W) to (B, N, C)."""
        pooled = pool_pixels(self._pixels(frames), self.params.image_pooling)
        return self._image_features(pooled, frames)

    def pixel_features(self, frames: Tensor) -> Tensor:
        """Image features of each pixel: (B, T, 3, H, W) to (B, T, C, h, w)."""
        return activate(self.vision(frames), self.params.image_activation, 2)

    def masks(self, logits: Tensor) -> Tensor:
        """The masks of logits, (B, N, R, M)."""
        return activate(logits, self.params.output_activation, 1)

    def _pixels(self, frames: Tensor) -> Tensor:
        """What the vision net makes of the first sources, then the second ones: (N B, T, C, h, w).

        In training the published code normalises each source's frames by their own batch
        statistics, so there each source takes its own pass; otherwise one pass serves all.
        """
        if self.training:
            return torch.cat([self.vision(source) for source in frames.unbind(1)])
        pixels: Tensor = self.vision(frames.transpose(0, 1).flatten(0, 1))
        return pixels

    def _image_features(self, pooled: Tensor, frames: Tensor) -> Tensor:
        """Pooled features, (N B, C), of each mixture's sources, activated: (B, N, C)."""
        features = torch.stack(pooled.chunk(frames.shape[1]), dim=1)
        return activate(features, self.params.image_activation, -1)


def activate(x: Tensor, activation: Activation, axis: int) -> Tensor:
    """Apply an activation by its name in params.yaml; softmax runs along `axis`."""
    match activation:
        case "sigmoid":
            return x.sigmoid()
        case "softmax":
            return x.softmax(dim=axis)
        case "relu":
            return x.relu()
        case "tanh":
            return x.tanh()
        case "none":
            return x


def normalise_frames(frames: Tensor) -> Tensor:
    """Frames as the vision net wants them.

    Args:
        frames: uint8, (..., H, W, 3).

    Returns:
        ImageNet-normalised float32, (..., 3, H, W).
    """
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device) * 255
    std = torch.tensor(IMAGENET_STD, device=frames.device) * 255
    return ((frames - mean) / std).movedim(-1, -3)


def separation_loss(
    logits: Tensor, spectra: Spectra, true_masks: Tensor, model: ModelParams, train: TrainParams
) -> Tensor:
    """Mean distance between predicted and true masks.

    Args:
        logits: of the predicted masks, (B, N, R, M).
        spectra: of the batch; the mixture's magnitude gives the weights.
        true_masks: (B, N, R, M).
        model: the output activation.
        train: which loss, and whether bins are weighted by loudness.

    Returns:
        Scalar: the mean over bins, sources and mixtures.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018; weights log(1 + magnitude) in
    [0.001, 10], as published.
    """
    weight = None
    if train.weighted_loss:
        weight = torch.log1p(spectra.magnitude).clamp(1e-3, 10)[:, None].expand_as(true_masks)
    if train.loss == "bce" and model.output_activation == "sigmoid":
        return F.binary_cross_entropy_with_logits(logits, true_masks, weight)
    masks = activate(logits, model.output_activation, 1)
    if train.loss == "bce":
        return F.binary_cross_entropy(masks, true_masks, weight)
    distance = (masks - true_masks).abs() if train.loss == "l1" else (masks - true_masks).square()
    return (distance if weight is None else weight * distance).mean()


def build(model: ModelParams, spectrogram: SpectrogramParams, seed: int) -> PixelPlayer:
    """A PixelPlayer with the published initial distributions, all of them from `seed`.

    Sound net: convolutions N(0, 0.001^2), batch norms N(1, 0.02^2). The vision net keeps
    torchvision's (He) distribution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        player = PixelPlayer(model, spectrogram)
        for module in player.vision.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in player.sound.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.001)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)
    return player
