"""What a model file says about its training."""

from collections.abc import Sequence
from contextlib import suppress

from sop.dataset.clips import sound_seconds
from sop.dataset.index import Video
from sop.model.card import MAX_CATEGORIES, CategoryCard, DataCard, ModelCard, TrainingCard
from sop.params import Params
from sop.runtime.errors import LeftOut


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


def _hours(seconds: Sequence[float]) -> float:
    return round(sum(seconds) / 3600, 4)
