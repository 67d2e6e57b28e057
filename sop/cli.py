"""The command line: `python -m sop`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sop.errors import UserError
from sop.metrics import MEASURES
from sop.params import load_params
from sop.presets import apply_preset, preset_names

MODEL = Path("data/model/last.pt")

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
    export = commands.add_parser(
        "export-published",
        help="write a model as the three files of the published code",
        description="Write a model as the three files of the published code.",
    )
    export.add_argument(
        "--checkpoint",
        type=Path,
        default=MODEL,
        metavar="FILE",
        help="the model (default: %(default)s)",
    )
    export.add_argument(
        "--out",
        type=Path,
        default=Path("data/published-export"),
        metavar="DIR",
        help="folder that receives the files (default: %(default)s)",
    )
    import_ = commands.add_parser(
        "import-published",
        help="fetch the published model, to evaluate it without training",
        description="Fetch the published model that params.yaml names and write it as ours, to be "
        "measured by `python -m stages.evaluate`. params.yaml must fit it: "
        "`python -m sop preset music` sees to that.",
    )
    import_.add_argument(
        "--out",
        type=Path,
        default=MODEL,
        metavar="FILE",
        help="the model's file (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    match options.command:
        case "preset":
            return _preset(options.name)
        case "export-published":
            return _export_published(options.checkpoint, options.out)
        case "import-published":
            return _import_published(options.out)
        case _:
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


def _export_published(checkpoint: Path, folder: Path) -> int:
    # Takes seconds to import, which no other command should.
    from sop.model.checkpoint import load_player
    from sop.model.published import WIDTH, export_published

    player, params = load_player(checkpoint)
    for path in export_published(player, folder):
        print(path)
    if (params.model.sound_width, params.model.vision_width) != (WIDTH, WIDTH):
        print(
            f"The published code cannot load them: it builds nets of width {WIDTH} only, and here "
            f"model.sound_width is {params.model.sound_width}, model.vision_width "
            f"{params.model.vision_width}."
        )
    return 0


def _import_published(path: Path) -> int:
    # Takes seconds to import, which no other command should.
    from sop.model.checkpoint import save_player
    from sop.model.published import published_player

    if path.exists():
        raise UserError(f"{path}: there is a model already; move it away, or set --out")
    player, params = published_player(load_params())
    try:
        save_player(path, player, params, step=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    print(path)
    print("Measure it with `python -m stages.evaluate`.")
    return 0


def _counted(mixtures: dict[str, Any]) -> str:
    reasons = "".join(f"\n  mixture {n}: {why}" for n, why in mixtures["reasons"].items())
    return f"{mixtures['counted']} mixtures counted, {mixtures['left_out']} left out{reasons}"
