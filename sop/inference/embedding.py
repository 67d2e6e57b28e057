"""Network outputs for a segment of video, from which the sound of any pixel can be computed.

Shapes: W windows, h x w cells of the picture, C channels, K places (cells or regions), R mask rows
(256 log-spaced ones or F), F x M frequency bins x spectrogram frames, L samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sop.dataset.clips import Audio
from sop.model.pixelplayer import activate
from sop.model.spectrogram import istft, stft, stft_power, to_linear_frequency
from sop.params import Activation, SpectrogramParams
from sop.runtime.device import one_thread

# Number of spectrogram frames for which the masks of all cells are in memory at a time.
BLOCK_FRAMES = 32


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

    def masks(
        self, features: NDArray[np.float32], frames: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the masks of places.

        Args:
            features: features of each place in each window, (W, K, C); those of a cell are
                `cells[:, i, j]`.
            frames: spectrogram frames, M of them.

        Returns:
            Gain of each bin for each place, (K, F, M), >= 0; at most 1 for binary models.
        """
        weights = np.einsum("wm,wkc->mkc", self.crossfade[:, frames], self.weights(features))
        components = self.components[:, :, frames].transpose(2, 0, 1)
        with torch.inference_mode(), one_thread():
            logits = torch.from_numpy(weights) @ torch.from_numpy(components)
            logits += self.bias
            masks = activate(logits.permute(1, 2, 0).contiguous(), self.activation, 0)
            if self.spectrogram.log_frequency:
                masks = to_linear_frequency(masks, self.spectrogram.stft_frame // 2 + 1)
            return masks.clamp_(min=0).numpy()

    def weights(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weight of each component for features, activated and scaled, (..., C)."""
        activated = activate(torch.from_numpy(features), self.image_activation, -1).numpy()
        weights: NDArray[np.float32] = activated * self.scale
        return weights

    def heat(self) -> NDArray[np.float32]:
        """Return the energy of the sound under the mask of each cell in each window, (W, h, w).

        The energy is divided among windows by their cross-fade weights: the sum over W is the
        energy of the whole segment.
        """
        windows, height, width, channels = self.cells.shape
        features = self.cells.reshape(windows, height * width, channels)
        power = stft_power(self.audio, self.spectrogram)
        energy = np.empty((height * width, power.shape[1]), np.float32)
        for first in range(0, power.shape[1], BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            masks = self.masks(features, block)
            np.einsum("pfm,pfm,fm->pm", masks, masks, power[:, block], out=energy[:, block])
        return (self.crossfade @ energy.T).reshape(windows, height, width)

    def sounds(self, masks: NDArray[np.float32]) -> Audio:
        """Apply masks to the sound: (K, F, M) to samples, (K, stft_hop * (M - 1))."""
        spectrum = stft(torch.from_numpy(self.audio), self.spectrogram)
        return istft(torch.from_numpy(masks) * spectrum, self.spectrogram).numpy()


def normalize_masks(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale masks so that they sum to at most 1, and append the mask of the rest.

    Bins in which the masks sum to more than 1 are divided in proportion; bins in which they sum to
    less leave the difference to the rest.

    Args:
        masks: masks of K places, (K, F, M), >= 0.

    Returns:
        Masks of the places and of the rest, (K + 1, F, M); the sum over the first axis is 1.
    """
    scaled = masks / np.maximum(masks.sum(axis=0), 1)
    return np.concatenate([scaled, np.maximum(1 - scaled.sum(axis=0, keepdims=True), 0)])
