"""The command `compare`."""

import argparse
import json
from pathlib import Path
from typing import Any

from sop.runtime.log import say


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "compare",
        help="test whether one revision's results are better or the difference is chance",
        description="Compare the evaluations of two revisions mixture by mixture, and test whether "
        "REV_B is better than REV_A or the difference is chance. A revision is a commit, branch, "
        "tag or DVC experiment, or `workspace` for the files in this folder.",
    )
    parser.add_argument("a", nargs="?", default="HEAD", metavar="REV_A", help="(default: HEAD)")
    parser.add_argument(
        "b", nargs="?", default="workspace", metavar="REV_B", help="(default: workspace)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the comparison."""
    # Imports pygit2, which `sop --help` does not need.
    from sop.report.revisions import find_revision

    for name in (options.a, options.b):
        find_revision(name, Path())

    # Imports SciPy, which takes a moment.
    from sop.cli.comparison_text import comparison_text
    from sop.report.comparison import compare

    found = compare(options.a, options.b, Path())
    text = json.dumps(found.as_dict(), indent=2) if options.json else comparison_text(found)
    say(*text.split("\n"))
    return 0
