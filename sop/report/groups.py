"""Compare groups of runs: settings that were run several times, with different training seeds.

The mean over the runs is the result of a setting. Its interval covers training seeds and videos.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sop.evaluate.intervals import Interval
from sop.report.comparison import (
    COMPARED,
    DECIDING,
    DECIMALS,
    SAME_AUDIO_DB,
    SILENT,
    read_scores,
    verdict_of,
)
from sop.report.param_changes import UNSET, params_of, value_text
from sop.report.revisions import Revision, find_revision
from sop.report.seed_intervals import Floats, RunsInterval, runs_interval
from sop.runtime.errors import UserError

GROUPS_PATH = Path("metrics/groups.json")
"""Comparison that the report shows."""

SEED = "train.seed"

Key = tuple[int, tuple[str, ...]]
"""A mixture: its number and the names of its videos."""


class Cells(NamedTuple):
    """One measure of all sources, (runs, mixtures, sources)."""

    values: Floats
    """In dB; NaN where there is none."""
    wanted: NDArray[np.bool_]
    """Whether the run evaluated this source of the mixture."""

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Whether a source that a run evaluated has no value."""
        missing: NDArray[np.bool_] = self.wanted & np.isnan(self.values)
        return missing


@dataclass(frozen=True)
class Run:
    """One run of a setting."""

    revision: Revision
    seed: str
    """Its `train.seed`; empty if it is unknown."""
    means: Mapping[str, float]
    """Mean of each measure over the compared mixtures, in dB."""
    silent_estimates: int | None
    """In the compared mixtures; None if it is unknown."""


@dataclass(frozen=True)
class Spread:
    """One measure of a group."""

    interval: RunsInterval
    """Mean over the runs in dB, with its 95 % interval."""
    deviation: float | None
    """Standard deviation of the means of the runs in dB; None for a single run."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**_plain(self.interval), "deviation": self.deviation}


@dataclass(frozen=True)
class Group:
    """Runs of one setting."""

    name: str
    runs: Sequence[Run]
    measures: Mapping[str, Spread]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        runs = [
            {
                **asdict(run.revision),
                "seed": run.seed,
                "means": dict(run.means),
                "silent_estimates": run.silent_estimates,
            }
            for run in self.runs
        ]
        measures = {name: spread.as_dict() for name, spread in self.measures.items()}
        return {"name": self.name, "runs": runs, "measures": measures}


@dataclass(frozen=True)
class GroupDifference:
    """How much a group is better than the first one."""

    group: str
    reference: str
    measures: Mapping[str, RunsInterval]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        measures = {
            name: {**_plain(found), "verdict": verdict_of(found.interval)}
            for name, found in self.measures.items()
        }
        return {
            "group": self.group,
            "reference": self.reference,
            "verdict": measures[DECIDING]["verdict"],
            "measures": measures,
        }


@dataclass(frozen=True)
class GroupComparison:
    """Groups of runs, and what each is better by than the first."""

    groups: Sequence[Group]
    differences: Sequence[GroupDifference]
    """Of each group but the first."""
    mixtures: int
    """Number of compared mixtures: those of all runs if `paired`."""
    paired: bool
    """Whether the runs share mixtures, which are then the compared ones."""
    params: Mapping[str, Sequence[str]]
    """Parameters that differ between groups: their values in each group."""
    notes: Sequence[str]
    """Reservations, one sentence each."""

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; every number is finite."""
        return {
            "groups": [group.as_dict() for group in self.groups],
            "differences": [difference.as_dict() for difference in self.differences],
            "mixtures": self.mixtures,
            "paired": self.paired,
            "params": {key: list(values) for key, values in self.params.items()},
            "notes": list(self.notes),
        }


def compare_groups(named: Sequence[tuple[str, Sequence[str]]], folder: Path) -> GroupComparison:
    """Compare groups of runs on the mixtures that all of them evaluated.

    If no mixture is in all runs, each run counts with its own.

    Args:
        named: name and revisions of each group: any git revisions, names of DVC experiments, or
            `workspace`.
        folder: the project's, inside a git repository.

    Raises:
        UserError: a revision is unknown or named twice, two groups have one name, or measures are
            missing or damaged.
    """
    names = [name for name, _ in named]
    of_group = [number for number, (_, group) in enumerate(named) for _ in group]
    revisions = [find_revision(name, folder) for _, group in named for name in group]
    _check_names(names, revisions)
    scores = [read_scores(revision, folder) for revision in revisions]
    own_keys = [_keys(table) for table in scores]
    shared = sorted(set.intersection(*map(set, own_keys)))
    keys = shared or sorted(set.union(*map(set, own_keys)))
    cells = {name: _cells(scores, own_keys, keys, name) for name in COMPARED}
    values = {name: _values(found) for name, found in cells.items()}
    values = {name: found for name, found in values.items() if np.isfinite(found).any(axis=1).all()}
    if DECIDING not in values:
        raise UserError(
            f"{', '.join(names)}: a run has no mixture with {DECIDING} in all runs; "
            "`dvc repro --force evaluate` measures again"
        )
    params, seeds, notes = _params(revisions, of_group, names, folder)
    notes = [
        *_mixture_notes(scores, own_keys, shared),
        *_missing_values(cells, values, revisions),
        *notes,
    ]

    def of(*numbers: int) -> dict[str, RunsInterval]:
        """Return each measure of a group, or of a second group minus a first one."""
        rows = [row for row, number in enumerate(of_group) if number in numbers]
        sides = [numbers.index(of_group[row]) for row in rows]
        return {name: _interval(found[rows], keys, sides) for name, found in values.items()}

    groups = []
    for number, name in enumerate(names):
        rows = [row for row, group in enumerate(of_group) if group == number]
        means = {measure: _means(found[rows]) for measure, found in values.items()}
        groups.append(
            Group(
                name,
                [
                    Run(
                        revisions[row],
                        seeds[row],
                        {measure: float(found[at]) for measure, found in means.items()},
                        _silent(scores[row], own_keys[row], keys),
                    )
                    for at, row in enumerate(rows)
                ],
                {
                    measure: Spread(
                        found, float(means[measure].std(ddof=1)) if len(rows) > 1 else None
                    )
                    for measure, found in of(number).items()
                },
            )
        )
    differences = [
        GroupDifference(names[number], names[0], of(0, number)) for number in range(1, len(names))
    ]
    return GroupComparison(groups, differences, len(keys), bool(shared), params, notes)


def _check_names(names: Sequence[str], revisions: Sequence[Revision]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: two groups have this name; give each a name of its own")
    seen: dict[str | None, Revision] = {}
    for revision in revisions:
        if revision.commit in seen:
            raise UserError(
                f"{revision}: the same run as {seen[revision.commit]}; name each run once"
            )
        seen[revision.commit] = revision


def _keys(scores: pd.DataFrame) -> dict[Key, int]:
    """Return the mixtures of a run, and their numbers."""
    videos = scores["video"].groupby("mixture").agg(tuple)
    return {(int(number), names): int(number) for number, names in videos.items()}


def _cells(
    scores: Sequence[pd.DataFrame],
    own_keys: Sequence[Mapping[Key, int]],
    keys: Sequence[Key],
    name: str,
) -> Cells:
    """Return a measure of each source in each run."""
    most = max(len(videos) for _, videos in keys)
    cells = np.full((len(scores), len(keys), most), np.nan)
    wanted = np.zeros(cells.shape, bool)
    for run, (table, own) in enumerate(zip(scores, own_keys, strict=True)):
        of_mixture = {
            number: column.to_numpy(float) for number, column in table[name].groupby("mixture")
        }
        for at, key in enumerate(keys):
            if key in own:
                wanted[run, at, : len(key[1])] = True
                cells[run, at, : len(key[1])] = of_mixture[own[key]]
    return Cells(cells, wanted)


def _values(cells: Cells) -> Floats:
    """Return the mean of a measure over the sources of each mixture, (runs, mixtures).

    A source that has no value in one of the runs that have its mixture is left out of all.
    """
    used = cells.wanted & ~cells.missing.any(axis=0)
    counts = used.sum(axis=2)
    sums = np.where(used, cells.values, 0).sum(axis=2)
    means: Floats = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _interval(values: Floats, keys: Sequence[Key], sides: Sequence[int]) -> RunsInterval:
    known = np.flatnonzero(np.isfinite(values).any(axis=0))
    videos = [keys[at][1] for at in known]
    found = runs_interval(values[:, known], videos, sides)
    # Without errors of rounding, so that 0 is 0.
    mean, low, high = found.interval
    if low is not None and high is not None:
        low, high = _rounded(low), _rounded(high)
    return RunsInterval(Interval(_rounded(mean), low, high), found.seeds, found.independent)


def _rounded(value: float) -> float:
    return round(value, DECIMALS) + 0.0  # not -0.0


def _means(values: Floats) -> Floats:
    means: Floats = np.nanmean(values, axis=1)
    return means


def _silent(scores: pd.DataFrame, own: Mapping[Key, int], keys: Sequence[Key]) -> int | None:
    numbers = [own[key] for key in keys if key in own]
    column = scores.loc[numbers, SILENT]
    return None if column.isna().any() else int(column.sum())


def _mixture_notes(
    scores: Sequence[pd.DataFrame], own_keys: Sequence[Mapping[Key, int]], shared: Sequence[Key]
) -> Iterator[str]:
    if not shared:
        yield (
            "no mixture is in all runs, so they are not compared mixture by mixture: the intervals "
            "are wider"
        )
        return
    most = max(map(len, own_keys))
    if most > len(shared):
        yield f"of up to {most} mixtures of a run, {len(shared)} are in all runs and are compared"
    numbers = [number for number, _ in shared]
    own = pd.concat([table["sdr_mixture"].loc[numbers] for table in scores], axis=1)
    gaps = (own.max(axis=1) - own.min(axis=1)).groupby("mixture").max()
    if different := int((gaps > SAME_AUDIO_DB).sum()):
        yield (
            f"{different} of {len(gaps)} mixtures have the same videos but different audio "
            f"(sdr_mixture differs by up to {gaps.max():.2f} dB): some runs may have easier "
            "mixtures"
        )


def _missing_values(
    cells: Mapping[str, Cells], kept: Collection[str], revisions: Sequence[Revision]
) -> Iterator[str]:
    """Name the measures that are left out, and say of how many sources the others are."""
    for name, found in cells.items():
        if name in kept:
            if missing := int(found.missing.any(axis=0).sum()):
                sources = int(found.wanted.any(axis=0).sum())
                yield (
                    f"{name} of {missing} of {sources} sources is left out: undefined (a silent "
                    "estimate has no SAR), missing or not finite in a run"
                )
            continue
        without = [
            str(revision)
            for revision, own in zip(revisions, found.values, strict=True)
            if not np.isfinite(own).any()
        ]
        if len(without) == len(revisions):
            reason = "no run has a value"
        elif without:
            reason = f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no value"
        else:
            reason = "a run has no source with a value in all runs"
        yield f"{name} is left out: {reason}"


def _params(
    revisions: Sequence[Revision], of_group: Sequence[int], names: Sequence[str], folder: Path
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Compare the parameters of the runs.

    Returns:
        The values in each group of those that differ between groups; `train.seed` of each run;
        and notes.
    """
    try:
        of_run = [dict(params_of(revision, folder)) for revision in revisions]
    except UserError as error:
        return {}, [""] * len(revisions), [f"the parameters cannot be compared: {error}"]
    table: dict[str, list[str]] = {}
    notes = []
    for key in dict.fromkeys(key for values in of_run for key in values):
        texts = [value_text(values.get(key, UNSET)) for values in of_run]
        if len(set(texts)) == 1:
            continue
        of_names = [
            list(dict.fromkeys(t for t, group in zip(texts, of_group, strict=True) if group == at))
            for at in range(len(names))
        ]
        # Groups with the same seeds do not differ; the seed of each run is known anyway.
        if len({frozenset(values) for values in of_names}) > 1:
            table[key] = [", ".join(values) for values in of_names]
        mixed = [name for name, values in zip(names, of_names, strict=True) if len(values) > 1]
        if mixed and not key.endswith("seed"):
            notes.append(f"the runs of {', '.join(mixed)} differ in {key}, which is no seed")
    seeds = [value_text(values.get(SEED, UNSET)) for values in of_run]
    for number, name in enumerate(names):
        own = [seed for seed, group in zip(seeds, of_group, strict=True) if group == number]
        if len(set(own)) < len(own):
            notes.append(f"runs of {name} have the same {SEED}: they are not independent")
    return table, seeds, notes


def _plain(found: RunsInterval) -> dict[str, Any]:
    interval: Interval = found.interval
    return {**interval._asdict(), "seeds": found.seeds, "independent": found.independent}
