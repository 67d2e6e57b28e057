"""What the pictures of a video look like to a model, compared with the videos of its training.

Shapes: T pictures, h x w cells, C channels of the embedding, D numbers for the texture of a video.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.model.card import DataCard, PictureCard
from sop.model.pixelplayer import PixelPlayer, normalize_frames
from sop.model.vision import pool_pixels
from sop.params import Pooling

Features = NDArray[np.float32]

# Pictures of a video that are compared, spread evenly over it.
PICTURES = 4

# Number of layers of the trunk before its first stage: convolution, norm, activation, pooling.
FIRST_LAYERS = 4

# Share of the training videos within the distance that a card calls typical.
TYPICAL = 0.99

# Smallest standard deviation that is used, as a share of the largest one.
MIN_SCALE = 1e-3

# Channels are not independent: divisor of the squared distance of all of them, so that the guesses
# of held-out videos are right about as often as they say.
SOFTENING = 4.0

# No trained weights give larger features.
MAX_FEATURE = 1e9


def spread_numbers(frame_count: int) -> list[int]:
    """Return the numbers, from 1, of the pictures of a video that are compared."""
    return [1 + (2 * n + 1) * frame_count // (2 * PICTURES) for n in range(PICTURES)]


@dataclass(frozen=True)
class Look:
    """What the vision net makes of some pictures of a video."""

    cells: Features
    """Features of the cells of each picture, before `image_activation`, (T, h, w, C)."""
    texture: Features
    """Mean and standard deviation over a picture of the channels of the first layers, (D,)."""


def look(player: PixelPlayer, frames: NDArray[np.uint8]) -> Look:
    """Look at pictures.

    The first layers are compared with those of training, not the last: what sounds alike has like
    features in the last layer, whether it is drawn or filmed.

    Args:
        player: the model; it stays in the mode, of training or evaluation, in which it is.
        frames: (T, H, W, 3) RGB.
    """
    training, vision = player.training, player.vision
    device = next(vision.parameters()).device
    player.eval()
    try:
        with torch.inference_mode():
            first = vision.trunk[:FIRST_LAYERS](
                normalize_frames(torch.from_numpy(frames).to(device))
            )
            second = vision.trunk[FIRST_LAYERS](first)
            cells = vision.head(vision.trunk[FIRST_LAYERS + 1 :](second))
            texture = torch.cat([_moments(first), _moments(second)])
    finally:
        player.train(training)
    return Look(cells.permute(0, 2, 3, 1).float().cpu().numpy(), texture.float().cpu().numpy())


def _moments(maps: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel in a picture, averaged over pictures.

    Args:
        maps: (T, C', H', W').

    Returns:
        (2 C',).
    """
    flat = maps.flatten(2)
    return torch.cat([flat.mean(dim=(0, 2)), flat.std(dim=2, correction=0).mean(dim=0)])


def features_of(cells: Features, where: NDArray[np.bool_], pooling: Pooling) -> Features:
    """Pool the features of a region over all pictures.

    Args:
        cells: features of the cells, (T, h, w, C).
        where: cells of the region, (h, w).
        pooling: pooling of visual features in the model.

    Returns:
        (C,).
    """
    inside = torch.from_numpy(cells[:, where])
    pooled: Features = pool_pixels(inside.mT[None, :, :, :, None], pooling)[0].numpy()
    return pooled


def picture_card(
    textures: Sequence[Features], pooled: Mapping[str, Sequence[Features]]
) -> PictureCard | None:
    """Return what a card says about the pictures of training videos.

    Args:
        textures: texture of each video, (D,).
        pooled: `features_of` the whole picture of each video, by category.

    Returns:
        None without videos, and for weights that no training makes, whose features are not finite.
    """
    if not textures:
        return None
    stacked = np.stack(textures).astype(np.float64)
    if not (np.abs(stacked) < MAX_FEATURE).all():
        return None
    within = [np.stack(own).astype(np.float64).var(axis=0) for own in pooled.values()]
    spread = np.sqrt(np.average(within, axis=0, weights=[len(own) for own in pooled.values()]))
    mean, scale = _rounded(stacked.mean(axis=0)), _rounded(stacked.std(axis=0))
    card = PictureCard(mean=mean, scale=scale, typical=0.0, spread=_rounded(spread))
    distances = [distance(one, card) for one in textures]
    return card.model_copy(update={"typical": _rounded([np.quantile(distances, TYPICAL)])[0]})


def mean_of(pooled: Sequence[Features]) -> tuple[float, ...]:
    """Return the mean of the features of the videos of a category, for a card."""
    return _rounded(np.stack(pooled).astype(np.float64).mean(axis=0))


def distance(texture: Features, card: PictureCard) -> float:
    """Return the distance of the texture of a video to those of training.

    It is the root mean square of the differences from the mean, each in standard deviations: about
    1 for a video like those of training. 0 if the card belongs to another model.
    """
    mean, scale = np.array(card.mean), np.array(card.scale)
    if not mean.shape == scale.shape == texture.shape:
        return 0.0
    # A number that hardly varies in training would make any difference large.
    scale = np.maximum(scale, max(MIN_SCALE * float(scale.max()), 1e-9))
    return float(np.sqrt(np.mean(np.square((texture - mean) / scale))))


def guess(features: Features, data: DataCard) -> tuple[str, float] | None:
    """Return the category of training that a place looks most like, and its probability.

    The features of a category are taken as normally distributed, with the same standard deviation
    for all; every category is as likely as the others before the look. The probability is of this
    category among those of the card, and says nothing about anything else.

    Args:
        features: `features_of` the place, (C,).
        data: the card.

    Returns:
        None if the card has fewer than two categories with features.
    """
    pictures = data.pictures
    known = {
        name: np.array(category.features)
        for name, category in data.categories.items()
        if len(category.features) == len(features)
    }
    if pictures is None or len(known) < 2 or len(pictures.spread) != len(features):
        return None
    spread = np.array(pictures.spread)
    spread = np.maximum(spread, max(MIN_SCALE * float(spread.max()), 1e-9))
    away = np.array([np.square((features - mean) / spread).sum() for mean in known.values()])
    odds = np.exp(-(away - away.min()) / (2 * SOFTENING))
    best = int(odds.argmax())
    return list(known)[best], float(odds[best] / odds.sum())


def _rounded(values: Any) -> tuple[float, ...]:
    """Numbers with six significant digits, so that the card of a model is small."""
    return tuple(float(f"{value:.6g}") for value in values)
