"""The command `separate`."""

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sop.catalogue.names import require_model
from sop.cli.options import (
    add_filter_options,
    add_model_option,
    add_option,
    chosen_filter,
    number,
    path_of,
    whole_number,
)
from sop.runtime.errors import UserError
from sop.runtime.files import require_file, require_place
from sop.runtime.log import say

if TYPE_CHECKING:
    from sop.separate.separation import SeparationOptions, SeparationOutput

MAX_GAIN = 100
# A year.
MAX_SECONDS = 366 * 86_400
PAGE_SECONDS = 6.0
DEFAULT_OUT = Path("separated")


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "separate",
        help="separate the sound of a video by image region",
        description="Find the image regions of a video that make sound. Write the sound of each "
        "region as a WAV file and the remaining sound as rest.wav; their sum is the original "
        "sound. overlay.mp4 shows where and when each region sounds, and regions.json lists it.",
    )
    parser.add_argument(
        "videos",
        type=path_of("VIDEO"),
        nargs="+",
        metavar="VIDEO",
        help="any file that ffmpeg reads; several are separated one after the other",
    )
    parser.add_argument(
        "--out",
        type=path_of("--out"),
        metavar="DIR",
        help="folder for the results; of several videos, a folder in it for each, named like the "
        f"video (default: {DEFAULT_OUT}/NAME)",
    )
    add_model_option(parser)
    add_option(
        parser,
        "--device",
        _device,
        "auto, cpu, cuda, cuda:0, cuda:1, ...",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)",
    )
    repeated: dict[str, Any] = {"action": "append", "default": []}
    where = parser.add_mutually_exclusive_group()
    add_option(
        where,
        "--regions",
        lambda text: None if text == "auto" else whole_number(text),
        "auto or a whole number, 1 or more",
        metavar="auto|K",
        help="number of regions (default: auto)",
    )
    add_option(
        where,
        "--at",
        _point,
        "two numbers, as in 0.25,0.5 or 320,180",
        **repeated,
        metavar="X,Y",
        help="separate the sound of this point, as fractions of width and height (0.25,0.5), or in "
        "pixels if a number is above 1 (320,180); may be repeated",
    )
    add_option(
        parser,
        "--gain",
        _gain,
        f"a region and a factor from 0 to {MAX_GAIN}, as in 1=0.5",
        **repeated,
        metavar="N=G",
        help="also write a video in which the volume of region N, or of `rest`, is multiplied by "
        "G; may be repeated",
    )
    for option, text in (("--mute", "without region N"), ("--solo", "with region N only")):
        add_option(
            parser,
            option,
            _component,
            "the number of a region, or rest",
            **repeated,
            metavar="N",
            help=f"also write a video {text} (or `rest`); may be repeated",
        )
    for option, text in (("--start", "begin"), ("--end", "end")):
        add_option(
            parser,
            option,
            _seconds,
            "seconds, or minutes or hours with colons, as in 90 or 1:30",
            metavar="TIME",
            help=f"{text} of the part that is separated, as in 90 or 1:30",
        )
    parser.add_argument(
        "--image",
        type=path_of("--image"),
        metavar="FILE",
        help="a still picture instead of the video, which may then be a sound",
    )
    parser.add_argument(
        "--format",
        choices=("wav", "flac", "mp3"),
        default="wav",
        help="format of the sounds: wav (32-bit floats), flac (24 bits) or mp3 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--stems-only",
        action="store_true",
        help="write the sounds and regions.json alone, without overlay and pictures",
    )
    parser.add_argument(
        "--model-rate",
        action="store_true",
        help="write mono sound at the model's sample rate instead of the video's rate and channels",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="also write a web page that plays the sound of any pixel, for the part of the video "
        "in which the regions are loudest",
    )
    add_option(
        parser,
        "--page-seconds",
        lambda text: number(text, 1, 60),
        "a number from 1 to 60",
        metavar="S",
        help=f"length of that part, 1 to 60 (default: {PAGE_SECONDS:g})",
    )
    add_filter_options(
        parser,
        "--denoise",
        None,
        "filter the sound of each region, with the other regions as references; the removed sound "
        "is added to rest.wav",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Separate the videos and print what was found and written."""
    several = len(options.videos) > 1
    if not several:
        require_file(options.videos[0])
    if options.image is not None:
        require_file(options.image)
    require_model(options.model)
    out = options.out or DEFAULT_OUT
    require_place(out, "folder")
    denoise = chosen_filter(options)
    gains = _gains(options.gain)
    if options.page_seconds is not None and not options.page:
        raise UserError("--page-seconds requires --page")

    # Imports PyTorch, which takes seconds.
    import torch

    from sop.runtime.device import keep_freed_memory
    from sop.separate.api import Separator
    from sop.separate.separation import SeparationOptions
    from sop.separate.source import Source

    keep_freed_memory()
    # ffmpeg runs at the same time, and threads that wait for each other on a busy core are slow.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    separation_options = SeparationOptions(
        regions=options.regions,
        places=options.at,
        gains=gains or None,
        muted=frozenset(options.mute),
        solo=frozenset(options.solo),
        model_rate=options.model_rate,
        page_seconds=(options.page_seconds or PAGE_SECONDS) if options.page else None,
        stems_only=options.stems_only,
        sound_format=options.format,
        denoise=denoise,
    )
    part = options.start, options.end, options.image
    sources = [Source(video, *part) for video in options.videos]
    separator = Separator.load(options.model, options.device)
    if not several and options.out is not None:
        written = separator.write(sources[0], out, separation_options, progress=True)
        _report(written, out, separation_options)
        return 0
    failures = []
    for source, folder, result in separator.write_all(
        sources, out, separation_options, progress=True
    ):
        if isinstance(result, UserError):
            if not several:
                raise result
            failures.append(result)
            say(f"FAILED {result}")
        else:
            if several:
                say(f"{source.video}:")
            _report(result, folder, separation_options)
    if failures:
        say(f"{len(failures)} of {len(sources)} videos could not be separated:")
        say(*(f"  {failure}" for failure in failures))
    return 2 if failures else 0


def _report(
    written: "SeparationOutput", out: Path, separation_options: "SeparationOptions"
) -> None:
    """Print what was found in a video and written to a folder."""
    regions = written.description["regions"]
    if not regions:
        say(f"No region makes sound; {written.description['rest']['file']} has the whole sound.")
    for region in regions:
        centre = region["centre_pixels"]
        seconds = sum(end - begin for begin, end in region["sounds"])
        say(
            f"region {region['number']}: {region['energy']:.0%} of the energy, around "
            f"{centre['x']},{centre['y']}, sounds {seconds:.1f} of "
            f"{written.description['seconds']:.1f} s" + _like(region.get("like"))
        )
    for doubt in written.doubts:
        say(f"NOTE {doubt.text}")
    for note in written.notes:
        say(f"NOTE {note}")
    say(f"{out}: {', '.join(written.files)}")
    if written.remix_peak > 1:
        excess = 20 * math.log10(written.remix_peak)
        say(f"The remix exceeds full scale by {excess:.1f} dB and clips; use lower gains.")
    if separation_options.remixes:
        remix = next(name for name in written.files if name.startswith("remix."))
        say(f"Play {out / remix} to hear the new volumes.")
    if written.page is not None:
        part = "{:.1f} to {:.1f}".format(*written.page)
        say(f"Open {out / 'page/index.html'} to play any pixel, seconds {part}.")
    elif not (separation_options.remixes or separation_options.stems_only):
        say("Open overlay.mp4 to see the regions; --page adds a page that plays any pixel.")


def _like(guess: dict[str, Any] | None) -> str:
    """Return what a region looks like, as the end of a line."""
    return f", like: {guess['category']} ({guess['probability']:.2f})" if guess else ""


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise ValueError
    return text


def _seconds(text: str) -> float:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
        raise ValueError
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + number(part, 0, MAX_SECONDS)
    return number(str(seconds), 0, MAX_SECONDS)


def _point(text: str) -> tuple[float, float]:
    x, y = map(float, text.split(","))
    return x, y


def _gain(text: str) -> tuple[str, float]:
    name, _, factor = text.partition("=")
    return _component(name), number(factor, 0, MAX_GAIN)


def _component(text: str) -> str:
    return text if text == "rest" else str(whole_number(text))


def _gains(given: list[tuple[str, float]]) -> dict[str, float]:
    """Return the volume of each component.

    Raises:
        UserError: one is given twice.
    """
    gains: dict[str, float] = {}
    for name, gain in given:
        if name in gains:
            raise UserError(f"--gain {name}: given twice; keep one of them")
        gains[name] = gain
    return gains
