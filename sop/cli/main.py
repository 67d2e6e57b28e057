"""The command line, `sop` or `python -m sop`: one module for each command.

What a module imports at its top is imported for every command, `sop --help` included. PyTorch,
SciPy, numba and pandas take seconds to import, so commands import the code that needs them
in `run`, after they have checked their arguments.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

import sop
from sop.cli import check_split, compare, denoise, models, preset, published, separate, summary
from sop.runtime import errors
from sop.runtime.log import printable

COMMANDS = (preset, separate, denoise, models, summary, compare, check_split, published)

DESCRIPTION = """\
The Sound of Pixels: learn from unlabeled videos which pixels make which sound.

`dvc repro` runs the pipeline with the values in params.yaml; `dvc stage list` shows its stages.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command and its arguments; None takes those of the process.

    Returns:
        The exit status.

    Raises:
        UserError: an argument, or a file that it names, cannot be used.
    """
    options = make_parser().parse_args(arguments)
    return int(options.run(options))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their arguments."""
    parser = _Parser(
        prog="sop", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {sop.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # The message repeats arguments, which may be names of files.
        super().error(printable(message))


def program() -> None:
    """Run the program `sop` to its exit status."""
    with errors.stoppable():
        errors.run(main, interrupted="no output was changed")
