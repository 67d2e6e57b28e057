"""Reasons to doubt a separation, each with what to try.

Shapes: K regions, K + 1 components (the regions and the rest).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sop.inference.localization import Region
from sop.inference.pictures import distance, features_of, guess, look
from sop.inference.recording import Recording
from sop.inference.separator import Separator

Kind = Literal["copies", "large", "rest", "unlike", "drawn"]

# The numbers below were measured on the videos of docs/separate.md: 30 rendered duets, 30 rendered
# solos and 55 real clips, all held out.

# Two regions are copies of one sound if their correlation exceeds this. Regions of two players
# reach 0.58; the regions of duets that are copies have 0.86 to 0.99.
COPY_CORRELATION = 0.8

# A region is large if its box covers this share of the picture. Regions of one player reach 0.36;
# one region for both players of a duet, and those of a model that tells no places apart, have 0.57
# and more.
LARGE_BOX = 0.5

# The rest has most of the energy from this share on. Well separated duets reach 0.55; solos whose
# region misses most of their sound, 0.61 to 1.
MUCH_REST = 0.6

# A picture is unlike those of training if its distance exceeds the typical one by this factor.
# 1 of 60 held-out rendered videos does, and 52 of 55 filmed ones.
UNLIKE = 1.1

# `dataset.source` of rendered videos.
DRAWN = "synthetic"


@dataclass(frozen=True)
class Note:
    """A reason to doubt a separation."""

    kind: Kind
    """What is doubtful: `copies` of one sound, a `large` region, much energy in the `rest`, a
    picture `unlike` those of training, or of a model that knows `drawn` instruments alone."""
    text: str
    """One sentence, with what to try."""
    regions: tuple[int, ...] = ()
    """Numbers of the regions that it is about; empty for the whole video."""


@dataclass(frozen=True)
class Impression:
    """What a video looks like to a model, compared with the videos of its training."""

    distance: float | None
    """Distance to the videos of training, as a multiple of the typical one; None if not known."""
    like: tuple[tuple[str, float] | None, ...]
    """For each region, the category of training that it looks most like, and its probability among
    those; None if not known."""


class Likeness:
    """Inner products of the components of a recording, added up segment by segment."""

    def __init__(self) -> None:
        self.products: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, masks: NDArray[np.float32], power: NDArray[np.float32]) -> None:
        """Add the next segment.

        Args:
            masks: masks of the components, (K + 1, F, M).
            power: energy of the bins, (F, M).
        """
        flat = (masks * np.sqrt(power)).reshape(len(masks), -1)
        products = (flat @ flat.T).astype(np.float64)
        self.products = self.products + products if self.products.size else products

    @property
    def correlations(self) -> NDArray[np.float64]:
        """Correlation of the sounds of each pair of regions, (K, K); 0 with a silent one."""
        energy = np.diag(self.products)
        norms = np.sqrt(np.outer(energy, energy))
        whole = np.divide(self.products, norms, out=np.zeros_like(self.products), where=norms > 0)
        regions: NDArray[np.float64] = whole[:-1, :-1]
        return regions

    @property
    def rest_share(self) -> float:
        """Share of the rest in the energy of all components; 0 for silence."""
        energy = np.diag(self.products)
        total = float(energy.sum())
        return float(energy[-1]) / total if total > 0 else 0.0


def impression_of(
    separator: Separator, recording: Recording, regions: Sequence[Region]
) -> Impression:
    """Look at a recording, if the card of the model says what those of training look like.

    Args:
        separator: the model.
        recording: a recording of any length.
        regions: K regions.

    Raises:
        LeftOut: a picture is damaged.
    """
    data = separator.about.card.data if separator.about is not None else None
    if data is None or data.pictures is None:
        return Impression(None, (None,) * len(regions))
    params = separator.params
    seen = look(separator.player, recording.pictures(params.mixture.image_size))
    pooling = params.model.image_pooling
    like = tuple(guess(features_of(seen.cells, one.cells, pooling), data) for one in regions)
    away = distance(seen.texture, data.pictures)
    typical = data.pictures.typical
    return Impression(away / typical if typical > 0 else None, like)


def notes_of(
    separator: Separator, regions: Sequence[Region], likeness: Likeness, impression: Impression
) -> tuple[Note, ...]:
    """Return the reasons to doubt a separation, the most important first.

    Args:
        separator: the model.
        regions: K regions.
        likeness: that of the components.
        impression: what the video looks like.
    """
    notes = _unlike(separator, impression)
    notes += _copies(likeness.correlations, len(regions))
    notes += [_large(n, region) for n, region in enumerate(regions, 1) if _covers(region)]
    share = likeness.rest_share
    if regions and share >= MUCH_REST:
        notes.append(
            Note(
                "rest",
                f"{share:.0%} of the energy is in the rest, which belongs to no place; name a "
                "place (--at X,Y), or try a model trained on such videos",
            )
        )
    return tuple(notes)


def _unlike(separator: Separator, impression: Impression) -> list[Note]:
    """Note a picture that is unlike those of training."""
    if impression.distance is None or impression.distance <= UNLIKE:
        return []
    data = separator.about.card.data if separator.about is not None else None
    if data is not None and data.source == DRAWN:
        text = (
            "the model knows drawn instruments only, and this picture is not like them "
            f"({impression.distance:.1f} times the usual distance); train on videos like this "
            "one, or try --model published"
        )
        return [Note("drawn", text)]
    text = (
        f"the picture is unlike those of the model's training ({impression.distance:.1f} times "
        "the usual distance); try another model (--model), or train on videos like this one"
    )
    return [Note("unlike", text)]


def _copies(correlations: NDArray[np.float64], regions: int) -> list[Note]:
    """Note each group of regions that are copies of one sound."""
    groups: list[set[int]] = []
    for one, other in np.argwhere(np.triu(correlations > COPY_CORRELATION, 1)).tolist():
        linked = [group for group in groups if group & {one, other}]
        groups = [group for group in groups if group not in linked]
        groups.append(set.union({one, other}, *linked))
    notes = []
    for group in sorted(map(sorted, groups)):
        inside = correlations[np.ix_(group, group)]
        low = min(inside[i, j] for i in range(len(group)) for j in range(i))
        numbers = tuple(n + 1 for n in group)
        fewer = regions - len(group) + 1
        notes.append(
            Note(
                "copies",
                f"{_named(numbers)} sound alike (correlation {low:.2f} or more) and are probably "
                f"one source; mute or play them together, or try --regions {fewer}",
                numbers,
            )
        )
    return notes


def _covers(region: Region) -> bool:
    left, top, right, bottom = region.box
    return (right - left) * (bottom - top) >= LARGE_BOX


def _large(number: int, region: Region) -> Note:
    left, top, right, bottom = region.box
    share = (right - left) * (bottom - top)
    return Note(
        "large",
        f"region {number} extends over {share:.0%} of the picture, so its sources are not told "
        "apart; name a place in it (--at X,Y), or try --regions 2 or more",
        (number,),
    )


def _named(numbers: Sequence[int]) -> str:
    """Return `regions 1, 2 and 3`."""
    *first, last = map(str, numbers)
    return f"regions {', '.join(first)} and {last}"
