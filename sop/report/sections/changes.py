"""Sections on what differs from the commit that is checked out: results and parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sop.params import PARAMS_PATH
from sop.report.comparison import SAME, UNDECIDED, Comparison, compare
from sop.report.page import MEASURE_NAMES, Column, Parameter, ParameterTable, Section, Table, Text
from sop.report.param_changes import UNSET, changed_params, flattened, value_text
from sop.report.revisions import WORKSPACE
from sop.report.wording import counted
from sop.runtime.errors import UserError
from sop.runtime.plain_yaml import parse_yaml


def comparison_section(root: Path, head: str, written: str) -> Section:
    """Compare this run with the commit that is checked out.

    Args:
        root: of the repository.
        head: description of the commit.
        written: time at which the report is written.
    """
    try:
        found = compare("HEAD", WORKSPACE, root)
    except UserError as error:
        reason = f"{error}".rstrip(".")
        return Section("Comparison", [], empty=f"Not compared with {head}: {reason}.")
    return Section("Comparison", comparison_blocks(found, head, written))


def comparison_blocks(found: Comparison, head: str, written: str) -> list[Text | Table]:
    """Show a comparison of a commit (A) with this report (B)."""
    commit = (found.a.commit or "")[:7] or found.a.name
    verdict = {SAME: "the results are the same", UNDECIDED: f"there is {UNDECIDED}"}.get(
        found.verdict, f"the results of this report are {found.verdict}"
    )
    before, now = ("unknown" if n is None else n for n in found.silent_estimates)
    silent = f"Silent estimates: {now} in this report, {before} in {commit}."
    notes = [silent, *(f"Note: {note}." for note in found.notes)]
    table = Table(
        [
            Column("Mean, dB"),
            Column("This report", "decibels"),
            Column(commit, "decibels"),
            Column("Difference, 95 % interval", "change"),
        ],
        [
            [MEASURE_NAMES.get(name, name), one.b, one.a, one.difference]
            for name, one in found.measures.items()
        ],
        note=" ".join([f"Paired over the {counted(found.paired, 'mixture')} in both.", *notes]),
    )
    lead = f"Compared with {head}, when this report was written on {written}: {verdict}."
    return [Text(lead, "lead"), table]


def parameter_section(root: Path, head: str) -> Section:
    """Show all parameters, and those that differ from the commit that is checked out."""
    try:
        text = (root / PARAMS_PATH).read_text(encoding="utf-8")
        values = dict(flattened(parse_yaml(text)))
    except (OSError, ValueError, AttributeError):
        return Section("Parameters", [], empty="params.yaml cannot be read.")
    try:
        changes = {change.key: change for change in changed_params("HEAD", WORKSPACE, root)}
    except UserError:
        changes, head = {}, f"{head}, which has no readable params.yaml"
    meanings = _meanings(text)
    items = [
        Parameter(
            key,
            _text(values.get(key, UNSET)),
            _text(changes[key].old) if key in changes else None,
            meanings.get(key, ""),
        )
        for key in dict.fromkeys([*values, *changes])
    ]
    return Section("Parameters", [ParameterTable(items, head)])


def _text(value: Any) -> str:
    return "" if value is UNSET else value_text(value)


def _meanings(text: str) -> Mapping[str, str]:
    """Return the comment that follows each key of params.yaml on its line."""
    meanings, above = {}, list[tuple[int, str]]()
    for line in text.splitlines():
        content, _, comment = line.partition(" #")
        key, colon, _ = content.partition(":")
        if not colon or not key.strip() or key.lstrip().startswith(("#", "-")):
            continue
        indent = len(key) - len(key.lstrip())
        above = [(depth, name) for depth, name in above if depth < indent]
        above.append((indent, key.strip()))
        if comment:
            meanings[".".join(name for _, name in above)] = comment.strip()
    return meanings
