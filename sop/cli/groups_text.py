"""A comparison of groups of runs as text for the terminal."""

import textwrap
from collections.abc import Iterator

from sop.cli.comparison_text import decibels, ends_text
from sop.evaluate.intervals import MIN_INDEPENDENT
from sop.report.comparison import DECIDING, SAME, UNDECIDED, verdict_of
from sop.report.groups import GroupComparison, GroupDifference
from sop.report.seed_intervals import RunsInterval
from sop.report.wording import counted
from sop.runtime.log import printable


def groups_text(found: GroupComparison) -> str:
    """Return a comparison of groups as lines of at most 80 columns, unless names are longer."""
    lines = [line for difference in found.differences for line in _verdict(difference)]
    lines += [_mixtures(found)]
    for note in found.notes:
        lines += textwrap.wrap(f"note: {note}", 80, break_long_words=False, break_on_hyphens=False)
    for measure in found.groups[0].measures:
        lines += ["", *_table(found, measure)]
    lines += ["", *_runs(found)]
    if found.params:
        lines += ["", f"Parameters that differ: {', '.join(group.name for group in found.groups)}"]
        lines += [f"  {key}: {' | '.join(values)}" for key, values in found.params.items()]
    return "\n".join(map(printable, lines))


def _verdict(difference: GroupDifference) -> Iterator[str]:
    found = difference.measures[DECIDING]
    verdict = verdict_of(found.interval)
    group, reference = difference.group, difference.reference
    if verdict == SAME:
        yield f"{group} and {reference} are {SAME}: {DECIDING} is equal on average."
    elif verdict == UNDECIDED:
        yield f"{group} and {reference}: {UNDECIDED}."
    else:
        yield f"{group} is {verdict} than {reference}."
    if verdict != SAME:
        mean = f"{DECIDING} {decibels(found.interval.mean)} dB on average"
        is_known = found.interval.low is not None
        ends = f"95 % interval {ends_text(found.interval)}" if is_known else "which may be chance"
        yield f"{mean}, {ends}."
        yield _covers(found)
    yield ""


def _covers(found: RunsInterval) -> str:
    if found.interval.low is None:
        return (
            f"An interval needs at least {MIN_INDEPENDENT} mixtures without a common video; there "
            f"{'is' if found.independent == 1 else 'are'} {found.independent}."
        )
    if found.seeds:
        return "The interval covers the choice of videos and the training seed."
    return "The interval covers the choice of videos, not the training seed."


def _mixtures(found: GroupComparison) -> str:
    which = "the same in all runs" if found.paired else "not the same in all runs"
    return f"{counted(found.mixtures, 'mixture')} compared, {which}. Measures are in dB."


def _table(found: GroupComparison, measure: str) -> Iterator[str]:
    reference = found.groups[0].name
    width = max(map(len, (measure, *(group.name for group in found.groups))))
    head = f"{measure:{width}}  runs    mean      sd  {'95 % interval':>16}"
    yield head + (f"  - {reference}  95 % interval" if found.differences else "")
    differences = {one.group: one.measures[measure] for one in found.differences}
    for group in found.groups:
        spread = group.measures[measure]
        mean, low, high = spread.interval.interval
        own = "too few" if low is None or high is None else f"{_plain(low)} to {_plain(high)}"
        deviation = "-" if spread.deviation is None else f"{spread.deviation:.2f}"
        line = f"{group.name:{width}}{len(group.runs):6}{_plain(mean):>8}{deviation:>8}  {own:>16}"
        if group.name in differences:
            difference = differences[group.name].interval
            shown = decibels(difference.mean)
            line += f"  {shown:>{max(len(reference) + 2, 6)}}  {ends_text(difference)}"
        yield line


def _runs(found: GroupComparison) -> Iterator[str]:
    names = [str(run.revision) for group in found.groups for run in group.runs]
    width = max(map(len, ("run", *names)))
    of_group = max(map(len, ("group", *(group.name for group in found.groups))))
    head = f"{'run':{width}}  {'group':{of_group}}{'seed':>8}"
    yield f"{head}{DECIDING + ', dB':>9}  silent estimates"
    for group in found.groups:
        for run in group.runs:
            silent = "unknown" if run.silent_estimates is None else run.silent_estimates
            yield (
                f"{run.revision!s:{width}}  {group.name:{of_group}}{run.seed:>8}"
                f"{run.means[DECIDING]:9.2f}  {silent}"
            )


def _plain(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # not -0.00
