"""The command line: `python -m sop`."""

import argparse
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sop.evaluate.measures import MEASURES
from sop.params import PUBLISHED_WIDTH, load_params
from sop.presets import apply_preset, preset_names
from sop.runtime.errors import UserError

if TYPE_CHECKING:
    from sop.denoise.adaptive import FilterSetting

MODEL = Path("data/model/last.pt")

MOST_GAIN = 100

TAPS = 64
# Remembers 0.2 s of a recording at 44.1 kHz: long enough to lose little of what is wanted, of which
# the filter takes about taps * (1 - forgetting) / 2, here -25 dB; short enough to follow who moves.
# On a violin with noise or an accordion over it, 2 s were 9 dB worse where the path changed over
# seconds, and 0.02 s up to 4 dB worse where the noise was music.
RLS_FORGETTING = 0.9999
NLMS_RATE = 0.01

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
    _add_denoise(commands)
    compare = commands.add_parser(
        "compare",
        help="tell whether one revision's results are better than another's, or it is luck",
        description="Compare the evaluations of two revisions mixture by mixture: a commit, branch "
        "or tag, an experiment of DVC, or `workspace`, what lies here.",
    )
    compare.add_argument("a", nargs="?", default="HEAD", metavar="REV_A", help="(default: HEAD)")
    compare.add_argument(
        "b", nargs="?", default="workspace", metavar="REV_B", help="(default: workspace)"
    )
    compare.add_argument("--json", action="store_true", help="print JSON instead of text")
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
        case "denoise":
            return _denoise(options)
        case "compare":
            return _compare(options.a, options.b, options.json)
        case _:
            return _summary(Path("metrics/details"))


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
    _add_filter(
        parser,
        "--denoise",
        None,
        "filter each region's sound with the other regions' as references; what is taken out "
        "goes to rest.wav",
    )


def _add_denoise(commands: Any) -> None:
    parser = commands.add_parser(
        "denoise",
        help="take out of a recording what others predict of it",
        description="Adaptive noise cancellation: take out of a recording what other recordings, "
        "made at the same time, predict of it. The references should hold the noise, as little as "
        "possible of what is wanted, and hear it no later than the target does. All files have the "
        "same rate and length; every channel of the target is filtered with all channels of all "
        "references.",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="WAV, FLAC, Ogg, MP3, ...")
    parser.add_argument(
        "references", type=Path, nargs="+", metavar="REFERENCE", help="what the noise sounds like"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="CLEAN.wav",
        help="receives the result, as 32-bit floats",
    )
    _add_filter(parser, "--filter", "rls", "which filter (default: %(default)s)")


def _add_filter(parser: Any, option: str, default: str | None, what: str) -> None:
    """Add the options that `_filter_setting` reads.

    Args:
        parser: of the command.
        option: what chooses the filter.
        default: what it is without that option; None for no filter.
        what: the option's help.
    """
    parser.add_argument(
        option, dest="filter", choices=("lms", "nlms", "rls"), default=default, help=what
    )
    parser.add_argument(
        "--taps",
        type=_taps,
        metavar="N",
        help=f"samples of each reference that the filter sees (default: {TAPS}; at 44.1 kHz, sound "
        "goes half a metre in that time)",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="R",
        help=f"how fast it adapts: nlms, below 2 (default: {NLMS_RATE:g}); lms, which has no "
        "default, since what diverges depends on how loud the references are",
    )
    parser.add_argument(
        "--forgetting",
        type=_forgetting,
        metavar="F",
        help=f"of rls, 0.5 to 1; it remembers 1 / (1 - F) samples (default: {RLS_FORGETTING:g})",
    )
    parser.set_defaults(filter_option=option)


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


def _taps(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError(f"--taps {text}: not a whole number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--rate {text}: not a number") from None


def _forgetting(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--forgetting {text}: not a number") from None


def _filter_setting(options: argparse.Namespace) -> "FilterSetting | None":
    """The filter that the options of `_add_filter` ask for; None for none."""
    # Takes a moment to import, which no other command should.
    from sop.denoise.adaptive import FilterSetting, Refused

    name, rate, forgetting = options.filter, options.rate, options.forgetting
    given = {"--taps": options.taps, "--rate": rate, "--forgetting": forgetting}
    if name is None:
        for option, value in given.items():
            if value is not None:
                raise UserError(f"{option} {value:g}: of a filter; choose one by --denoise")
        return None
    if name == "rls":
        if rate is not None:
            raise UserError(f"--rate {rate:g}: of lms and nlms; rls takes --forgetting")
        rate = RLS_FORGETTING if forgetting is None else forgetting
    elif forgetting is not None:
        raise UserError(f"--forgetting {forgetting:g}: of rls; {name} takes --rate")
    elif rate is None:
        if name == "lms":
            raise UserError(
                f"{options.filter_option} lms: needs --rate, for which there is no safe default: "
                "it must stay below one over the energy of the references' newest samples; nlms "
                "does not depend on that"
            )
        rate = NLMS_RATE
    try:
        # Whether the references are too many is known later.
        FilterSetting(name, 1, rate).make(1)
    except Refused as refused:
        raise UserError(f"{options.filter_option} {name}: {refused}") from None
    return FilterSetting(name, TAPS if options.taps is None else options.taps, rate)


def _preset(name: str) -> int:
    changes = apply_preset(name)
    print("\n".join(changes) if changes else "params.yaml holds these values already")
    print("Look with `git diff params.yaml`, run with `dvc repro`.")
    return 0


def _compare(a: str, b: str, as_json: bool) -> int:
    # pandas and scipy take a moment to import, which no other command should.
    from sop.report.comparison import compare

    found = compare(a, b, Path(), load_params().seed)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())
    return 0


def _summary(folder: Path) -> int:
    metrics, denoise = _metrics(folder / "evaluate.json"), folder / "denoise.json"
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
    if denoise.exists():
        print()
        print(_denoised(_metrics(denoise)))
    print(
        """
Where to look next
  data/report/index.html         all of it to look at and to listen to, in a browser
  data/evaluate/, data/denoise/  mixtures and separated sounds
  metrics/evaluate/example.png   a mixture, the sound of each pixel, spectrograms
  dvc plots show                 training curves, SDR by category
  dvc metrics diff               against the last commit
  python -m sop compare          better than the last commit, or luck?
  params.yaml                    edit, then `dvc repro` again"""
    )
    return 0


def _metrics(path: Path) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there yet; `dvc repro` makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); `dvc repro` mends it") from None
    return metrics


def _denoised(metrics: dict[str, Any]) -> str:
    """What the stage `denoise` took, and what it changed."""
    setting = [f"{name} {value:g}" for name, value in metrics["setting"].items()]
    lines = [f"denoise: {', '.join([metrics['method'], *setting])} ({metrics['reason']})"]
    for name in ("sdr", "sir", "sar"):
        change = metrics["change"][name]
        if change is not None and metrics["method"] != "none":
            lines.append(
                f"  {name.upper()} {metrics['before'][name]:.2f} to {metrics['after'][name]:.2f} "
                f"dB, by {change['mean']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f}), "
                f"over {metrics['mixtures']['held_out']} mixtures held out"
            )
    return "\n".join(lines)


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
    setting = _filter_setting(options)

    # Takes seconds to import, which no other command should.
    import torch

    from sop.inference.separator import Separator
    from sop.runtime.device import keep_freed_memory
    from sop.separate.separation import Request, write_separation

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
        denoise=setting,
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
    for note in written.notes:
        print(f"NOTE {note}")
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


def _denoise(options: argparse.Namespace) -> int:
    setting = _filter_setting(options)
    assert setting is not None

    # Takes a moment to import, which no other command should.
    from sop.cancellation.recordings import cancel

    cancelled = cancel(options.target, options.references, options.out, setting)
    for note in cancelled.notes:
        print(_shown(f"NOTE {note}"))
    change = f"{cancelled.decibels:.1f} dB of the energy taken out"
    if cancelled.decibels < 0:
        change = f"{-cancelled.decibels:.1f} dB louder than before: the references predict nothing"
    print(_shown(f"{options.out}: {change}"))
    return 0


def _shown(text: str) -> str:
    """Text with names of files in it, whatever bytes they are made of."""
    return os.fsencode(text).decode("utf-8", "replace")


def _seconds(intervals: Sequence[Sequence[float]]) -> float:
    return sum(end - begin for begin, end in intervals)


def _counted(mixtures: dict[str, Any]) -> str:
    reasons = "".join(f"\n  mixture {n}: {why}" for n, why in mixtures["reasons"].items())
    return f"{mixtures['counted']} mixtures counted, {mixtures['left_out']} left out{reasons}"
