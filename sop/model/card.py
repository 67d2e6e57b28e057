"""The card of a model: what it was trained on, what it reached, and who may use it.

A model file that training writes has a card with facts of the training only, so that equal runs
give equal files. Metrics, date, revision and licence come into the card of an export.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sop.runtime.errors import UserError

# A card of an unknown file may be anything.
MAX_TEXT = 500
MAX_CATEGORIES = 10_000
MAX_METRICS = 100
MAX_FEATURES = 10_000

_Line = Annotated[str, Field(max_length=MAX_TEXT)]
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Number = Annotated[float, Field(ge=-1e12, le=1e12)]
_Features = Annotated[tuple[_Number, ...], Field(max_length=MAX_FEATURES)]


class _Part(BaseModel):
    # Keys that a later version adds are not an error.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class CategoryCard(_Part):
    """Training videos of one category."""

    videos: _Count
    """Number of videos."""
    hours: _Number
    """Length of their sound."""
    features: _Features = ()
    """Mean visual features of their pictures, (C,); empty if not known."""


class PictureCard(_Part):
    """What the pictures of the training videos look like to the vision net.

    D numbers describe the texture of a video: mean and standard deviation of the channels of the
    first layers.
    """

    mean: _Features
    """Mean over the videos, (D,)."""
    scale: _Features
    """Standard deviation over the videos, (D,)."""
    typical: _Number
    """Distance from the mean that 1 % of the training videos exceed."""
    spread: _Features = ()
    """Standard deviation of the features of videos of one category, (C,)."""


class DataCard(_Part):
    """The training videos."""

    source: _Line
    """`dataset.source` of params.yaml."""
    videos: _Count | None = None
    """Number of videos."""
    hours: _Number | None = None
    """Length of their sound."""
    categories: Annotated[
        dict[Annotated[str, Field(max_length=MAX_TEXT)], CategoryCard],
        Field(max_length=MAX_CATEGORIES),
    ] = Field(default_factory=dict)
    """The videos of each category."""
    pictures: PictureCard | None = None
    """What they look like; None if not known."""


class TrainingCard(_Part):
    """Parameters of the training."""

    epochs: _Count
    batch_size: _Count
    seed: _Count
    loss: _Line
    sources: _Count
    """Videos whose sounds were mixed."""


class MetricCard(_Part):
    """One result of a measurement."""

    name: _Line
    value: _Number
    unit: _Line = ""


class ModelCard(_Part):
    """All that a file says about its model; None or empty where it says nothing."""

    title: _Line = ""
    data: DataCard | None = None
    training: TrainingCard | None = None
    metrics: Annotated[tuple[MetricCard, ...], Field(max_length=MAX_METRICS)] = ()
    protocol: _Line = ""
    """How the metrics were measured."""
    date: _Line = ""
    """Day of the export, as 2026-01-31."""
    revision: _Line = ""
    """Commit of the project with which it was exported."""
    licence: _Line = ""
    """Licence of the weights, as model hubs name it, such as mit."""


@dataclass(frozen=True)
class ModelAbout:
    """Identity and card of a model that was loaded from a file."""

    name: str
    """Name by which it was asked for: that of its file, or `published`."""
    sha256: str
    """SHA-256 of its file."""
    card: ModelCard = field(default_factory=ModelCard)


def read_card(values: Any, source: str) -> ModelCard:
    """Return the card in a model file.

    Args:
        values: what the file has as its card; None if it has none.
        source: name of the file, for the error message.

    Raises:
        UserError: it is not a card.
    """
    if values is None:
        return ModelCard()
    try:
        return ModelCard.model_validate(values)
    except (ValidationError, RecursionError) as error:
        where = ""
        if isinstance(error, ValidationError):
            where = f" ({'.'.join(map(str, error.errors()[0]['loc']))})"[:MAX_TEXT]
        raise UserError(
            f"{source}: its card is not valid{where}; restore the file, or get another copy"
        ) from None


def card_values(card: ModelCard) -> Mapping[str, Any]:
    """Return a card as plain values, without what it does not say."""
    return card.model_dump(mode="json", exclude_defaults=True)
