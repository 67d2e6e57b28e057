"""Motion: the envelopes of a sound, predicted from what moves, and where the mixture follows them.

Shapes: B mixtures, T motion frames, H x W pixels, h x w cells, E envelopes, K maps, P cells,
R x M mask rows x spectrogram frames.

A player who is heard moves in time with the sound. For each place, `MotionNet` predicts envelopes
of its own sound from luminance differences. `SynchronyNet` returns maps of the mixture, and filters
the envelopes over time into the weight of each map at each moment. The weighted maps are added to
the logits of the masks: for each bin, a learned cross-correlation of what is seen with what is
heard. The logits stay linear in the envelopes of a place, as they are in its visual features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Envelopes that are learned from true ones, loudness and onsets, and all envelopes: the others are
# learned from the loss of the masks alone.
TRUE_ENVELOPES = 2
ENVELOPES = 5

# The maps at a moment are weighted by the envelopes of this number of spectrogram frames before it,
# at it, and of this number after it: what is seen may precede or follow its sound.
LEAD, TAIL = 12, 3

# Number of motion frames before and after a moment that its envelopes depend on.
REACH = 11

# Number of maps of the mixture, and channels of the motion net.
MAPS = 24
WIDTH = 16

# The luminance is in [-1, 1]; differences of neighbouring frames are a small part of it.
DIFFERENCE_GAIN = 5.0

# Added to the weight of every cell, so that motion beside the attended cells counts, too.
MIN_WEIGHT = 1e-3

# Floors of the true envelopes, relative to the mean energy of a frame and to the root mean square
# of the magnitude, and the smallest mean square, so that the envelopes of silence are finite.
LOUDNESS_FLOOR, MAGNITUDE_FLOOR, MIN_POWER = 1e-3, 3e-2, 1e-10

# Added to the standard deviations of the true envelopes, so that those of a rest stay small.
MIN_DEVIATION = 0.1

# Added to the magnitudes of a mixture before the logarithm.
INPUT_FLOOR = 1e-3


class MotionNet(nn.Module):
    """Space-time convolutions over luminance differences that predict the envelopes of each cell.

    The envelopes of a source or region are a weighted mean of those of its cells.
    """

    def __init__(self) -> None:
        super().__init__()
        wide = 2 * WIDTH
        self.first = _block(2, WIDTH, (3, 5, 5), stride=2)
        self.second = _block(WIDTH, wide, (3, 3, 3), stride=2)
        self.residuals = nn.ModuleList(
            (_block(wide, wide, (5, 3, 3)), _block(wide, wide, (5, 1, 1)))
        )
        self.head = nn.Sequential(
            nn.Conv3d(wide, wide, (5, 1, 1), padding=(2, 0, 0)),
            nn.ReLU(),
            nn.Conv3d(wide, ENVELOPES, (5, 1, 1), padding=(2, 0, 0)),
        )

    def forward(self, motion: Tensor) -> Tensor:
        """Return the envelopes of each cell.

        Args:
            motion: luminance, uint8, (B, T, H, W).

        Returns:
            Envelopes, the first ones as `true_envelopes`, (B, E, T, H / 4, W / 4), rounded up.
        """
        luminance = motion.float() / 127.5 - 1
        change = DIFFERENCE_GAIN * luminance.diff(dim=1, prepend=luminance[:, :1])
        # The first frame has no predecessor: its change is that of the second.
        change[:, 0] = change[:, min(1, change.shape[1] - 1)]
        x: Tensor = self.second(self.first(torch.stack([change, change.abs()], dim=1)))
        for residual in self.residuals:
            x = x + residual(x)
        envelopes: Tensor = self.head(x)
        return envelopes


class SynchronyNet(nn.Module):
    """Convolutions that find in a mixture what follows the envelopes of a source."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _plane(3, MAPS, (3, 3))
        self.residuals = nn.ModuleList((_plane(MAPS, MAPS, (3, 5)), _plane(MAPS, MAPS, (5, 3))))
        # Tap i sees the envelopes of frame m - LEAD + i for the weights of the maps at frame m.
        self.filter = nn.Conv1d(ENVELOPES, MAPS, LEAD + 1 + TAIL, bias=False)
        # Training starts from appearance alone.
        nn.init.zeros_(self.filter.weight)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Return the maps of a mixture: (B, R, M) > 0 to (B, K, R, M)."""
        level = torch.log(magnitude + INPUT_FLOOR)
        rise = level.diff(dim=-1, prepend=level[..., :1])
        x: Tensor = self.first(torch.stack([level, rise.relu(), (-rise).relu()], dim=1))
        for residual in self.residuals:
            x = x + residual(x)
        return x

    def logits(self, envelopes: Tensor, maps: Tensor) -> Tensor:
        """Return the logits that motion adds to those of appearance.

        Args:
            envelopes: predicted envelopes of N sources or places, (B, N, E, LEAD + M + TAIL).
            maps: maps of the mixture, (B, K, R, M).

        Returns:
            (B, N, R, M).
        """
        return synchrony(envelopes, maps, self.filter.weight)


def synchrony(envelopes: Tensor, maps: Tensor, taps: Tensor) -> Tensor:
    """Return the logits of `SynchronyNet.logits`.

    Args:
        envelopes: predicted envelopes of N sources or places, (B, N, E, LEAD + M + TAIL).
        maps: maps of the mixture, (B, K, R, M).
        taps: weight of `SynchronyNet.filter`, (K, E, LEAD + 1 + TAIL).
    """
    weights = F.conv1d(envelopes.flatten(0, 1), taps).unflatten(0, envelopes.shape[:2])
    return torch.einsum("bnkm,bkrm->bnrm", weights, maps)


def padded(envelopes: Tensor) -> Tensor:
    """Return envelopes of a clip, which are zero outside: (..., M) to (..., LEAD + M + TAIL)."""
    return F.pad(envelopes, (LEAD, TAIL))


def pool_envelopes(envelopes: Tensor, pixels: Tensor, frames: int) -> Tensor:
    """Return the envelopes of a source: the mean of those of its cells, by `cell_weights`.

    Args:
        envelopes: envelopes of each cell, (B, E, T, h', w').
        pixels: visual features of the source, (B, T_v, C, h, w).
        frames: M, number of spectrogram frames in the same time.

    Returns:
        (B, E, M).
    """
    weights = cell_weights(attention(pixels).flatten(1))
    cells = on_grid(envelopes, pixels.shape[-2:]).flatten(3)
    pooled = torch.einsum("betp,bp->bet", cells, weights)
    return F.interpolate(pooled, size=frames, mode="linear", align_corners=False)


def attention(pixels: Tensor) -> Tensor:
    """Return how much the vision net attends to each cell: (B, T_v, C, h, w) to (B, h, w)."""
    return pixels.amax(dim=2).mean(dim=1)


def cell_weights(attended: Tensor) -> Tensor:
    """Return the weights of the cells of a source, with a sum of 1.

    Args:
        attended: `attention` of the cells, (..., P).

    Returns:
        (..., P).
    """
    weights = attended.softmax(dim=-1) + MIN_WEIGHT
    return weights / weights.sum(dim=-1, keepdim=True)


def on_grid(envelopes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return envelopes on the grid of the vision net: (B, E, T, h', w') to (B, E, T, h, w)."""
    height, width = shape
    if envelopes.shape[-2:] == (height, width):
        return envelopes
    return F.adaptive_avg_pool3d(envelopes, (envelopes.shape[2], height, width))


def cell_envelopes(envelopes: Tensor, shape: Sequence[int], frames: int) -> Tensor:
    """Return the envelopes of all cells of a clip, stretched as those of its source.

    Args:
        envelopes: envelopes of each cell, (B, E, T, h', w').
        shape: number of cells of the vision net, (h, w).
        frames: M, number of spectrogram frames in the same time.

    Returns:
        (B, E, M, h, w).
    """
    size = (frames, *shape)
    return F.interpolate(on_grid(envelopes, shape), size, mode="trilinear", align_corners=False)


def true_envelopes(sources: Tensor) -> Tensor:
    """Return the loudness and the onsets of sources, which `MotionNet` learns to predict.

    Over a clip, each has a mean of zero. The standard deviation is less than one: typically 0.97
    for loudness and 0.5 for onsets, and near zero for a source at rest or a steady sound.

    Args:
        sources: magnitudes of the true sources, (B, N, R, M), >= 0.

    Returns:
        Log energy, and mean rise of the log magnitude, (B, N, TRUE_ENVELOPES, M).
    """
    # Floors relative to the mixture: noise far below it does not count as a signal.
    power = sources.sum(dim=1).square().mean(dim=(1, 2))[:, None, None] + MIN_POWER
    rows = sources.shape[2]
    loudness = torch.log(sources.square().sum(dim=2) / (rows * power) + LOUDNESS_FLOOR)
    level = torch.log(sources / power.sqrt()[..., None] + MAGNITUDE_FLOOR)
    onsets = level.diff(dim=-1, prepend=level[..., :1]).relu().mean(dim=2)
    both = torch.stack([loudness, onsets], dim=2)
    deviation = both.std(dim=-1, keepdim=True, correction=0)
    return (both - both.mean(dim=-1, keepdim=True)) / (deviation + MIN_DEVIATION)


def _block(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Module:
    """Return a space-time convolution that keeps the number of frames."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU())


def _plane(inputs: int, outputs: int, kernel: tuple[int, int]) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
