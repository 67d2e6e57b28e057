"""The command `preset`."""

import argparse
from typing import Any

from sop.runtime.log import say


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "preset",
        help="write the values of a known experiment into params.yaml",
        description="Write the values of a known experiment into params.yaml. Comments are kept.",
    )
    parser.add_argument(
        "name", help="a file in presets/ without `.yaml`, such as music; default leads back"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Apply the preset and print the changed parameters."""
    # Imports pydantic, which `sop --help` does not need.
    from sop.presets import apply_preset

    say(*(apply_preset(options.name) or ["params.yaml already has these values"]))
    say("`git diff params.yaml` shows the changes; `dvc repro` runs the experiment.")
    return 0
