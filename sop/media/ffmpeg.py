"""Run ffmpeg on untrusted files: containers, time and memory are limited."""

import errno
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg

from sop.runtime.errors import DISK_ERRORS, LeftOut, LeftOutForNow, UserError
from sop.runtime.files import temporary_place, writing_temporary
from sop.runtime.log import printable
from sop.runtime.processes import kill_tree, time_limit

# Demuxers of real containers. Excluded are playlists, scripts and picture sequences, which refer to
# other files or addresses, and demuxers that accept any text as a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *("avi", "mpeg", "mpegts", "flv", "asf", "ogg", "mxf", "nut", "rm", "dv", "gxf", "wtv"),
)

# Read from the beginning and from the end of the log; a broken file can cause millions of lines.
MESSAGE_BYTES = 64 * 1024
REASON_CHARACTERS = 160

_PREFIX = re.compile(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] )*\[(\w+)\] ")
_VIDEO = re.compile(r"  Stream #0:\d+.*?: Video: (\w+).*?, (\d+x\d+)")
_AUDIO = re.compile(r"  Stream #0:\d+.*?: Audio: (\w+).*?, (\d+ Hz), ([^,]+)")

_NO_MEMORY = re.compile(r"Cannot allocate memory|pthread_create\(\) failed")

# Settings of glibc's allocator for a run with limits. One arena: the memory that glibc reserves for
# the arena of each thread would count towards the limit. Defined contents of new memory: libx264
# reads some that it has not written, and with one arena about one encode of 60 would differ.
_LIMITED = {"MALLOC_ARENA_MAX": "1", "MALLOC_PERTURB_": "85"}


@lru_cache(maxsize=1)
def binary() -> str:
    """Return the path of ffmpeg: the first on PATH, or else that of imageio-ffmpeg.

    Raises:
        UserError: there is none.
    """
    try:
        return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise UserError(
            "ffmpeg: not found; install it, or `pip install --force-reinstall imageio-ffmpeg`"
        ) from None


@lru_cache(maxsize=1)
def version() -> str:
    """Return the version that the binary reports."""
    command = [binary(), "-version"]
    return subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True).split()[2]


def input_file(path: Path, **options: Any) -> Any:
    """Return a video as an input of ffmpeg-python; ffmpeg then reads no other file or address.

    Args:
        path: the file.
        options: further options of the input.

    Raises:
        LeftOut: the name cannot be passed to ffmpeg-python.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LeftOut("its name is not UTF-8; rename it") from None
    return ffmpeg.input(
        f"file:{path}",
        protocol_whitelist="file",
        format_whitelist=",".join(CONTAINERS),
        # One process runs per core; more threads would only compete.
        threads=1,
        **options,
    )


def file_url(path: Path) -> str:
    """Return the URL of a local file, so that ffmpeg takes no name for another protocol."""
    return f"file:{path}"


@dataclass(frozen=True)
class Limits:
    """Limits of one run of ffmpeg; a file that exceeds them is left out for now."""

    seconds: float = 3600.0
    """Maximum run time."""
    bytes: int = 1 << 30
    """Maximum memory. Only on Linux: elsewhere a running process cannot be limited."""


@dataclass
class FfmpegRun:
    """A run of ffmpeg; `messages` and `code` are set when it has ended."""

    stdout: IO[bytes]
    stdin: IO[bytes] | None
    messages: list[tuple[str, str]] = field(default_factory=list)
    """Log messages: level and text."""
    code: int = 0
    """Exit status, negative if ended by a signal."""

    @property
    def errors(self) -> list[str]:
        """Texts of the messages that report an error."""
        return [text for level, text in self.messages if level in ("error", "fatal", "panic")]


@contextmanager
def run_ffmpeg(outputs: Any, limits: Limits | None, stdin: bool = False) -> Iterator[FfmpegRun]:
    """Run ffmpeg while the block reads its standard output; leaving the block waits for the end.

    Args:
        outputs: an output of ffmpeg-python, or several merged.
        limits: maximum time and memory; None, for input that is trusted, sets none.
        stdin: True if the block writes an input of the command to `FfmpegRun.stdin`.

    Raises:
        LeftOutForNow: ffmpeg exceeded a limit, or crashed.
        OSError: the disk is full; `replacing` reports it.
        UserError: the disk of temporary files is full.
    """
    command = outputs.global_args(
        *("-nostdin", "-hide_banner", "-nostats", "-y", "-loglevel", "level+info"),
        *("-filter_complex_threads", "1", "-max_error_rate", "0.02"),
    ).compile(cmd=binary())
    # The log goes to a file: ffmpeg would block on a full pipe.
    log_place = temporary_place()
    with (
        tempfile.TemporaryFile(dir=log_place) as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | (_LIMITED if limits else {}),
        ) as process,
        time_limit(process, limits.seconds if limits else math.inf) as expired,
    ):
        assert process.stdout is not None
        if limits and hasattr(resource, "prlimit"):  # Only Linux has it.
            # Private memory. The process may have ended already.
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (limits.bytes, limits.bytes))
        run = FfmpegRun(process.stdout, process.stdin)
        try:
            yield run
        except BaseException:
            kill_tree(process)
            # Incomplete output of a killed ffmpeg makes the block fail; the limit is the reason.
            if not expired.is_set():
                raise
        finally:
            process.stdout.close()
            run.code = process.wait()
            run.messages = _messages(log)
        # One more byte tells whether all messages found room on the disk.
        with writing_temporary(log_place / "log"):
            log.seek(0, os.SEEK_END)
            log.write(b"\n")
            log.flush()
    if limits and expired.is_set():
        raise LeftOutForNow(f"ffmpeg took longer than {limits.seconds:g} s and was stopped")
    for number in DISK_ERRORS:
        if any(os.strerror(number) in error for error in run.errors):
            raise OSError(number, os.strerror(number))
    if run.code == -signal.SIGXFSZ:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if limits and any(_NO_MEMORY.search(error) for error in run.errors):
        raise LeftOutForNow(f"ffmpeg needs more memory than {limits.bytes >> 20} MiB")
    if run.code < 0:
        raise LeftOutForNow(f"ffmpeg crashed ({signal.Signals(-run.code).name})")


def run_to_end(
    outputs: Any, limits: Limits | None, stdin: Iterable[bytes] | None = None
) -> FfmpegRun:
    """Run ffmpeg to its end without reading its output.

    Args:
        outputs: as for `run_ffmpeg`.
        limits: as for `run_ffmpeg`.
        stdin: blocks to write to standard input, if the command reads it.

    Raises:
        LeftOutForNow: as for `run_ffmpeg`.
        UserError: as for `run_ffmpeg`.
    """
    with run_ffmpeg(outputs, limits, stdin=stdin is not None) as run:
        if run.stdin is not None and stdin is not None:
            # If ffmpeg ends early, its exit status and messages give the reason.
            with suppress(BrokenPipeError), run.stdin:
                run.stdin.writelines(stdin)
        run.stdout.read()
    return run


@dataclass(frozen=True)
class Header:
    """Header of a video file."""

    containers: tuple[str, ...]
    """Names of ffmpeg's demuxer for the container."""
    seconds: float | None
    """Length; None if the file does not contain it or ffmpeg only estimates it."""
    format: str
    """Codecs, size and rates, such as `h264 640x360, aac 44100 Hz stereo`."""


def probe_header(path: Path, limits: Limits) -> Header:
    """Read the header of a video.

    Raises:
        LeftOut: the file is not a video.
    """
    command = ffmpeg.output(input_file(path), "-", format="null", t=0, codec="copy")
    return parse_header(run_to_end(command, limits))


def parse_header(run: FfmpegRun) -> Header:
    """Parse the header that ffmpeg logged of its input.

    Raises:
        LeftOut: the file is not a video.
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
    """Return the first error that ffmpeg logged, or how it ended."""
    ended = f"ended by signal {-run.code}" if run.code < 0 else f"exit status {run.code}"
    first = next(iter(run.errors), f"ffmpeg: {ended}")
    if "not on whitelist" in first:
        return "not a video container"
    # The line that contains this reason names the file already.
    return first.removeprefix("Error opening input: ").rstrip(".")[:REASON_CHARACTERS]


def check_run(run: FfmpegRun, problem: str = "damaged: {}") -> None:
    """Check that ffmpeg succeeded.

    Args:
        run: a run that has ended.
        problem: message about a failure; `{}` stands for ffmpeg's error.

    Raises:
        LeftOut: it failed.
    """
    if run.code:
        # Sorted, because the order of messages of concurrent decoders varies.
        run.messages.sort()
        raise LeftOut(problem.format(error_message(run)))


def exact_rate(rate: float) -> str:
    """Return a rate as the fraction that ffmpeg reads without loss: 29.97 is 2997/100."""
    return str(Fraction(str(rate)))


def _messages(log: IO[bytes]) -> list[tuple[str, str]]:
    """Return the levels and texts of the first and the last lines."""
    size = log.seek(0, 2)
    log.seek(0)
    text = log.read(MESSAGE_BYTES)
    if size > 2 * MESSAGE_BYTES:
        log.seek(size - MESSAGE_BYTES)
        text += b"\n"
    text += log.read(MESSAGE_BYTES)
    messages = []
    for line in text.decode("utf-8", errors="replace").splitlines():
        if match := _PREFIX.match(line):
            messages.append((match[1], printable(line[match.end() :])))
    return messages
