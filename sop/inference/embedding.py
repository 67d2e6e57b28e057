"""Network outputs for a segment of video, from which the sound of any pixel can be computed.

Shapes: W windows, h x w cells of the picture, C channels, E envelopes, S maps of the sound that
motion weighs, K places (cells or regions), R mask rows (256 log-spaced ones or F), F x M frequency
bins x spectrogram frames, L samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sop.dataset.clips import Audio
from sop.model.motion import LEAD, TAIL, synchrony
from sop.model.pixelplayer import activate
from sop.model.spectrogram import istft, stft, stft_power, to_linear_frequency
from sop.params import Activation, SpectrogramParams
from sop.runtime.device import one_thread

# Number of spectrogram frames for which the masks of all cells are in memory at a time.
BLOCK_FRAMES = 32

# Number of heat maps per second of a segment with motion.
HEAT_RATE = 10


@dataclass(frozen=True)
class MotionEmbedding:
    """What a model with motion adds to the embedding of a segment."""

    maps: NDArray[np.float32]
    """Maps of the sound, cross-faded over the windows, (S, R, M)."""
    cells: NDArray[np.float32]
    """Predicted envelopes of each cell, (E, LEAD + M + TAIL, h, w): also those of `LEAD`
    spectrogram frames before the segment, and of `TAIL` after it."""
    taps: NDArray[np.float32]
    """Filter from the envelopes of a place to the weights of the maps, (S, E, LEAD + 1 + TAIL)."""

    def pool(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the envelopes of places.

        Args:
            weights: weight of each cell in each place, (K, h, w), with a sum of 1.

        Returns:
            (K, E, LEAD + M + TAIL).
        """
        pooled: NDArray[np.float32] = np.einsum("emhw,khw->kem", self.cells, weights)
        return pooled

    def logits(self, envelopes: NDArray[np.float32], frames: slice) -> torch.Tensor:
        """Return what motion adds to the logits of places.

        Args:
            envelopes: envelopes of the places, (K, E, LEAD + M + TAIL).
            frames: spectrogram frames, M' of them.

        Returns:
            (K, R, M').
        """
        begin, end, _ = frames.indices(self.maps.shape[-1])
        around = torch.from_numpy(envelopes[None, :, :, begin : end + LEAD + TAIL])
        maps = torch.from_numpy(self.maps[None, :, :, begin:end])
        return synchrony(around, maps, torch.from_numpy(self.taps))[0]


@dataclass(frozen=True)
class Embedding:
    """Component maps of the sound and visual features of the cells of one segment.

    The networks process a segment in overlapping windows. Their outputs are cross-faded before
    masks are computed, so that no seams are audible.
    """

    audio: Audio
    """Mono sound of the segment, (L,)."""
    sample_rate: int
    """Sample rate of `audio`, Hz."""
    spectrogram: SpectrogramParams
    """Parameters of the spectrogram."""
    components: NDArray[np.float32]
    """Component maps of the sound, cross-faded over the windows, (C, R, M)."""
    cells: NDArray[np.float32]
    """Visual features of each cell in each window, pooled over the window's video frames, before
    `image_activation`, (W, h, w, C); rows from the top, columns from the left."""
    scale: NDArray[np.float32]
    """Weight of each channel in the synthesizer, (C,)."""
    crossfade: NDArray[np.float32]
    """Weight of each window at each spectrogram frame, (W, M); the sum over W is 1."""
    bias: float
    """Bias of the synthesizer."""
    activation: Activation
    """Activation of the masks."""
    image_activation: Activation = "none"
    """Activation of the visual features of a cell or region."""
    motion: MotionEmbedding | None = None
    """Motion of the segment; None for a model without motion."""

    def masks(
        self,
        features: NDArray[np.float32],
        frames: slice = slice(None),
        envelopes: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the masks of places.

        Args:
            features: features of each place in each window, (W, K, C); those of a cell are
                `cells[:, i, j]`.
            frames: spectrogram frames, M of them.
            envelopes: envelopes of each place, (K, E, LEAD + M + TAIL); those of a cell are
                `motion.cells[:, :, i, j]`. None for a model without motion.

        Returns:
            Gain of each bin for each place, (K, F, M), >= 0; at most 1 for binary models.
        """
        assert (envelopes is None) == (self.motion is None)
        weights = np.einsum("wm,wkc->mkc", self.crossfade[:, frames], self.weights(features))
        components = self.components[:, :, frames].transpose(2, 0, 1)
        with torch.inference_mode(), one_thread():
            logits = torch.from_numpy(weights) @ torch.from_numpy(components)
            logits += self.bias
            logits = logits.permute(1, 2, 0).contiguous()
            if self.motion is not None and envelopes is not None:
                logits += self.motion.logits(envelopes, frames)
            masks = activate(logits, self.activation, 0)
            if self.spectrogram.log_frequency:
                masks = to_linear_frequency(masks, self.spectrogram.stft_frame // 2 + 1)
            return masks.clamp_(min=0).numpy()

    def cell_masks(self, frames: slice = slice(None)) -> NDArray[np.float32]:
        """Return the masks of all cells, (h * w, F, M)."""
        windows, height, width, channels = self.cells.shape
        features = self.cells.reshape(windows, height * width, channels)
        envelopes = None
        if self.motion is not None:
            cells = self.motion.cells
            envelopes = cells.reshape(*cells.shape[:2], -1).transpose(2, 0, 1)
        return self.masks(features, frames, envelopes)

    def weights(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weight of each component for features, activated and scaled, (..., C)."""
        activated = activate(torch.from_numpy(features), self.image_activation, -1).numpy()
        weights: NDArray[np.float32] = activated * self.scale
        return weights

    def heat(self) -> NDArray[np.float32]:
        """Return the energy of the sound under the mask of each cell over time, (T, h, w).

        Without motion, a map is that of a window: the energy is divided among the W windows by
        their cross-fade weights. With motion, masks change within a window: there are `HEAT_RATE`
        maps per second, each of an equal part of the segment. The sum over T is the energy of the
        whole segment.
        """
        _, height, width, _ = self.cells.shape
        power = stft_power(self.audio, self.spectrogram)
        energy = np.empty((height * width, power.shape[1]), np.float32)
        for first in range(0, power.shape[1], BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            masks = self.cell_masks(block)
            np.einsum("pfm,pfm,fm->pm", masks, masks, power[:, block], out=energy[:, block])
        shares = self.crossfade
        if self.motion is not None:
            frames = power.shape[1]
            seconds = frames * self.spectrogram.stft_hop / self.sample_rate
            count = min(max(1, round(seconds * HEAT_RATE)), frames)
            parts = np.arange(frames) * count // frames
            shares = (parts == np.arange(count)[:, None]).astype(np.float32)
        return (shares @ energy.T).reshape(-1, height, width)

    def sounds(self, masks: NDArray[np.float32]) -> Audio:
        """Apply masks to the sound: (K, F, M) to samples, (K, stft_hop * (M - 1))."""
        spectrum = stft(torch.from_numpy(self.audio), self.spectrogram)
        return istft(torch.from_numpy(masks) * spectrum, self.spectrogram).numpy()


def normalize_masks(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each bin among places and the rest, in proportion to the squares of their masks.

    The mask of the rest, before this division, is what the largest mask leaves to 1.

    Args:
        masks: masks of K places, (K, F, M), >= 0.

    Returns:
        Masks of the places and of the rest, (K + 1, F, M); the sum over the first axis is 1.
    """
    rest = np.maximum(1 - masks.max(axis=0), 0)
    shares = np.square(masks)
    shares /= shares.sum(axis=0) + np.square(rest)
    return np.concatenate([shares, np.maximum(1 - shares.sum(axis=0, keepdims=True), 0)])
