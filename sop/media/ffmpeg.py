"""The ffmpeg binary, and how it is run on files that nobody vouches for."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg

from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.runtime.processes import kill_tree

try:
    import resource
except ImportError:  # Windows knows no such limits.
    resource = None  # type: ignore[assignment]

# Demuxers of real containers. Playlists, scripts and picture sequences, which name other files or
# addresses, are not among them, and neither is what would take any text for a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *("avi", "mpeg", "mpegts", "flv", "asf", "ogg", "mxf", "nut", "rm", "dv", "gxf", "wtv"),
)

# What a message is worth reading of; a broken file can make millions of lines.
MESSAGE_BYTES = 64 * 1024
REASON_CHARACTERS = 160

_PREFIX = re.compile(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] )*\[(\w+)\] ")
_VIDEO = re.compile(r"  Stream #0:\d+.*?: Video: (\w+).*?, (\d+x\d+)")
_AUDIO = re.compile(r"  Stream #0:\d+.*?: Audio: (\w+).*?, (\d+ Hz), ([^,]+)")

_NO_MEMORY = re.compile(r"Cannot allocate memory|pthread_create\(\) failed")

# Memory that is only set aside, for each of many threads, would count towards the limit.
_ONE_ARENA = os.environ | {"MALLOC_ARENA_MAX": "1"}


@lru_cache(maxsize=1)
def binary() -> str:
    """Path of the ffmpeg to run: the first on PATH, or else the one of imageio-ffmpeg.

    Raises:
        UserError: there is neither.
    """
    try:
        return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise UserError(
            "ffmpeg: not found; install it, or `pip install --force-reinstall imageio-ffmpeg`"
        ) from None


@lru_cache(maxsize=1)
def version() -> str:
    """Version of the binary, as it names itself."""
    text = subprocess.run(
        [binary(), "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout
    return text.split()[2]


def input_file(path: Path, **options: Any) -> Any:
    """A video as ffmpeg-python's input: only this one local file, whatever its name or content.

    Args:
        path: the file.
        options: further options of the input.

    Raises:
        LeftOut: its name cannot be given to ffmpeg-python.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LeftOut("its name is not UTF-8; rename it") from None
    return ffmpeg.input(
        f"file:{path}",
        protocol_whitelist="file",
        format_whitelist=",".join(CONTAINERS),
        # Processes work beside each other, one per core; more threads would only compete.
        threads=1,
        **options,
    )


def file_url(path: Path) -> str:
    """The name of an output file: only ever a local file."""
    return f"file:{path}"


@dataclass(frozen=True)
class Limits:
    """What one run of ffmpeg may take; a file that takes more is left out for now."""

    seconds: float = 3600.0
    bytes: int = 1 << 30
    """Of memory. Linux only: elsewhere a running process cannot be given a limit."""


@dataclass
class FfmpegRun:
    """An ffmpeg at work; `messages` and `code` are known once it has ended."""

    stdout: IO[bytes]
    messages: list[tuple[str, str]] = field(default_factory=list)
    """(level, text) of what it said."""
    code: int = 0

    @property
    def errors(self) -> list[str]:
        """What it called an error."""
        return [text for level, text in self.messages if level in ("error", "fatal", "panic")]


@contextmanager
def run_ffmpeg(outputs: Any, limits: Limits) -> Iterator[FfmpegRun]:
    """Run ffmpeg, its standard output being read by the block; leaving the block ends it.

    Args:
        outputs: an output of ffmpeg-python, or several merged.
        limits: of time and memory.

    Raises:
        LeftOutForNow: it went beyond a limit, or crashed.
        UserError: the disk is full.
    """
    command = outputs.global_args(
        *("-nostdin", "-hide_banner", "-nostats", "-y", "-loglevel", "level+info"),
        *("-filter_complex_threads", "1", "-max_error_rate", "0.02"),
    ).compile(cmd=binary())
    # A file takes any number of messages; a pipe that nobody reads would stop ffmpeg.
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=_ONE_ARENA
        ) as process,
    ):
        assert process.stdout is not None
        _limit_memory(process.pid, limits.bytes)
        run = FfmpegRun(process.stdout)
        late = threading.Event()
        # Without a limit, as long as a thread can wait at all.
        seconds = min(limits.seconds, threading.TIMEOUT_MAX)
        alarm = threading.Timer(seconds, _stop, (process, late))
        alarm.daemon = True
        alarm.start()
        try:
            yield run
        except BaseException:
            kill_tree(process)
            # What a killed ffmpeg left half-said would only mislead.
            if not late.is_set():
                raise
        finally:
            process.stdout.close()
            run.code = process.wait()
            alarm.cancel()
            run.messages = _messages(said)
    if late.is_set():
        raise LeftOutForNow(f"ffmpeg took longer than {limits.seconds:g} s and was stopped")
    if any("No space left on device" in error for error in run.errors):
        raise UserError("no space left on the disk; free some and run again, it goes on from here")
    if any(_NO_MEMORY.search(error) for error in run.errors):
        raise LeftOutForNow(f"ffmpeg needs more memory than {limits.bytes >> 20} MiB")
    if run.code < 0:
        raise LeftOutForNow(f"ffmpeg crashed ({signal.Signals(-run.code).name})")


def run_to_end(outputs: Any, limits: Limits) -> FfmpegRun:
    """Run ffmpeg to its end, without output to read."""
    with run_ffmpeg(outputs, limits) as run:
        run.stdout.read()
    return run


@dataclass(frozen=True)
class Header:
    """What a video file says of itself."""

    containers: tuple[str, ...]
    """Names of the container, as ffmpeg's demuxer has them."""
    seconds: float | None
    """Length; None where the file does not say, or it is a guess."""
    format: str
    """Codecs, size and rates, as `h264 640x360, aac 44100 Hz stereo`."""


def probe_header(path: Path, limits: Limits) -> Header:
    """Read the header of a video.

    Raises:
        LeftOut: it is not a video.
    """
    command = ffmpeg.output(input_file(path), "-", format="null", t=0, codec="copy")
    return parse_header(run_to_end(command, limits))


def parse_header(run: FfmpegRun) -> Header:
    """The header of the video that ffmpeg was run on.

    Raises:
        LeftOut: it is not a video.
    """
    containers: tuple[str, ...] | None = None
    seconds = None
    video = audio = ""
    for _, text in run.messages:
        if text.startswith("Output #0"):
            break
        if (stream := _VIDEO.match(text)) and "(attached pic)" not in text:
            video = video or " ".join(stream.groups())
        elif stream := _AUDIO.match(text):
            audio = audio or " ".join(stream.groups())
        elif opened := re.match(r"Input #0, (\S+), from ", text):
            containers = tuple(opened[1].split(","))
        elif length := re.match(r"  Duration: (\d+):(\d+):(\d+\.\d+), ", text):
            hours, minutes, rest = length.groups()
            seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest)
    if containers is None:
        raise LeftOut(f"not a video that ffmpeg reads ({error_message(run)})")
    guessed = any("Estimating duration" in text for _, text in run.messages)
    return Header(containers, None if guessed else seconds, ", ".join(filter(None, (video, audio))))


def error_message(run: FfmpegRun) -> str:
    """Why ffmpeg failed, in its own words: the first thing that it called an error."""
    ended = f"ended by signal {-run.code}" if run.code < 0 else f"exit status {run.code}"
    first = next(iter(run.errors), f"ffmpeg: {ended}")
    if "not on whitelist" in first:
        return "not a video container"
    # The line that holds this reason names the file already.
    return first.removeprefix("Error opening input: ").rstrip(".")[:REASON_CHARACTERS]


def exact_rate(rate: float) -> str:
    """A rate as ffmpeg takes it without loss: 29.97 is 2997/100."""
    return str(Fraction(str(rate)))


def _stop(process: "subprocess.Popen[bytes]", late: threading.Event) -> None:
    late.set()
    kill_tree(process)


def _limit_memory(process: int, limit: int) -> None:
    """Make a running process fail to get more than so much memory of its own."""
    if hasattr(resource, "prlimit"):
        # It may have ended already.
        with suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))


def _messages(said: IO[bytes]) -> list[tuple[str, str]]:
    """The levels and texts of the first and last lines."""
    size = said.seek(0, 2)
    said.seek(0)
    text = said.read(MESSAGE_BYTES)
    if size > 2 * MESSAGE_BYTES:
        said.seek(size - MESSAGE_BYTES)
        text += b"\n"
    text += said.read(MESSAGE_BYTES)
    messages = []
    for line in text.decode("utf-8", errors="replace").splitlines():
        if match := _PREFIX.match(line):
            clean = "".join(c if c.isprintable() else "?" for c in line[match.end() :])
            messages.append((match[1], clean))
    return messages
