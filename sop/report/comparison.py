"""Test whether the results of one revision are better than another's or differ by chance.

Two evaluations are compared mixture by mixture, on those that both separated. Mixtures differ far
more in difficulty than models do in quality; pairing removes the difficulty from the difference.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sop.denoise.bootstrap import Interval, mean_interval
from sop.evaluate.measures import MEASURES
from sop.report.param_changes import ParamChange, changes_between
from sop.report.revisions import Revision, find_revision, how_to_repair, read_text
from sop.runtime.errors import UserError

MIXTURES_PATH = Path("metrics/evaluate/mixtures.csv")

COMPARED = tuple(name for name in MEASURES if name != "sdr_mixture")
"""Measures that depend on the model."""
DECIDING = "sdr"
"""Measure that decides the verdict."""

BETTER = "better"
WORSE = "worse"
SAME = "the same"
UNDECIDED = "no significant difference"

MIN_MIXTURES = 6
"""Fewest mixtures for a verdict: 5 all favour the same one of two equals in 6 % of cases."""

MIXTURE_PARAMS = ("seed", "dataset", "extract", "index", "mixture", "evaluate.mixtures")
"""Parameters that decide which mixtures are evaluated and what they contain."""

DECIMALS = 9
"""Rounding of differences, in digits: values of four decimals have no exact binary sums."""

SAME_AUDIO_DB = 0.05
"""Largest difference of `sdr_mixture` between mixtures that are equal but for rounding, in dB."""


@dataclass(frozen=True)
class Difference:
    """Difference of one measure between A and B, over the means of each mixture's sources."""

    mixtures: int
    """Number of mixtures in which both have a value."""
    a: float
    """Mean of A in dB."""
    b: float
    """Mean of B in dB."""
    difference: Interval
    """Mean of B - A in dB with its 95 % interval."""
    better: float
    """Fraction of the mixtures in which B is better, 0 to 1."""

    @property
    def verdict(self) -> str:
        """Verdict on B: `BETTER`, `WORSE`, `SAME` or `UNDECIDED`."""
        if self.difference == (0, 0, 0):
            return SAME
        if self.mixtures >= MIN_MIXTURES:
            if self.difference.low > 0:
                return BETTER
            if self.difference.high < 0:
                return WORSE
        return UNDECIDED

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        difference = self.difference._asdict()
        return {**asdict(self), "difference": difference, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """Whether B is better than A."""

    a: Revision
    b: Revision
    paired: int
    """Number of mixtures of the same videos in both."""
    mixtures: tuple[int, int]
    """Number of mixtures in A and in B."""
    measures: dict[str, Difference]
    """Difference of each measure; measures without a pair of values are left out."""
    category: dict[str, Difference]
    """Difference of `DECIDING` in each category."""
    params: list[ParamChange] | None
    """Parameters that differ; None if they could not be read."""
    notes: list[str]
    """Reservations, one sentence each."""

    @property
    def verdict(self) -> str:
        """Verdict on B by `DECIDING`: `BETTER`, `WORSE`, `SAME` or `UNDECIDED`."""
        return self.measures[DECIDING].verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; every number is finite."""
        return {
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "verdict": self.verdict,
            "mixtures": {"paired": self.paired, "a": self.mixtures[0], "b": self.mixtures[1]},
            "measures": {name: value.as_dict() for name, value in self.measures.items()},
            "category": {name: value.as_dict() for name, value in self.category.items()},
            "params": None if self.params is None else [p.as_dict() for p in self.params],
            "notes": self.notes,
        }


def compare(a: str, b: str, folder: Path, seed: int) -> Comparison:
    """Compare the measures of two revisions on the mixtures that both evaluated.

    Args:
        a: any git revision, the name of a DVC experiment, or `workspace`.
        b: the same.
        folder: the project's, inside a git repository.
        seed: seed of the bootstrap that gives the intervals.

    Raises:
        UserError: a revision is unknown, its measures are missing or damaged, or no mixture is in
            both.
    """
    revisions = (find_revision(a, folder), find_revision(b, folder))
    first, second = (_scores(revision, folder) for revision in revisions)
    notes = []
    params: list[ParamChange] | None
    try:
        params = changes_between(*revisions, folder)
    except UserError as error:
        params = None
        notes.append(f"the parameters cannot be compared: {error}")
    pairs = _pair(first, second)
    if not pairs:
        raise UserError(_nothing_in_common(revisions, (len(first), len(second)), params))

    measures = {}
    for name in COMPARED:
        difference = _difference(pairs, name, seed)
        if difference is not None:
            measures[name] = difference
    if DECIDING not in measures:
        raise UserError(
            f"{a} and {b}: no mixture has {DECIDING} in both; `dvc repro --force evaluate` "
            "measures again"
        )
    notes += _missing_values(pairs)
    notes += _different_audio(pairs)
    if params and all(difference.verdict == SAME for difference in measures.values()):
        notes.append("parameters differ but no result does: has `dvc repro` run since?")
    return Comparison(
        a=revisions[0],
        b=revisions[1],
        paired=len(pairs),
        mixtures=(len(first), len(second)),
        measures=measures,
        category=dict(_by_category(pairs, seed)),
        params=params,
        notes=notes,
    )


class _Row(NamedTuple):
    """One source of one mixture."""

    video: str
    category: str
    values: dict[str, float]
    """Value of each measure in dB; NaN where there is none."""


class _Pair(NamedTuple):
    """The same source of the same mixture in A and B."""

    a: _Row
    b: _Row

    def values(self, name: str) -> tuple[float, float] | None:
        """Return the two values of a measure; None unless both are finite."""
        values = self.a.values[name], self.b.values[name]
        return values if all(map(math.isfinite, values)) else None


_Scores = dict[int, dict[int, _Row]]
"""Rows by mixture and source."""

_Pairs = list[list[_Pair]]
"""Pairs of sources, for each mixture that both have."""


def _scores(revision: Revision, folder: Path) -> _Scores:
    """Read the measures of every mixture of a revision.

    Raises:
        UserError: there is none, or the file is missing or damaged.
    """
    text = read_text(revision, MIXTURES_PATH, folder, stage="evaluate")
    place = revision.place(MIXTURES_PATH, folder)
    scores: _Scores = defaultdict(dict)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        needed = {"mixture", "source", "category", "video", DECIDING}
        if lacking := needed - set(reader.fieldnames or ()):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"line {reader.line_num} has more or fewer cells than the header")
            try:
                mixture, source = int(cells["mixture"]), int(cells["source"])
                values = {name: _value(cells.get(name, "")) for name in MEASURES}
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from None
            if source in scores[mixture]:
                raise ValueError(f"line {reader.line_num} repeats a source of mixture {mixture}")
            scores[mixture][source] = _Row(cells["video"], cells["category"], values)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{place}: damaged, {error}; {how_to_repair(revision, 'evaluate')}"
        ) from None
    if not scores:
        raise UserError(
            f"{place}: no mixture was measured; its metrics/details/evaluate.json has the reasons"
        )
    return dict(scores)


def _value(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _pair(a: _Scores, b: _Scores) -> _Pairs:
    """Pair the mixtures of the same number whose sources are the same videos, in their order."""
    pairs = []
    for number in sorted(a.keys() & b.keys()):
        first, second = a[number], b[number]
        if _videos(first) == _videos(second):
            pairs.append([_Pair(first[source], second[source]) for source in sorted(first)])
    return pairs


def _videos(mixture: Mapping[int, _Row]) -> dict[int, str]:
    return {source: row.video for source, row in mixture.items()}


def _difference(
    pairs: _Pairs, name: str, seed: int, category: str | None = None
) -> Difference | None:
    """Compute the difference of a measure, in one category or all; None without any values.

    The sources of a mixture are not independent, so their mean counts as one sample.
    """
    means = []
    for mixture in pairs:
        of_category = [p for p in mixture if category is None or p.b.category == category]
        values = [both for pair in of_category if (both := pair.values(name))]
        if values:
            means.append(np.mean(values, axis=0))
    if not means:
        return None
    a, b = np.transpose(means)
    differences = np.round(b - a, DECIMALS)
    return Difference(
        mixtures=len(means),
        a=float(a.mean()),
        b=float(b.mean()),
        difference=mean_interval(differences, seed),
        better=float(np.mean(differences > 0)),
    )


def _by_category(pairs: _Pairs, seed: int) -> Iterator[tuple[str, Difference]]:
    for category in sorted({pair.b.category for mixture in pairs for pair in mixture}):
        difference = _difference(pairs, DECIDING, seed, category)
        if difference is not None:
            yield category, difference


def _missing_values(pairs: _Pairs) -> Iterator[str]:
    rows = [pair for mixture in pairs for pair in mixture]
    for name in COMPARED:
        missing = sum(pair.values(name) is None for pair in rows)
        if missing == len(rows):
            yield f"{name} is left out: no source has a value in both"
        elif missing:
            yield (
                f"{name} of {missing} of {len(rows)} sources is left out: missing or not finite "
                "in A or B"
            )


def _different_audio(pairs: _Pairs) -> Iterator[str]:
    """Compare the SDR of the mixtures themselves, which depends on the audio alone."""
    name = "sdr_mixture"
    gaps = [
        max((abs(both[1] - both[0]) for pair in mixture if (both := pair.values(name))), default=0)
        for mixture in pairs
    ]
    different = sum(gap > SAME_AUDIO_DB for gap in gaps)
    if different:
        yield (
            f"{different} of {len(pairs)} mixtures have the same videos but different audio "
            f"({name} differs by up to {max(gaps):.2f} dB, as after a change of the clip length or "
            "sample rate): one side may have easier mixtures"
        )


def _nothing_in_common(
    revisions: tuple[Revision, Revision],
    counts: tuple[int, int],
    params: Sequence[ParamChange] | None,
) -> str:
    a, b = revisions
    decisive = [
        change.as_text()
        for change in params or ()
        if any(change.key == key or change.key.startswith(f"{key}.") for key in MIXTURE_PARAMS)
    ]
    more = f" and {len(decisive) - 3} more" if len(decisive) > 3 else ""
    why = f" ({'; '.join(decisive[:3])}{more})" if decisive else ""
    return (
        f"{a} and {b}: different mixtures were evaluated, none of {counts[0]} and {counts[1]} is "
        "of the same videos; compare revisions with the same data, seed, mixture and "
        f"evaluate.mixtures{why}"
    )
