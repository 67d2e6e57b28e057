"""The command `check-split`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from sop.cli.options import path_of
from sop.runtime.log import counted, say

if TYPE_CHECKING:
    from sop.dataset.protocol import SplitCheck


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "check-split",
        help="check published lists of videos and mixtures for leaks and duplicates",
        description="Compare a list of training videos with one of test videos and, if it is "
        "given, a list of mixtures: videos on both sides, mixtures that repeat others, mixtures "
        "with a training video, missing categories. The exit status is 1 if a test video stands "
        "in the training or validation list, or a mixture has a training video; 2 if a list "
        "cannot be read; otherwise 0, also with other faults. The lists are read as "
        "`index.split` and `evaluate.pairs` are; no videos are needed.",
    )
    for name, text in (("TRAIN", "training videos"), ("TEST", "test videos")):
        parser.add_argument(name.lower(), type=path_of(name), metavar=name, help=f"list of {text}")
    parser.add_argument(
        "pairs", nargs="?", type=path_of("PAIRS"), metavar="PAIRS", help="list of mixtures"
    )
    parser.add_argument(
        "--validation", type=path_of("--validation"), metavar="FILE", help="validation videos"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what is wrong with the lists; return 1 if there is a leak."""
    # Imports YAML, which `sop --help` does not need.
    from sop.dataset.protocol import Known, SplitCheck, read_list, read_pairs

    test = read_list(options.test, "")
    check = SplitCheck(
        Known(read_list(options.train, "")),
        Known(test),
        () if options.pairs is None else tuple(read_pairs(options.pairs, "", test)),
        None if options.validation is None else Known(read_list(options.validation, "")),
    )
    if options.json:
        values = {"counts": check.counts(), "names": check.names()}
        say(*json.dumps(values, indent=2).split("\n"))
    else:
        say(*_lines(check))
    return 0 if check.is_sound else 1


def _lines(check: "SplitCheck") -> list[str]:
    """Return the text of a check: what was read, and what is wrong with it."""
    counts = check.counts()
    lines = [
        f"training: {counted(len(check.train.entries), 'video', 'videos')}",
        f"test: {counted(counts['test_videos'], 'video', 'videos')}, "
        f"{counts['test_videos_in_training']} of them in the training list",
    ]
    if check.pairs:
        lines.append(
            f"mixtures: {counts['mixtures']}, {counts['distinct_mixtures']} of them distinct"
        )
    return [*lines, *(check.problems() or ["no problem found"])]
