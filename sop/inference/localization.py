"""Localization: which cells of the picture emit sound, and which of them sound alike.

Shapes: P = h x w cells of the picture, W windows, C channels, F x M frequency bins x spectrogram
frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sop.inference.embedding import BLOCK_FRAMES, Embedding
from sop.model.motion import cell_envelopes, cell_weights, padded
from sop.model.pixelplayer import PixelPlayer, Spectra
from sop.model.spectrogram import stft_power, to_linear_frequency
from sop.model.vision import pool_pixels
from sop.params import Pooling
from sop.runtime.device import one_thread
from sop.runtime.errors import UserError

Grid = NDArray[np.float64]
CellIndices = NDArray[np.int64]

# A recording whose samples all stay below this amplitude is silent: -60 dB of full scale.
SILENCE_AMPLITUDE = 1e-3

# Minimum share of all energy under the mask of a cell that emits sound.
MIN_CELL_ENERGY = 0.0001

# Minimum share of all energy in the loudest cell of a patch, and that minimum as a share of the
# loudest cell of the picture.
MIN_PEAK_ENERGY = 0.03
MIN_RELATIVE_PEAK_ENERGY = 0.2

# Patches belong to one region if the correlation of their sounds exceeds the first number and
# their distance, as a share of the picture's height, is at most the others. Players are upright:
# patches above each other are more likely to belong together than patches side by side.
MIN_CORRELATION = 0.3
MAX_VERTICAL_DISTANCE, MAX_HORIZONTAL_DISTANCE = 0.3, 0.1

# A region emits sound if it keeps this share of the energy under its mask where the regions compete
# for each bin by the squares of their masks. Of what a player who rests is given, the others claim
# more. Only a model with motion tells such players apart.
MIN_KEPT_ENERGY = 0.62

MAX_REGIONS = 8


@dataclass(frozen=True)
class Region:
    """A part of the picture whose cells sound alike."""

    cells: NDArray[np.bool_]
    """True for the cells of the region, (h, w)."""
    energy: float
    """Share of the energy of the whole sound under the mask of the region's loudest cell."""
    features: NDArray[np.float32] | None = None
    """Visual features of the region, pooled over the whole recording, (C,); None to pool the
    features of each window separately."""
    weights: NDArray[np.float32] | None = None
    """Weight of each cell in the motion of the region, (h, w), with a sum of 1; None for equal
    weights."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, as shares of the picture's width and height."""
        height, width = self.cells.shape
        rows, columns = (np.flatnonzero(self.cells.any(axis=axis)).tolist() for axis in (1, 0))
        left, top = columns[0] / width, rows[0] / height
        return left, top, (columns[-1] + 1) / width, (rows[-1] + 1) / height


@dataclass(frozen=True)
class Localization:
    """The parts of a picture that emit the sound of a recording."""

    energy: Grid
    """Share of the energy of the sound under the mask of each cell, (h, w)."""
    colours: NDArray[np.uint8]
    """Sounds of the cells as colours, (h, w, 3): the first three principal components as red, green
    and blue. Source: Zhao et al., The Sound of Pixels, ECCV 2018 (clustering of sounds in space).
    """
    regions: tuple[Region, ...]
    """Regions that emit sound, the loudest first."""


class Localizer:
    """Compares the sounds of all cells of a recording of any length, segment by segment.

    Between segments it keeps the inner products of the cells' magnitude spectrograms, (P, P), and
    the visual features of the cells. Energies are the diagonal of the products; correlations and
    principal components follow from them.

    Args:
        pooling: pooling of visual features in the model.
    """

    def __init__(self, pooling: Pooling = "maxpool") -> None:
        self._features = _PooledFeatures(pooling)
        self._products: Any = 0.0
        self._energy = 0.0
        self._shape = (0, 0)
        self._peak = 0.0

    def update(self, embedding: Embedding, power: NDArray[np.float32] | None = None) -> None:
        """Add the next segment.

        Args:
            embedding: embedding of the segment.
            power: energy of its bins, (F, M); None computes it from the segment alone, which is
                too low at the edges of a segment of a longer recording.
        """
        height, width = embedding.cells.shape[1:3]
        cells = embedding.cells.reshape(len(embedding.cells), height * width, -1)
        if power is None:
            power = stft_power(embedding.audio, embedding.spectrogram)
        self._features.update(cells, embedding.crossfade.sum(axis=1))
        self._shape = (height, width)
        self._peak = max(self._peak, float(np.abs(embedding.audio).max(initial=0)))
        self._energy += float(power.sum(dtype=np.float64))
        for first in range(0, power.shape[1], BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            sounds = embedding.cell_masks(block)
            sounds *= np.sqrt(power[:, block])
            flat = torch.from_numpy(sounds.reshape(len(sounds), -1))
            with one_thread():
                self._products = self._products + (flat @ flat.T).double().numpy()

    def localize(self, regions: int | None = None) -> Localization:
        """Find the regions of the segments so far.

        Args:
            regions: number of regions; None determines it from the sound.

        Returns:
            At most `MAX_REGIONS` regions; fewer than `regions` if fewer are loud enough.

        Raises:
            UserError: regions are requested but the sound is silent.
        """
        products, shape = self._products, self._shape
        if self._peak < SILENCE_AMPLITUDE or self._energy <= 0:
            if regions:
                raise UserError(f"--regions {regions}: the sound is silent; use --regions auto")
            return Localization(np.zeros(shape), np.zeros((*shape, 3), np.uint8), ())
        energy = np.diag(products) / self._energy
        grid = energy.reshape(shape)
        found = []
        for group in _groups(_patches(grid), products, shape, regions):
            cells = np.zeros(shape, bool)
            cells.flat[group] = True
            weights = np.zeros(shape, np.float32)
            weights.flat[group] = self._features.weights(group)
            features = self._features.pool(group)
            found.append(Region(cells, float(energy[group].max()), features, weights))
        found.sort(key=lambda region: -region.energy)
        return Localization(grid, _colours(products, energy, shape), tuple(found[:MAX_REGIONS]))


class Competition:
    """How much of the energy under its mask each region keeps, segment by segment.

    In each bin, the regions compete by the squares of their masks: a region keeps the share of its
    square in the sum of all squares. The result does not depend on how loud a region is, but on
    whether others claim the same bins more.

    Args:
        regions: the regions.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = tuple(regions)
        self._kept = np.zeros(len(regions))
        self._claimed = np.zeros(len(regions))

    def update(self, masks: NDArray[np.float32], power: NDArray[np.float32]) -> None:
        """Add the next segment.

        Args:
            masks: masks of the regions, each by itself, (K, F, M), >= 0.
            power: energy of the bins, (F, M).
        """
        squares = np.square(masks)
        claimed = squares * power
        shares = squares / np.maximum(squares.sum(axis=0), 1e-12)
        self._kept += (shares * claimed).sum(axis=(1, 2), dtype=np.float64)
        self._claimed += claimed.sum(axis=(1, 2), dtype=np.float64)

    def winners(self) -> tuple[Region, ...]:
        """Return the regions that keep enough, and the one that keeps the largest share."""
        kept = self._kept / np.maximum(self._claimed, 1e-12)
        enough = kept >= min(MIN_KEPT_ENERGY, kept.max())
        return tuple(region for region, stays in zip(self._regions, enough, strict=True) if stays)


class _PooledFeatures:
    """Visual features of cells, pooled over the windows of a recording, window by window."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._join = np.maximum if pooling == "maxpool" else np.add
        self._total: Any = -np.inf if pooling == "maxpool" else 0.0
        self._weight: Any = 0.0
        self._attention: Any = 0.0
        self._share = 0.0

    def update(self, cells: NDArray[np.float32], share: NDArray[np.float32]) -> None:
        """Add windows, (W, P, C), with the share of the recording that each covers, (W,)."""
        features = cells.astype(np.float64)
        weight = np.broadcast_to(share[:, None].astype(np.float64), features.shape[:2])
        self._attention = self._attention + share @ features.max(axis=2)
        self._share += float(share.sum())
        if self._pooling == "attention":
            # Limited so that the exponential is finite; no network output is that large.
            weight = weight * np.exp(np.minimum(features.max(axis=2), 500.0))
        if self._pooling != "maxpool":
            features = weight[..., None] * features
        self._weight = self._weight + weight.sum(axis=0)
        self._total = self._join(self._total, self._join.reduce(features, axis=0))

    def pool(self, cells: CellIndices) -> NDArray[np.float32]:
        """Return the features of a group of cells, (C,)."""
        pooled = self._join.reduce(self._total[cells], axis=0)
        if self._pooling != "maxpool":
            pooled = pooled / self._weight[cells].sum()
        features: NDArray[np.float32] = pooled.astype(np.float32)
        return features

    def weights(self, cells: CellIndices) -> NDArray[np.float32]:
        """Return the weight of each of a group of cells in their motion; the sum is 1."""
        attended = torch.from_numpy(self._attention[cells] / self._share)
        weights: NDArray[np.float32] = cell_weights(attended).float().numpy()
        return weights


def pool_region(
    cells: NDArray[np.float32], where: NDArray[np.bool_], pooling: Pooling
) -> NDArray[np.float32]:
    """Pool the features of a region in each window as the networks pool those of a clip.

    Args:
        cells: features of all cells, (W, h, w, C).
        where: cells of the region, (h, w).
        pooling: pooling of visual features in the model.

    Returns:
        (W, C).
    """
    inside = torch.from_numpy(cells[:, where])
    pooled: NDArray[np.float32] = pool_pixels(inside.mT[:, None, :, :, None], pooling).numpy()
    return pooled


def regions_at(places: Sequence[tuple[float, float]], shape: tuple[int, int]) -> list[Region]:
    """Return regions of one cell each.

    Args:
        places: x and y of each region, as shares of the picture's width and height.
        shape: number of cells, (h, w).
    """
    height, width = shape
    regions = []
    for x, y in places:
        cells = np.zeros(shape, bool)
        cells[min(int(y * height), height - 1), min(int(x * width), width - 1)] = True
        regions.append(Region(cells, float("nan")))
    return regions


def pixel_energy(
    player: PixelPlayer, spectra: Spectra, frames: Tensor, motion: Tensor | None = None
) -> Tensor:
    """Return the energy of the mixture under the mask of each pixel.

    Args:
        player: the model, in evaluation mode.
        spectra: spectrograms of B mixtures.
        frames: ImageNet-normalised, (B, T, 3, H, W): the same number for each mixture.
        motion: motion around each frame in the time of the mixture, uint8, (B, T, T_m, H_m, W_m);
            required by a model with motion, and ignored by others.

    Returns:
        (B, T, h, w), the sum of squared masked magnitudes on the linear frequency axis.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (sound of pixels, visualised energy).
    """
    sound = player.sound_features(spectra.magnitude)
    power = spectra.mixture.abs().square()
    energies = []
    # One frame at a time to bound memory: the masks of its pixels are h x w spectrograms.
    for number, features in enumerate(player.pixel_features(frames).unbind(1)):
        logits = player.synthesizer.pixelwise(features, sound).flatten(1, 2)
        if player.motion is not None and player.synchrony is not None:
            assert motion is not None, "a model with motion needs motion frames"
            moving = player.motion(motion[:, number])
            cells = cell_envelopes(moving, features.shape[-2:], sound.shape[-1])
            envelopes = cells.flatten(3).permute(0, 3, 1, 2)
            maps = player.synchrony(spectra.magnitude)
            logits = logits + player.synchrony.logits(padded(envelopes), maps)
        masks = player.masks(logits)
        if player.spectrogram.log_frequency:
            masks = to_linear_frequency(masks, power.shape[-2])
        energy = (masks.square() * power[:, None]).sum(dim=(-2, -1))
        energies.append(energy.unflatten(1, tuple(features.shape[-2:])))
    return torch.stack(energies, dim=1)


def _patches(energy: Grid) -> list[CellIndices]:
    """Return the loud connected patches of cells that emit sound, by flat indices."""
    labels, count = ndimage.label(energy >= MIN_CELL_ENERGY, np.ones((3, 3)))
    minimum = max(MIN_PEAK_ENERGY, MIN_RELATIVE_PEAK_ENERGY * float(energy.max()))
    patches = [np.flatnonzero(labels == label) for label in range(1, count + 1)]
    return [patch for patch in patches if energy.flat[patch].max() >= minimum]


def _groups(
    patches: list[CellIndices], products: Grid, shape: tuple[int, int], count: int | None
) -> list[CellIndices]:
    """Merge the most correlated pair of patches until `count` groups are left.

    Without `count`, merge as long as two groups are close and correlated. Clustering by sound
    alone (k-means) fails: cells of one player let different parts of its sound through, and
    players in one picture often have parts in common.
    """
    groups = list(patches)
    while len(groups) > (count or 1):
        inner = np.array([[products[np.ix_(a, b)].sum() for b in groups] for a in groups])
        norms = np.sqrt(np.diag(inner))
        correlation = inner / np.outer(norms, norms)
        merges = [
            (correlation[i, j], i, j)
            for i, j in combinations(range(len(groups)), 2)
            if count is not None
            or (correlation[i, j] > MIN_CORRELATION and _are_close(groups[i], groups[j], shape))
        ]
        if not merges:
            break
        _, one, other = max(merges)
        groups[one] = np.concatenate([groups[one], groups.pop(other)])
    return groups


def _are_close(one: CellIndices, other: CellIndices, shape: tuple[int, int]) -> bool:
    height, width = shape
    rows = np.abs(one[:, None] // width - other // width)
    columns = np.abs(one[:, None] % width - other % width)
    is_above = rows <= max(1, MAX_VERTICAL_DISTANCE * height)
    is_beside = columns <= max(1, MAX_HORIZONTAL_DISTANCE * height)
    return bool((is_above & is_beside).any())


def _colours(products: Grid, energy: Grid, shape: tuple[int, int]) -> NDArray[np.uint8]:
    mean = products.mean(axis=0)
    centred = products - mean - mean[:, None] + mean.mean()
    values, vectors = np.linalg.eigh(centred)
    components = vectors[:, :-4:-1] * np.sqrt(np.maximum(values[:-4:-1], 0))
    # The sign of a component is arbitrary; choose it so that louder cells are brighter.
    components = components * np.where(energy @ components < 0, -1, 1)
    low, high = components.min(axis=0), components.max(axis=0)
    colours = 255 * (components - low) / np.maximum(high - low, 1e-12)
    grid: NDArray[np.uint8] = colours.round().astype(np.uint8).reshape(*shape, -1)
    return grid
