"""The command line: `python -m sop`."""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sop.errors import UserError
from sop.metrics import MEASURES
from sop.params import PUBLISHED_WIDTH, load_params
from sop.presets import apply_preset, preset_names

MODEL = Path("data/model/last.pt")

MOST_GAIN = 100

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
    _add_separate(commands)
    options = parser.parse_args(arguments)
    match options.command:
        case "preset":
            return _preset(options.name)
        case "export-published":
            return _export_published(options.checkpoint, options.out)
        case "import-published":
            return _import_published(options.out)
        case "separate":
            return _separate(options)
        case _:
            return _summary(Path("metrics/evaluate.json"))


def _add_separate(commands: Any) -> None:
    parser = commands.add_parser(
        "separate",
        help="take the sound of a video apart, region by region",
        description="Find what sounds in a video, and write the sound of each region as a WAV, "
        "what belongs to none as rest.wav; together they are the original sound. overlay.mp4 shows "
        "where and when each sounds, regions.json tells it.",
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="any file that ffmpeg reads")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder that receives the files"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=MODEL,
        metavar="FILE",
        help="the model (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--regions",
        type=_region_count,
        metavar="auto|K",
        help="how many regions there are (default: auto)",
    )
    where.add_argument(
        "--at",
        type=_place,
        action="append",
        default=[],
        metavar="X,Y",
        help="the sound of this place only, as shares of width and height (0.25,0.5), or in pixels "
        "if one is over 1 (320,180); may be repeated",
    )
    parser.add_argument(
        "--gain",
        type=_gain,
        action="append",
        metavar="N=G",
        help="make a new video with region N, or `rest`, G times as loud; may be repeated",
    )
    for option, what in (("--mute", "without region N, or `rest`"), ("--solo", "of region N only")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="N",
            help=f"make a new video {what}; may be repeated",
        )
    parser.add_argument(
        "--model-rate",
        action="store_true",
        help="mono sound at the model's rate, instead of the video's own rate and channels",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="make a page on which every pixel of a stretch can be heard: the one in which the "
        "regions sound most",
    )
    parser.add_argument(
        "--page-seconds",
        type=_page_seconds,
        default=6.0,
        metavar="S",
        help="how long that stretch is, 1 to 60 (default: %(default)g)",
    )


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise UserError(f"--device {text}: none of auto, cpu, cuda, cuda:0, cuda:1, ...")
    return text


def _region_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"--regions {text}: neither auto nor a number from 1 on")
    return int(text)


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: not two numbers, as in 0.25,0.5 or 320,180") from None
    return x, y


def _gain(text: str) -> tuple[str, float]:
    name, _, factor = text.partition("=")
    try:
        gain = float(factor)
    except ValueError:
        gain = -1.0
    if not 0 <= gain <= MOST_GAIN:
        raise UserError(
            f"--gain {text}: not a region and a factor from 0 to {MOST_GAIN}, as in 1=0.5"
        )
    return name, gain


def _page_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 60:
        raise UserError(f"--page-seconds {text}: not a number from 1 to 60")
    return seconds


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
    from sop.model.published import export_published

    player, params = load_player(checkpoint)
    for path in export_published(player, folder):
        print(path)
    widths = (params.model.sound_width, params.model.vision_width)
    if widths != (PUBLISHED_WIDTH, PUBLISHED_WIDTH):
        print(
            f"The published code cannot load them: it builds nets of width {PUBLISHED_WIDTH} only, "
            f"and here model.sound_width is {params.model.sound_width}, model.vision_width "
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


def _separate(options: argparse.Namespace) -> int:
    # Takes seconds to import, which no other command should.
    import torch

    from sop.device import keep_freed_memory
    from sop.separation import Request, write_separation
    from sop.separator import Separator

    keep_freed_memory()
    # ffmpeg works beside it, and threads that wait for one another on a busy core take far longer.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    separator = Separator.load(options.checkpoint, options.device)
    request = Request(
        regions=options.regions,
        places=options.at,
        gains=None if options.gain is None else dict(options.gain),
        muted=frozenset(options.mute),
        solo=frozenset(options.solo),
        model_rate=options.model_rate,
        page_seconds=options.page_seconds if options.page else None,
    )
    written = write_separation(options.video, options.out, separator, request)
    found = written.description["regions"]
    if not found:
        print("No region sounds; rest.wav is the whole sound.")
    for region in found:
        centre = region["centre_pixels"]
        print(
            f"region {region['number']}: {region['energy']:.0%} of the energy, around "
            f"{centre['x']},{centre['y']}, sounds {_seconds(region['sounds']):.1f} of "
            f"{written.description['seconds']:.1f} s"
        )
    print(f"{options.out}: {', '.join(written.files)}")
    if written.remix_peak > 1:
        louder = 20 * math.log10(written.remix_peak)
        print(f"The remix is {louder:.1f} dB over full scale and will distort; use lower gains.")
    if written.page is not None:
        begin, end = written.page
        print(f"Open {options.out / 'page/index.html'}: seconds {begin:.1f} to {end:.1f}.")
    else:
        print("Watch overlay.mp4; --page makes a page on which any pixel can be heard.")
    return 0


def _seconds(intervals: Sequence[Sequence[float]]) -> float:
    return sum(end - begin for begin, end in intervals)


def _counted(mixtures: dict[str, Any]) -> str:
    reasons = "".join(f"\n  mixture {n}: {why}" for n, why in mixtures["reasons"].items())
    return f"{mixtures['counted']} mixtures counted, {mixtures['left_out']} left out{reasons}"
