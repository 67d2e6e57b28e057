"""The command line: `python -m sop`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sop.errors import UserError
from sop.metrics import MEASURES
from sop.presets import apply_preset, preset_names

DESCRIPTION = """\
The Sound of Pixels: learn from unlabeled videos which pixels make which sound.

The pipeline itself runs with `dvc repro`, from params.yaml; `dvc stage list` shows its stages.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sop",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    preset = commands.add_parser(
        "preset",
        help="write a known experiment's values into params.yaml",
        description="Write a known experiment's values into params.yaml; comments are kept.",
    )
    preset.add_argument("name", help=f"one of: {', '.join(preset_names())}")
    commands.add_parser(
        "summary",
        help="print the metrics of the last evaluation and where its outputs are",
        description="Print the metrics of the last evaluation and where its outputs are.",
    )
    options = parser.parse_args(arguments)
    if options.command == "preset":
        return _preset(options.name)
    return _summary(Path("metrics/evaluate.json"))


def _preset(name: str) -> int:
    changes = apply_preset(name)
    print("\n".join(changes) if changes else "params.yaml holds these values already")
    print("Look with `git diff params.yaml`, run with `dvc repro`.")
    return 0


def _summary(path: Path) -> int:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there yet; `dvc repro` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); `dvc repro` mends it") from None
    print(f"{'':18}{'mean':>8}{'median':>8}  dB")
    for name in MEASURES:
        print(f"{name:18}{metrics[name]['mean']:8.2f}{metrics[name]['median']:8.2f}")
    print()
    print(f"{'category':18}{'SDR':>8}{'better':>8}{'SIR':>8}{'SAR':>8}  dB, means")
    for category, values in metrics["category"].items():
        columns = (values[name]["mean"] for name in ("sdr", "sdr_improvement", "sir", "sar"))
        print(f"{category:18}" + "".join(f"{value:8.2f}" for value in columns))
    print()
    print(_counted(metrics["mixtures"]))
    print(
        """
Where to look next
  data/evaluate/                 mixtures and separated sounds to listen to
  metrics/evaluate/example.png   a mixture, the sound of each pixel, spectrograms
  dvc plots show                 training curves, SDR by category
  dvc metrics diff               against the last commit
  params.yaml                    edit, then `dvc repro` again"""
    )
    return 0


def _counted(mixtures: dict[str, Any]) -> str:
    reasons = "".join(f"\n  mixture {n}: {why}" for n, why in mixtures["reasons"].items())
    return f"{mixtures['counted']} mixtures counted, {mixtures['left_out']} left out{reasons}"
