"""The command `compare`."""

import argparse
import json
from pathlib import Path
from typing import Any

from sop.runtime.errors import UserError
from sop.runtime.files import write_json
from sop.runtime.log import say


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "compare",
        help="test whether one revision's results are better or the difference is chance",
        description="Compare the evaluations of revisions mixture by mixture, and test whether the "
        "others are better than the first or the difference is chance. A revision is a commit, "
        "branch, tag or DVC experiment, or `workspace` for the files in this folder. Groups are "
        "settings that were run with several training seeds: the test then covers the seed, too.",
    )
    parser.add_argument(
        "revisions",
        nargs="*",
        metavar="REV",
        help="two or more revisions; a single one is compared with the workspace (default: HEAD)",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=REV,REV,...",
        help="runs of one setting; repeat it for each other setting, which is compared with the "
        "first (a REV comes before all groups)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write the comparison of groups to metrics/groups.json, which the report shows",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the comparison."""
    # Imports pygit2, which `sop --help` does not need.
    from sop.report.revisions import WORKSPACE, find_revision

    groups = [_parse_group(text) for text in options.group]
    names = list(options.revisions)
    if not groups:
        names += {0: ["HEAD", WORKSPACE], 1: [WORKSPACE]}.get(len(names), [])
    for name in (*names, *(member for _, members in groups for member in members)):
        find_revision(name, Path())
    if groups or len(names) > 2:
        return _compare_groups(options, [*((name, [name]) for name in names), *groups])
    if options.report:
        raise UserError("--report: there are no groups; give at least one with --group")

    # Imports SciPy, which takes a moment.
    from sop.cli.comparison_text import comparison_text
    from sop.report.comparison import compare

    a, b = names
    found = compare(a, b, Path())
    text = json.dumps(found.as_dict(), indent=2) if options.json else comparison_text(found)
    say(*text.split("\n"))
    return 0


def _compare_groups(options: argparse.Namespace, named: list[tuple[str, list[str]]]) -> int:
    # Imports SciPy, which takes a moment.
    from sop.cli.groups_text import groups_text
    from sop.report.groups import GROUPS_PATH, compare_groups
    from sop.runtime.stage import timestamp

    found = compare_groups(named, Path())
    values = found.as_dict()
    text = json.dumps(values, indent=2) if options.json else groups_text(found)
    say(*text.split("\n"))
    if options.report:
        write_json(GROUPS_PATH, {"written": timestamp(), **values})
        if not options.json:
            say("", f"{GROUPS_PATH} written; `python -m stages.report` shows it in the report.")
    return 0


def _parse_group(text: str) -> tuple[str, list[str]]:
    """Return the name and the revisions of a group.

    Raises:
        UserError: it is not written as `NAME=REV,REV,...`.
    """
    name, _, listed = text.partition("=")
    revisions = listed.split(",")
    if not name or not name.isprintable() or not all(revisions):
        raise UserError(f"--group {text!r}: give it as NAME=REV,REV,..., such as wide=exp-1,exp-2")
    return name, revisions
