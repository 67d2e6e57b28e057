"""What the networks make of a stretch of video: the sound of any pixel follows from it.

Shapes: W windows, h x w cells of the picture, C channels, K places (cells or regions), R rows of a
mask (256 log-spaced ones or F), F x M frequency bins x spectrogram frames, L samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sop.model.pixelplayer import activate
from sop.model.spectrogram import istft, stft, stft_power, to_linear_frequency
from sop.params import Activation, SpectrogramParams
from sop.runtime.device import one_thread

Values = NDArray[np.float32]

# Spectrogram frames whose masks of all cells are held at a time.
BLOCK_FRAMES = 32


@dataclass(frozen=True)
class Embedding:
    """Component maps of the sound and features of the cells, side by side.

    The networks see a stretch in windows that overlap. What they give is cross-faded before masks
    are made of it, so there are no seams.
    """

    audio: Values
    """The sound, mono, (L,)."""
    sample_rate: int
    """Hz."""
    spectrogram: SpectrogramParams
    components: Values
    """What the sound net makes of it, cross-faded over the windows, (C, R, M)."""
    cells: Values
    """Features of the picture's cells in each window, pooled over its frames and not yet activated:
    rows of cells from the top, in each from the left, (W, h, w, C)."""
    scale: Values
    """How the synthesizer weighs each channel, (C,)."""
    fades: Values
    """How much each window has to say at each spectrogram frame, (W, M); the sum over W is 1."""
    bias: float
    activation: Activation
    """Of the masks."""
    image_activation: Activation = "none"
    """Of features, of a cell or pooled over a region."""

    def masks(self, features: Values, frames: slice = slice(None)) -> Values:
        """The masks of places.

        Args:
            features: of each, in each window: of a cell `cells[:, i, j]`, (W, K, C).
            frames: of the spectrogram, M of them.

        Returns:
            How much of each bin belongs to them, (K, F, M), >= 0; masks of binary models lie in
            [0, 1].
        """
        weights = np.einsum("wm,wkc->mkc", self.fades[:, frames], self.weights(features))
        components = self.components[:, :, frames].transpose(2, 0, 1)
        with torch.inference_mode(), one_thread():
            logits = torch.from_numpy(weights) @ torch.from_numpy(components)
            logits += self.bias
            masks = activate(logits.permute(1, 2, 0).contiguous(), self.activation, 0)
            if self.spectrogram.log_frequency:
                masks = to_linear_frequency(masks, self.spectrogram.stft_frame // 2 + 1)
            return masks.clamp_(min=0).numpy()

    def weights(self, features: Values) -> Values:
        """How much of each component features ask for: activated and scaled, (..., C)."""
        activated = activate(torch.from_numpy(features), self.image_activation, -1).numpy()
        weighed: Values = activated * self.scale
        return weighed

    def heat(self) -> Values:
        """Energy of the sound that the mask of each cell lets through in each window, (W, h, w).

        Windows share out the energy as they fade: its sum over W is that of the whole stretch.
        """
        windows, height, width, channels = self.cells.shape
        features = self.cells.reshape(windows, height * width, channels)
        power = stft_power(self.audio, self.spectrogram)
        energy = np.empty((height * width, power.shape[1]), np.float32)
        for first in range(0, power.shape[1], BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            masks = self.masks(features, block)
            np.einsum("pfm,pfm,fm->pm", masks, masks, power[:, block], out=energy[:, block])
        return (self.fades @ energy.T).reshape(windows, height, width)

    def sounds(self, masks: Values) -> Values:
        """What masks let through: (K, F, M) to samples, (K, stft_hop * (M - 1))."""
        spectrum = stft(torch.from_numpy(self.audio), self.spectrogram)
        return istft(torch.from_numpy(masks) * spectrum, self.spectrogram).numpy()


def shares(masks: Values) -> Values:
    """Share every bin out among K places and the rest, so that their sounds sum to the mixture.

    Where masks claim more than there is, each gets its part; where they claim less, the rest is
    left over.

    Args:
        masks: (K, F, M), >= 0.

    Returns:
        (K + 1, F, M), the last being the rest; the sum over the first axis is 1.
    """
    claimed = masks / np.maximum(masks.sum(axis=0), 1)
    return np.concatenate([claimed, np.maximum(1 - claimed.sum(axis=0, keepdims=True), 0)])
