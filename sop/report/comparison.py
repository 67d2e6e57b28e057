"""Test whether the results of one revision are better than another's or differ by chance.

Two evaluations are compared mixture by mixture, on those that both separated. Mixtures differ far
more in difficulty than models do in quality; pairing removes the difficulty from the difference.
What is left is common to the mixtures of a video, which the intervals take into account.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sop.evaluate.intervals import Interval, independent_mixtures, mean_interval
from sop.evaluate.measures import MEASURES
from sop.report.param_changes import ParamChange, changed_params
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

MIXTURE_PARAMS = (
    "dataset.",
    "extract.",
    "index.",
    "mixture.",
    "evaluate.mixtures.",
    "evaluate.seed.",
)
"""Parameters and sections that decide which mixtures are evaluated, and what they contain."""

SILENT = "silent"
"""Column that says which estimates are silent; results of older revisions lack it."""

DECIMALS = 9
"""Rounding of differences, in digits: values of four decimals have no exact binary sums."""

SAME_AUDIO_DB = 0.05
"""Largest difference of `sdr_mixture` between mixtures that are equal but for rounding, in dB."""


@dataclass(frozen=True)
class Difference:
    """Difference of one measure between A and B, over the means of each mixture's sources."""

    mixtures: int
    """Number of mixtures in which both have a value."""
    independent: int
    """Number of these mixtures of which no two have a video in common."""
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
        return verdict_of(self.difference)

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
    silent_estimates: tuple[int | None, int | None]
    """Number of silent estimates in the paired mixtures of A and of B; None if it is unknown."""
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
            "a": asdict(self.a),
            "b": asdict(self.b),
            "verdict": self.verdict,
            "mixtures": {"paired": self.paired, "a": self.mixtures[0], "b": self.mixtures[1]},
            "measures": {name: value.as_dict() for name, value in self.measures.items()},
            "silent_estimates": dict(zip("ab", self.silent_estimates, strict=True)),
            "category": {name: value.as_dict() for name, value in self.category.items()},
            "params": None if self.params is None else [p.as_dict() for p in self.params],
            "notes": self.notes,
        }


def verdict_of(difference: Interval) -> str:
    """Return the verdict on what is better by a difference: better, worse, the same, undecided."""
    if difference == (0, 0, 0):
        return SAME
    if difference.low is not None and difference.low > 0:
        return BETTER
    if difference.high is not None and difference.high < 0:
        return WORSE
    return UNDECIDED


def compare(a: str, b: str, folder: Path) -> Comparison:
    """Compare the measures of two revisions on the mixtures that both evaluated.

    Args:
        a: any git revision, the name of a DVC experiment, or `workspace`.
        b: the same.
        folder: the project's, inside a git repository.

    Raises:
        UserError: a revision is unknown, its measures are missing or damaged, or no mixture is in
            both.
    """
    revisions = (find_revision(a, folder), find_revision(b, folder))
    first, second = (read_scores(revision, folder) for revision in revisions)
    notes = []
    params: list[ParamChange] | None
    try:
        params = changed_params(a, b, folder)
    except UserError as error:
        params = None
        notes.append(f"the parameters cannot be compared: {error}")
    pairs = _pair(first, second)
    mixtures = _count(first), _count(second)
    if pairs.empty:
        raise UserError(_nothing_in_common(revisions, mixtures, params))

    videos = {
        number: tuple(names) for number, names in pairs["video_b"].groupby("mixture", sort=False)
    }
    found = {name: _difference(pairs, name, videos) for name in COMPARED}
    measures = {name: difference for name, difference in found.items() if difference}
    if DECIDING not in measures:
        raise UserError(
            f"{a} and {b}: no mixture has {DECIDING} in both; `dvc repro --force evaluate` "
            "measures again"
        )
    notes += _missing_values(pairs)
    notes += _different_audio(pairs)
    if params and all(difference.verdict == SAME for difference in measures.values()):
        notes.append("parameters differ but no result does: has `dvc repro` run since?")
    groups = pairs.groupby("category_b")
    categories = {str(name): _difference(rows, DECIDING, videos) for name, rows in groups}
    return Comparison(
        a=revisions[0],
        b=revisions[1],
        paired=_count(pairs),
        mixtures=mixtures,
        measures=measures,
        category={name: difference for name, difference in categories.items() if difference},
        silent_estimates=(_silent(pairs["silent_a"]), _silent(pairs["silent_b"])),
        params=params,
        notes=notes,
    )


def read_scores(revision: Revision, folder: Path) -> pd.DataFrame:
    """Read the measures of a revision.

    Returns:
        `video`, `category`, each of `MEASURES` in dB and `silent`, 1 for a silent estimate, by
        mixture and source; NaN where there is no finite value.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    text = read_text(revision, MIXTURES_PATH, folder, stage="evaluate")
    place = revision.place(MIXTURES_PATH, folder)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        needed = {"mixture", "source", "category", "video", DECIDING}
        if lacking := needed - set(reader.fieldnames or ()):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"line {reader.line_num} has more or fewer cells than the header")
            try:
                source = int(cells["mixture"]), int(cells["source"])
                values = {
                    name: float(cells.get(name, "").strip() or "nan")
                    for name in (*MEASURES, SILENT)
                }
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from None
            if source in rows:
                raise ValueError(f"line {reader.line_num} repeats a source of mixture {source[0]}")
            rows[source] = {"video": cells["video"], "category": cells["category"], **values}
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{place}: damaged, {error}; {how_to_repair(revision, 'evaluate')}"
        ) from None
    if not rows:
        raise UserError(
            f"{place}: no mixture was measured; its metrics/details/evaluate.json has the reasons"
        )
    index = pd.MultiIndex.from_tuples(rows, names=["mixture", "source"])
    return pd.DataFrame(rows.values(), index).replace([np.inf, -np.inf], np.nan)


def _pair(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Pair the mixtures of the same number whose sources are the same videos, in their order.

    Returns:
        The columns of `read_scores`, of A with `_a` and of B with `_b` at the end of their names.
    """
    rows = a.join(b, how="outer", lsuffix="_a", rsuffix="_b").sort_index()
    same = rows["video_a"] == rows["video_b"]
    return rows[same.groupby("mixture").transform("all")]


def _count(rows: pd.DataFrame) -> int:
    """Return the number of mixtures."""
    return int(rows.index.get_level_values("mixture").nunique())


def _values(pairs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the two values of a measure where both are finite."""
    return pairs[[f"{name}_a", f"{name}_b"]].dropna()


def _silent(column: pd.Series) -> int | None:
    """Return the number of silent estimates; None if a result does not say it."""
    return None if column.isna().any() else int(column.sum())


def _difference(
    pairs: pd.DataFrame, name: str, videos: Mapping[int, Sequence[str]]
) -> Difference | None:
    """Compute the difference of a measure; None without any values.

    The sources of a mixture are not independent, so their mean counts as one sample.

    Args:
        pairs: rows of `_pair`.
        name: the measure.
        videos: names of all videos of each mixture.
    """
    mixtures = dict(list(_values(pairs, name).groupby("mixture")))
    if not mixtures:
        return None
    a, b = np.transpose([np.mean(values.to_numpy(), axis=0) for values in mixtures.values()])
    of_mixtures = [videos[number] for number in mixtures]
    differences = np.round(b - a, DECIMALS)
    return Difference(
        mixtures=len(mixtures),
        independent=independent_mixtures(of_mixtures),
        a=float(a.mean()),
        b=float(b.mean()),
        difference=mean_interval(differences, of_mixtures),
        better=float(np.mean(differences > 0)),
    )


def _missing_values(pairs: pd.DataFrame) -> Iterator[str]:
    for name in COMPARED:
        missing = len(pairs) - len(_values(pairs, name))
        if missing == len(pairs):
            yield f"{name} is left out: no source has a value in both"
        elif missing:
            yield (
                f"{name} of {missing} of {len(pairs)} sources is left out: undefined (a silent "
                "estimate has no SAR), missing or not finite in A or B"
            )


def _different_audio(pairs: pd.DataFrame) -> Iterator[str]:
    """Compare the SDR of the mixtures themselves, which depends on the audio alone."""
    name = "sdr_mixture"
    gaps = (pairs[f"{name}_b"] - pairs[f"{name}_a"]).abs().groupby("mixture").max()
    different = int((gaps > SAME_AUDIO_DB).sum())
    if different:
        yield (
            f"{different} of {len(gaps)} mixtures have the same videos but different audio "
            f"({name} differs by up to {gaps.max():.2f} dB, as after a change of the clip length "
            "or sample rate): one side may have easier mixtures"
        )


def _nothing_in_common(
    revisions: tuple[Revision, Revision],
    counts: tuple[int, int],
    params: Sequence[ParamChange] | None,
) -> str:
    a, b = revisions
    decisive = [
        change.as_text() for change in params or () if f"{change.key}.".startswith(MIXTURE_PARAMS)
    ]
    more = f" and {len(decisive) - 3} more" if len(decisive) > 3 else ""
    why = f" ({'; '.join(decisive[:3])}{more})" if decisive else ""
    return (
        f"{a} and {b}: different mixtures were evaluated, none of {counts[0]} and {counts[1]} is "
        "of the same videos; compare revisions with the same data, index, mixture, "
        f"evaluate.mixtures and evaluate.seed{why}"
    )
