"""Localization: which pixels sound, and which of them sound alike.

Shapes: P = h x w cells of the picture, F x M frequency bins x spectrogram frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sop.inference.embedding import BLOCK_FRAMES, Embedding
from sop.model.pixelplayer import PixelPlayer, Spectra
from sop.model.spectrogram import stft_power, to_linear_frequency
from sop.model.vision import Pooling, pool_pixels
from sop.runtime.device import one_thread
from sop.runtime.errors import UserError

Grid = NDArray[np.float64]
Cells = NDArray[np.int64]

# A sound whose samples stay below this is silent: -60 dB of full scale.
SILENCE = 1e-3

# A cell sounds if its mask lets through at least this share of all energy.
SOUNDING = 0.0001

# A patch of sounding cells counts if its loudest cell reaches this share of all energy, and this
# share of what the loudest cell of all reaches.
LOUD = 0.03
LOUD_BESIDE_OTHERS = 0.2

# Patches are parts of one thing if their sounds correlate by over this, and no more lies between
# them than these shares of the picture's height. Who plays is upright: what is above another
# belongs to it sooner than what is beside it.
ALIKE = 0.3
NEAR_DOWN, NEAR_ACROSS = 0.3, 0.1

MOST_REGIONS = 8


@dataclass(frozen=True)
class Region:
    """Cells that sound alike."""

    cells: NDArray[np.bool_]
    """Which they are, (h, w)."""
    energy: float
    """Share of the energy of the whole sound that its loudest cell lets through."""
    features: NDArray[np.float32] | None = None
    """What is seen there, pooled over the whole recording, (C,); None pools each window alone."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, as shares of the picture's width and height."""
        (top, bottom), (left, right) = (
            (int(where[0]), int(where[-1]) + 1)
            for where in (np.flatnonzero(self.cells.any(axis=axis)) for axis in (1, 0))
        )
        height, width = self.cells.shape
        return left / width, top / height, right / width, bottom / height


@dataclass(frozen=True)
class Localization:
    """Where a recording sounds."""

    energy: Grid
    """Share of the energy of the sound that the mask of each cell lets through, (h, w)."""
    colours: NDArray[np.uint8]
    """The cells' sounds as colours: three principal components as red, green and blue, (h, w, 3).
    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (clustering of sounds in space)."""
    regions: tuple[Region, ...]
    """The loudest first."""


class Listener:
    """Compares the sounds of all cells of a recording, however long it is.

    What it keeps are the inner products of the cells' magnitude spectrograms, (P, P): energies lie
    on the diagonal, and likeness and principal components need no more. And what is seen at each
    cell, which tells longer than a window what plays there.

    Args:
        pooling: of the model.
    """

    def __init__(self, pooling: Pooling = "maxpool") -> None:
        self._seen = _Seen(pooling)
        self._products: Grid | None = None
        self._energy = 0.0
        self._shape = (0, 0)
        self._loudest = 0.0

    def hear(self, embedding: Embedding, power: NDArray[np.float32] | None = None) -> None:
        """Add the next stretch.

        Args:
            embedding: of the stretch.
            power: energy of its bins, (F, M); None takes that of its sound alone, which fades where
                a longer recording was cut.
        """
        height, width = embedding.cells.shape[1:3]
        cells = embedding.cells.reshape(len(embedding.cells), height * width, -1)
        if power is None:
            power = stft_power(embedding.audio, embedding.spectrogram)
        self._seen.add(cells, embedding.fades.sum(axis=1))
        self._shape = (height, width)
        self._loudest = max(self._loudest, float(np.abs(embedding.audio).max(initial=0)))
        self._energy += float(power.sum(dtype=np.float64))
        for first in range(0, power.shape[1], BLOCK_FRAMES):
            block = slice(first, first + BLOCK_FRAMES)
            sounds = embedding.masks(cells, block)
            sounds *= np.sqrt(power[:, block])
            flat = torch.from_numpy(sounds.reshape(len(sounds), -1))
            with one_thread():
                products = (flat @ flat.T).double().numpy()
            self._products = products if self._products is None else self._products + products

    def localize(self, regions: int | None = None) -> Localization:
        """What was heard.

        Args:
            regions: how many there are; None finds out.

        Raises:
            UserError: there are fewer sounding cells than regions asked for.
        """
        products = self._products
        if products is None or self._loudest < SILENCE or self._energy <= 0:
            if regions:
                raise UserError(f"--regions {regions}: the sound is silent, there are none")
            shape = self._shape
            return Localization(np.zeros(shape), np.zeros((*shape, 3), np.uint8), ())
        energy = np.diag(products) / self._energy
        patches = _patches(energy.reshape(self._shape))
        groups = _groups(patches, products, self._shape, regions)
        found = []
        for group in groups:
            cells = np.zeros(self._shape, bool)
            cells.flat[group] = True
            found.append(Region(cells, float(energy[group].max()), self._seen.at(group)))
        found.sort(key=lambda region: -region.energy)
        return Localization(
            energy.reshape(self._shape),
            _colours(products, energy, self._shape),
            tuple(found[:MOST_REGIONS]),
        )


class _Seen:
    """Features of cells, pooled over windows as they come."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._total: Grid = np.zeros(0)
        self._weight: Grid = np.zeros(0)

    def add(self, cells: NDArray[np.float32], share: NDArray[np.float32]) -> None:
        """Add windows, (W, P, C), each with its share of the recording, (W,)."""
        features = cells.astype(np.float64)
        weight = np.broadcast_to(share[:, None].astype(np.float64), features.shape[:2])
        if self._pooling == "attention":
            # Nothing that a network makes is so large that its exponential would not be finite.
            weight = weight * np.exp(np.minimum(features.max(axis=2), 500.0))
        total = (
            features.max(axis=0)
            if self._pooling == "maxpool"
            else (weight[..., None] * features).sum(axis=0)
        )
        if not self._weight.size:
            self._total, self._weight = total, weight.sum(axis=0)
            return
        self._weight = self._weight + weight.sum(axis=0)
        join = np.maximum if self._pooling == "maxpool" else np.add
        self._total = join(self._total, total)

    def at(self, cells: Cells) -> NDArray[np.float32]:
        """Pooled over a group of cells too, (C,)."""
        if self._pooling == "maxpool":
            pooled = self._total[cells].max(axis=0)
        else:
            pooled = self._total[cells].sum(axis=0) / self._weight[cells].sum()
        features: NDArray[np.float32] = pooled.astype(np.float32)
        return features


def _patches(energy: Grid) -> list[Cells]:
    """Connected sounding cells, as far as they are loud, each by their flat indices."""
    labels, count = ndimage.label(energy >= SOUNDING, np.ones((3, 3)))
    loudest = max(LOUD, LOUD_BESIDE_OTHERS * float(energy.max()))
    patches = [np.flatnonzero(labels == label) for label in range(1, count + 1)]
    return [patch for patch in patches if energy.flat[patch].max() >= loudest]


def _groups(
    patches: list[Cells], products: Grid, shape: tuple[int, int], count: int | None
) -> list[Cells]:
    """Join patches, the most alike first, while two are near and alike, or are more than `count`.

    The cells of one player let through different parts of its sound, and players in one picture
    often share parts of theirs: by sound alone, k-means takes the one apart and joins the other.
    """
    groups = list(patches)
    while len(groups) > 1:
        inner = np.array([[products[np.ix_(a, b)].sum() for b in groups] for a in groups])
        norms = np.sqrt(np.diag(inner))
        likeness = inner / np.outer(norms, norms)
        joins = [
            (likeness[i, j], i, j)
            for i, j in combinations(range(len(groups)), 2)
            if likeness[i, j] > ALIKE and _are_near(groups[i], groups[j], shape)
        ]
        if count is not None:
            pairs = combinations(range(len(groups)), 2)
            joins = [(likeness[i, j], i, j) for i, j in pairs] if len(groups) > count else []
        if not joins:
            break
        _, one, other = max(joins)
        groups[one] = np.concatenate([groups[one], groups.pop(other)])
    return groups


def _are_near(one: Cells, other: Cells, shape: tuple[int, int]) -> bool:
    height, width = shape
    down = np.abs(one[:, None] // width - other // width)
    across = np.abs(one[:, None] % width - other % width)
    near = (down <= max(1, NEAR_DOWN * height)) & (across <= max(1, NEAR_ACROSS * height))
    return bool(near.any())


def _colours(products: Grid, energy: Grid, shape: tuple[int, int]) -> NDArray[np.uint8]:
    mean = products.mean(axis=0)
    centred = products - mean - mean[:, None] + mean.mean()
    values, vectors = np.linalg.eigh(centred)
    components = vectors[:, :-4:-1] * np.sqrt(np.maximum(values[:-4:-1], 0))
    # The sign of a component means nothing; the louder half of the cells is its bright end.
    components = components * np.where(energy @ components < 0, -1, 1)
    low, high = components.min(axis=0), components.max(axis=0)
    colours = 255 * (components - low) / np.maximum(high - low, 1e-12)
    grid: NDArray[np.uint8] = colours.round().astype(np.uint8).reshape(*shape, -1)
    return grid


def pool(
    cells: NDArray[np.float32], where: NDArray[np.bool_], pooling: Pooling
) -> NDArray[np.float32]:
    """Features of a region as the networks pool those of a clip.

    Args:
        cells: features, (W, h, w, C).
        where: the region, (h, w).
        pooling: of the model.

    Returns:
        (W, C).
    """
    inside = torch.from_numpy(cells[:, where])
    pooled: NDArray[np.float32] = pool_pixels(inside.mT[:, None, :, :, None], pooling).numpy()
    return pooled


def regions_of(places: Sequence[tuple[float, float]], shape: tuple[int, int]) -> list[Region]:
    """Regions of one cell each, at places given as shares of the picture's width and height."""
    height, width = shape
    regions = []
    for x, y in places:
        cells = np.zeros(shape, bool)
        cells[min(int(y * height), height - 1), min(int(x * width), width - 1)] = True
        regions.append(Region(cells, float("nan")))
    return regions


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
