"""Run ffmpeg on untrusted files: containers, time and memory are limited."""

import errno
import math
import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import ffmpeg
import psutil

from sop.media.binary import binary, is_tool_fault, signal_name
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

# Demuxers of sound files, for a sound that is not in the file of its video.
SOUND_CONTAINERS = (*CONTAINERS, "wav", "w64", "flac", "mp3", "aac")

# Read from the beginning and from the end of the log; a broken file can cause millions of lines.
MESSAGE_BYTES = 64 * 1024
REASON_CHARACTERS = 160

_PREFIX = re.compile(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] )*\[(\w+)\] ")
_VIDEO = re.compile(r"  Stream #0:\d+.*?: Video: (\w+).*?, (\d+)x(\d+)(?:.*? DAR (\d+):(\d+)\])?")
_AUDIO = re.compile(r"  Stream #0:(\d+).*?: Audio: (\w+).*?, (\d+ Hz), ([^,]+)")

# The duration in the header of these containers is counted from 0, not from the first stream.
_COUNTED_FROM_0 = {"matroska", "asf", "nut"}

_NO_MEMORY = re.compile(r"Cannot allocate memory|pthread_create\(\) failed")
# An encoder that fails with this error, and has used this share of the limit, has run out of it.
_ENCODER_FAILED = "Generic error in an external library"
_USED_UP = 0.7

_NO_DECODER = re.compile(r"no decoder found for: (\w+)|Decoder (?:\(codec )?(\w+)\)? not found")

# Settings of glibc's allocator for a run with limits. One arena: the memory that glibc reserves for
# the arena of each thread would count towards the limit. Defined contents of new memory: libx264
# reads some that it has not written, and with one arena about one encode of 60 would differ.
_LIMITED = {"MALLOC_ARENA_MAX": "1", "MALLOC_PERTURB_": "85"}


def input_file(path: Path, **options: Any) -> Any:
    """Return a video as an input of ffmpeg-python; ffmpeg then reads no other file or address.

    Args:
        path: the file.
        options: further options of the input.

    Raises:
        LeftOut: the name cannot be passed to ffmpeg-python.
    """
    return _input(path, CONTAINERS, options)


def sound_file(path: Path, **options: Any) -> Any:
    """Return a file with a sound as an input, as `input_file` does a video."""
    return _input(path, SOUND_CONTAINERS, options)


def _input(path: Path, containers: Iterable[str], options: dict[str, Any]) -> Any:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LeftOut("its name is not UTF-8; rename it") from None
    return ffmpeg.input(
        f"file:{path}",
        protocol_whitelist="file",
        format_whitelist=",".join(containers),
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
    origin: str = ""
    """What determines the maximum memory, such as the name of a parameter; for messages."""

    @classmethod
    def of_parameters(cls, seconds: float, memory_limit_mib: int) -> "Limits":
        """Return the limits that the parameters of the pipeline set."""
        return cls(seconds, memory_limit_mib << 20, "extract.memory_limit_mib")


def free_memory_limits(seconds: float) -> Limits:
    """Return limits for a file that the user has chosen: half of the memory that is free."""
    free = psutil.virtual_memory().available // 2
    return Limits(seconds, max(Limits.bytes, free), "half of the free memory")


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
        UserError: the disk of temporary files is full, or this ffmpeg lacks something that the
            command uses.
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
            used = _wait(process)
            run.code = process.returncode
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
    if run.code > 0 and (fault := next(filter(is_tool_fault, run.errors), None)):
        raise UserError(f"{command[0]}: this ffmpeg cannot be used ({fault}); install another")
    if limits and _out_of_memory(run, used / limits.bytes):
        origin = f" ({limits.origin})" if limits.origin else ""
        raise LeftOutForNow(f"ffmpeg needs more memory than {limits.bytes >> 20} MiB{origin}")
    if run.code < 0:
        raise LeftOutForNow(f"ffmpeg crashed ({signal_name(-run.code)})")


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process to end, and return the most memory that it had, in bytes."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:
        # The thread of the time limit has noticed the end first.
        process.wait()
        return 0
    process.returncode = os.waitstatus_to_exitcode(status)
    # Kilobytes; only of Linux, where there is a limit.
    return int(usage.ru_maxrss) << 10


def _out_of_memory(run: FfmpegRun, used: float) -> bool:
    """Return True if a run failed for want of memory.

    Args:
        run: a run that has ended.
        used: the share of the limit that it had in use.
    """
    if any(_NO_MEMORY.search(error) for error in run.errors):
        return True
    failed = run.code > 0 and any(_ENCODER_FAILED in error for error in run.errors)
    return failed and used > _USED_UP


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
class SoundTrack:
    """A sound stream of a video file."""

    index: int
    """Number among all streams."""
    codec: str
    format: str
    """Codec, rate and channels, such as `aac 44100 Hz stereo`."""
    is_default: bool
    """True if the file marks it as the one to play."""


@dataclass(frozen=True)
class Header:
    """Header of a video file."""

    containers: tuple[str, ...]
    """Names of ffmpeg's demuxer for the container."""
    seconds: float | None
    """Length; None if the file does not contain it or ffmpeg only estimates it."""
    pictures: str
    """Codec and size, such as `h264 640x360`; empty without pictures."""
    size: tuple[int, int]
    """Width and height of the stored pictures, pixels; zeros without pictures."""
    aspect: float | None
    """Width over height of the displayed picture, before rotation; None without pictures."""
    sounds: tuple[SoundTrack, ...]
    """The sound streams, in their order."""

    @property
    def format(self) -> str:
        """Codecs, size and rates, such as `h264 640x360, aac 44100 Hz stereo`."""
        sound = self.sounds[0].format if self.sounds else ""
        return ", ".join(filter(None, (self.pictures, sound)))


def probe_header(path: Path, limits: Limits, is_sound: bool = False) -> Header:
    """Read the header of a video, or of a file that may contain a sound only.

    Raises:
        LeftOut: the file is not a video, or not a sound.
    """
    source = sound_file(path) if is_sound else input_file(path)
    command = ffmpeg.output(source, "-", format="null", t=0, codec="copy")
    return parse_header(run_to_end(command, limits), "sound" if is_sound else "video")


def parse_header(run: FfmpegRun, kind: str = "video") -> Header:
    """Parse the header that ffmpeg logged of its input.

    Args:
        run: a run that has ended.
        kind: what the file should be, for messages.

    Raises:
        LeftOut: the file is not a video.
    """
    containers: tuple[str, ...] | None = None
    seconds = aspect = None
    pictures, size = "", (0, 0)
    sounds = []
    for _, text in run.messages:
        if text.startswith("Output #0"):
            break
        if (stream := _VIDEO.match(text)) and "(attached pic)" not in text:
            if not pictures:
                codec, *sizes = stream.groups()
                pictures = f"{codec} {sizes[0]}x{sizes[1]}"
                width, height, *displayed = (int(number or 0) for number in sizes)
                size = width, height
                across, down = displayed if all(displayed) else size
                aspect = across / down if across and down else None
        elif stream := _AUDIO.match(text):
            index, codec, *rest = stream.groups()
            words = " ".join((codec, *rest))
            sounds.append(SoundTrack(int(index), codec, words, "(default)" in text))
        elif opened := re.match(r"Input #0, (\S+), from ", text):
            containers = tuple(opened[1].split(","))
        elif length := re.match(
            r"  Duration: (\d+):(\d+):(\d+\.\d+),(?: start: (-?\d+\.\d+),)?", text
        ):
            hours, minutes, rest_, start = length.groups()
            seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest_)
            if containers is not None and _COUNTED_FROM_0.intersection(containers):
                seconds -= float(start or 0)
    if containers is None:
        raise LeftOut(f"not a {kind} that ffmpeg reads ({error_message(run)})")
    if any("Estimating duration" in text for _, text in run.messages):
        seconds = None
    sounds.sort(key=lambda track: track.index)
    return Header(containers, seconds, pictures, size, aspect, tuple(sounds))


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
        for error in run.errors:
            if missing := _NO_DECODER.search(error):
                codec = missing[1] or missing[2]
                raise LeftOut(f"this ffmpeg has no decoder for {codec}; transcode the video")
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
