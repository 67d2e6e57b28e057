"""The PixelPlayer: maps the sound of a mixture and frames of each source to masks."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sop.model.motion import (
    TRUE_ENVELOPES,
    MotionNet,
    SynchronyNet,
    padded,
    pool_envelopes,
    true_envelopes,
)
from sop.model.sound import LEAK, SoundNet
from sop.model.spectrogram import binary_masks, network_input, network_magnitude, ratio_masks, stft
from sop.model.synthesizer import Synthesizer
from sop.model.vision import VisionNet, pool_background, pool_pixels
from sop.params import Activation, ModelParams, SpectrogramParams, TrainParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Standard deviation of the initial weights of the sound net's last convolution, if the others have
# He's distribution.
LAST_DEVIATION = 0.02

# Power of the masks by which sources share a bin in the distance of spectra.
SPECTRUM_POWER = 2.0

# Smallest mean magnitude of a mixture in the distance of spectra, so that silence does not count.
MIN_LEVEL = 1e-6


class Spectra(NamedTuple):
    """Spectrograms of a batch. R is 256 on the log-frequency axis and F on the linear one."""

    mixture: Tensor
    """Complex spectrogram of the mixture, (B, F, M)."""
    magnitude: Tensor
    """Input of the sound net: magnitude of the mixture plus `MAGNITUDE_FLOOR`, (B, R, M)."""
    sources: Tensor
    """Magnitudes of the true sources, (B, N, R, M)."""


class Prediction(NamedTuple):
    """Output of the model for a batch."""

    logits: Tensor
    """Logits of the masks, (B, N, R, M), or (B, 2 N, R, M) with backgrounds after the sources."""
    envelopes: Tensor | None = None
    """Envelopes of the sources, predicted from their motion, (B, N, E, M); None without motion."""


class PixelPlayer(nn.Module):
    """Sound net, vision net and synthesizer; with motion also motion net and synchrony net.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018.
    """

    def __init__(self, model: ModelParams, spectrogram: SpectrogramParams) -> None:
        super().__init__()
        self.params = model
        self.spectrogram = spectrogram
        self.sound = SoundNet(model.sound, model.channels, model.sound_width)
        self.vision = VisionNet(model.channels, model.vision, model.vision_width)
        self.synthesizer = Synthesizer(model.synthesizer, model.channels)
        self.motion = MotionNet() if model.motion == "synchrony" else None
        self.synchrony = SynchronyNet() if model.motion == "synchrony" else None

    def forward(
        self,
        magnitude: Tensor,
        frames: Tensor,
        background: bool = False,
        motion: Tensor | None = None,
    ) -> Prediction:
        """Return the logits of the masks, which `masks` activates, and the predicted envelopes.

        Args:
            magnitude: magnitude of the mixture, (B, R, M), > 0.
            frames: frames of each source, ImageNet-normalized, (B, N, T, 3, H, W).
            background: also return a mask for the background of each source's frames.
            motion: motion frames of each source, uint8, (B, N, T_m, H_m, W_m). In training, a
                model with motion returns the logits of appearance alone without them. Models
                without motion ignore them.
        """
        pixels = self._pixels(frames)
        image = self._pooled(pixels, frames.shape[1], background)
        logits: Tensor = self.synthesizer(image, self.sound_features(magnitude))
        if self.motion is None or self.synchrony is None:
            return Prediction(logits)
        if motion is None:
            assert self.training, "a model with motion needs motion frames"
            return Prediction(logits)
        sources = frames.shape[1]
        cells = self.motion(motion.transpose(0, 1).flatten(0, 1))
        pooled = pool_envelopes(cells, pixels, magnitude.shape[-1])
        envelopes = torch.stack(pooled.chunk(sources), dim=1)
        added = self.synchrony.logits(padded(envelopes), self.synchrony(magnitude))
        # A background has no motion of its own.
        return Prediction(
            torch.cat([logits[:, :sources] + added, logits[:, sources:]], dim=1), envelopes
        )

    def to_channels_last(self) -> None:
        """Store the weights of 2-D convolutions so that CPUs and GPUs compute them faster."""
        for net in (self.sound, self.vision, self.synthesizer, self.synchrony):
            if net is not None:
                net.to(memory_format=torch.channels_last)

    def spectra(self, sources: Tensor) -> Spectra:
        """Return the spectrograms of the sources and of their sum.

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
        """Return the ideal masks, which are the training targets, (B, N, R, M)."""
        ideal = binary_masks if self.params.mask == "binary" else ratio_masks
        return ideal(spectra.sources, spectra.magnitude)

    def sound_features(self, magnitude: Tensor) -> Tensor:
        """Return the component maps of the mixture: (B, R, M) to (B, C, R, M)."""
        return activate(self.sound(magnitude.log()[:, None]), self.params.sound_activation, 1)

    def image_features(self, frames: Tensor, background: bool = False) -> Tensor:
        """Return pooled image features.

        In training, each source has its own pass and so its own batch statistics, as in the
        published code. In evaluation, one pass serves all sources.

        Args:
            frames: frames of each source, ImageNet-normalized, (B, N, T, 3, H, W).
            background: also return the features of each source's background.

        Returns:
            (B, N, C), or (B, 2 N, C) with the backgrounds after the sources.
        """
        return self._pooled(self._pixels(frames), frames.shape[1], background)

    def _pixels(self, frames: Tensor) -> Tensor:
        """Return the visual features of all sources, (N B, T, C, h, w).

        First those of all mixtures of the first source, then those of the second, ...
        """
        if self.training:
            return torch.cat([self.vision(source) for source in frames.unbind(1)])
        pixels: Tensor = self.vision(frames.transpose(0, 1).flatten(0, 1))
        return pixels

    def _pooled(self, pixels: Tensor, sources: int, background: bool) -> Tensor:
        pooled = [pool_pixels(pixels, self.params.image_pooling)]
        if background:
            pooled.append(pool_background(pixels))
        features = [torch.stack(part.chunk(sources), dim=1) for part in pooled]
        activation = self.params.image_activation
        return torch.cat([activate(part, activation, -1) for part in features], dim=1)

    def pixel_features(self, frames: Tensor) -> Tensor:
        """Return the image features of each pixel: (B, T, 3, H, W) to (B, T, C, h, w)."""
        return activate(self.vision(frames), self.params.image_activation, 2)

    def masks(self, logits: Tensor) -> Tensor:
        """Return the masks of logits, (B, N, R, M)."""
        return activate(logits, self.params.output_activation, 1)


def activate(x: Tensor, activation: Activation, axis: int) -> Tensor:
    """Apply an activation by its name in params.yaml; softmax runs along `axis`."""
    if activation == "none":
        return x
    if activation == "softmax":
        return x.softmax(dim=axis)
    activated: Tensor = getattr(torch, activation)(x)
    return activated


def normalize_frames(frames: Tensor) -> Tensor:
    """Return frames in the format of the vision net.

    Args:
        frames: uint8, (..., H, W, 3).

    Returns:
        ImageNet-normalized float32, (..., 3, H, W).
    """
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device) * 255
    std = torch.tensor(IMAGENET_STD, device=frames.device) * 255
    return ((frames - mean) / std).movedim(-1, -3)


def separation_loss(
    logits: Tensor, spectra: Spectra, true_masks: Tensor, model: ModelParams, train: TrainParams
) -> Tensor:
    """Return the mean distance between predicted and true masks.

    Args:
        logits: logits of the predicted masks, (B, N, R, M).
        spectra: spectrograms of the batch; the magnitude of the mixture gives the weights.
        true_masks: target masks, (B, N, R, M).
        model: the output activation.
        train: the loss, and whether louder bins have larger weights.

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


def spectrum_loss(logits: Tensor, spectra: Spectra, heard: Tensor) -> Tensor:
    """Return the mean distance between the magnitudes of separated and true sources.

    Each source gets the share of its squared mask in the sum of all squares, as in evaluation with
    a mask power of 2. Louder bins count more, and masks count in comparison with each other.

    Args:
        logits: logits of the predicted masks, before a sigmoid, (B, N, R, M).
        spectra: spectrograms of the batch.
        heard: True for the sources whose frames belong to their sound, (B, N). Mixtures with the
            sound of another source do not count: that sound belongs to nobody who is seen.

    Returns:
        Scalar: the mean over bins, sources and mixtures, relative to the mean of each mixture.
    """
    shares = (SPECTRUM_POWER * F.logsigmoid(logits)).softmax(dim=1)
    distance = (shares * spectra.magnitude[:, None] - spectra.sources).abs().mean(dim=(1, 2, 3))
    level = spectra.magnitude.mean(dim=(1, 2)).clamp_min(MIN_LEVEL)
    counts = (heard | ~spectra.sources.flatten(2).any(dim=2)).all(dim=1)
    return (distance / level * counts).mean()


def envelope_loss(envelopes: Tensor, spectra: Spectra, heard: Tensor) -> Tensor:
    """Return the mean squared distance between predicted and true envelopes.

    Args:
        envelopes: predicted envelopes, (B, N, E, M).
        spectra: spectrograms of the batch.
        heard: True for the sources whose motion belongs to their sound, (B, N); others do not
            count.

    Returns:
        Scalar.
    """
    predicted = envelopes[:, :, :TRUE_ENVELOPES]
    distance = (predicted - true_envelopes(spectra.sources)).square()
    return (distance * heard[..., None, None]).mean()


def build(model: ModelParams, spectrogram: SpectrogramParams, seed: int) -> PixelPlayer:
    """Return a PixelPlayer with random weights of the published distributions.

    Sound net: convolutions N(0, 0.001^2), batch norms N(1, 0.02^2). Vision net: torchvision's
    distribution (He). With `model.sound_init: he`, the convolutions of the sound net have He's
    distribution, too, except the last, whose outputs begin near 0.

    Args:
        model: architecture.
        spectrogram: transform and frequency axis.
        seed: seed of all weights; the global generator is not changed.
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
        if model.sound_init == "he":
            for module in player.sound.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, LEAK)
            last = player.sound.up[0]
            assert isinstance(last, nn.Conv2d)
            nn.init.normal_(last.weight, 0, LAST_DEVIATION)
    return player
