"""What a model file says about its training."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from sop.dataset.clips import read_pictures, sound_seconds
from sop.dataset.index import Video
from sop.inference.pictures import (
    Features,
    features_of,
    look,
    mean_of,
    picture_card,
    spread_numbers,
)
from sop.model.card import MAX_CATEGORIES, CategoryCard, DataCard, ModelCard, TrainingCard
from sop.model.pixelplayer import PixelPlayer
from sop.params import Params
from sop.runtime.errors import LeftOut

# Videos whose pictures are described, and the limits for one category: enough for means, and a few
# seconds with the default model.
MAX_PICTURED = 400
MIN_PER_CATEGORY, MAX_PER_CATEGORY = 2, 20

# Features of this many categories are kept.
MAX_NAMED = 1000


def training_card(params: Params, training: Sequence[Video]) -> ModelCard:
    """Return the card of a model: a function of the parameters and the training videos alone.

    Args:
        params: all parameters.
        training: the training videos. A sound that cannot be read counts as a video of no length;
            training reports it.
    """
    seconds: dict[str, list[float]] = {}
    for video in training:
        length = 0.0
        with suppress(LeftOut):
            length = sound_seconds(video.audio)
        seconds.setdefault(video.category, []).append(length)
    categories = {
        name: CategoryCard(videos=len(lengths), hours=_hours(lengths))
        for name, lengths in sorted(seconds.items())[:MAX_CATEGORIES]
    }
    data = DataCard(
        source=params.dataset.source,
        videos=len(training),
        hours=_hours([length for lengths in seconds.values() for length in lengths]),
        categories=categories,
    )
    settings = params.train
    return ModelCard(
        data=data,
        training=TrainingCard(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            loss=settings.loss,
            sources=params.mixture.sources,
        ),
    )


def with_pictures(
    card: ModelCard, player: PixelPlayer, params: Params, training: Sequence[Video]
) -> ModelCard:
    """Add to a card what the pictures of the training videos look like to the model.

    Only `sop separate` reads it, to say that a picture is unlike those of training, and to guess
    what a region looks like. Training never uses it.

    Args:
        card: card of `training_card`.
        player: the model.
        params: all parameters.
        training: the training videos; those whose pictures cannot be read are left out.
    """
    assert card.data is not None
    size, pooling = params.mixture.image_size, params.model.image_pooling
    textures: list[Features] = []
    pooled: dict[str, list[Features]] = {}
    for category, videos in _pictured(training).items():
        for video in videos:
            with suppress(LeftOut):
                numbers = spread_numbers(video.frame_count)
                seen = look(player, read_pictures(video.frames, numbers, size))
                everywhere = np.ones(seen.cells.shape[1:3], bool)
                features = features_of(seen.cells, everywhere, pooling)
                textures.append(seen.texture)
                pooled.setdefault(category, []).append(features)
    pictures = picture_card(textures, pooled)
    categories = dict(card.data.categories)
    for category in (name for name in pooled if pictures is not None and name in categories):
        mean = mean_of(pooled[category])
        categories[category] = categories[category].model_copy(update={"features": mean})
    data = card.data.model_copy(update={"pictures": pictures, "categories": categories})
    return card.model_copy(update={"data": data})


def _pictured(training: Sequence[Video]) -> Mapping[str, Sequence[Video]]:
    """Return the videos whose pictures are described, spread evenly over each category."""
    by_category: dict[str, list[Video]] = {}
    for video in training:
        by_category.setdefault(video.category, []).append(video)
    share = MAX_PICTURED // max(1, len(by_category))
    limit = min(max(share, MIN_PER_CATEGORY), MAX_PER_CATEGORY)
    chosen = {}
    for category, videos in sorted(by_category.items())[:MAX_NAMED]:
        count = min(limit, len(videos))
        chosen[category] = [videos[n * len(videos) // count] for n in range(count)]
    return chosen


def _hours(seconds: Sequence[float]) -> float:
    return round(sum(seconds) / 3600, 4)
