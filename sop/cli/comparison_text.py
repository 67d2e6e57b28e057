"""A comparison of two revisions as text for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping

from sop.evaluate.intervals import MIN_INDEPENDENT, Interval
from sop.report.comparison import DECIDING, SAME, UNDECIDED, Comparison, Difference
from sop.report.wording import counted
from sop.runtime.log import printable


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as lines of at most 80 columns, unless names are longer."""
    lines = [f"A  {comparison.a}", f"B  {comparison.b}", ""]
    lines += [*_verdict(comparison), _mixtures(comparison)]
    for note in comparison.notes:
        lines += [""]
        lines += textwrap.wrap(f"note: {note}", 80, break_long_words=False, break_on_hyphens=False)
    lines += ["", *_table("dB, means", comparison.measures)]
    of_a, of_b = ("unknown" if n is None else n for n in comparison.silent_estimates)
    lines += [f"silent estimates: A {of_a}, B {of_b}"]
    if comparison.verdict != SAME:
        lines += ["", *_table(DECIDING, comparison.category)]
        if len(comparison.category) > 1:
            lines += ["One in twenty such intervals misses the true value by chance."]
    if (params := comparison.params) is not None:
        lines += ["", "Changed parameters, A -> B" if params else "No parameter differs."]
        lines += [f"  {change.as_text()}" for change in params]
    return "\n".join(map(printable, lines))


def _verdict(comparison: Comparison) -> Iterator[str]:
    deciding = comparison.measures[DECIDING]
    if comparison.verdict == SAME:
        yield f"A and B are {SAME}: {DECIDING} is equal in every mixture."
        return
    yield f"{'A and B: ' if comparison.verdict == UNDECIDED else 'B is '}{comparison.verdict}."
    mean = f"{DECIDING} {decibels(deciding.difference.mean)} dB on average"
    if deciding.difference.low is None:
        few = counted(deciding.mixtures, "mixture")
        yield f"{mean}, which may be chance: {few},"
        yield (
            f"{deciding.independent} of them without a common video, "
            f"at least {MIN_INDEPENDENT} are needed."
        )
        return
    yield f"{mean}, 95 % interval {ends_text(deciding.difference)}."
    yield "The interval covers the choice of videos, not the training seed."


def _mixtures(comparison: Comparison) -> str:
    of_a, of_b = comparison.mixtures
    paired = counted(comparison.paired, "mixture")
    if of_a == of_b == comparison.paired:
        return f"{paired} compared, the same in A and B."
    return f"{paired} compared, which both contain; A contains {of_a}, B {of_b}."


def _table(title: str, rows: Mapping[str, Difference]) -> Iterator[str]:
    width = max(map(len, (title, *rows)))
    yield f"{title:{width}}  mixtures{'A':>8}{'B':>8}{'B - A':>9}{'95 % interval':>18}  B better"
    for name, row in rows.items():
        yield (
            f"{name:{width}}{row.mixtures:10}{row.a:8.2f}{row.b:8.2f}"
            f"{decibels(row.difference.mean):>9}{ends_text(row.difference):>18}{row.better:>10.0%}"
        )


def ends_text(difference: Interval) -> str:
    """Return both ends of the interval of a difference, or why there is none."""
    if difference.low is None or difference.high is None:
        return "too few"
    return f"{decibels(difference.low)} to {decibels(difference.high)}"


def decibels(value: float) -> str:
    """Return two decimals, or one significant digit where two decimals would show 0."""
    if value == 0:
        return "0.00"
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.1g}"
