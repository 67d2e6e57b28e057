"""Choose the ffmpeg that is run: each candidate is tried once before it is used."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import imageio_ffmpeg

from sop.runtime.errors import UserError
from sop.runtime.log import printable

logger = logging.getLogger(__name__)

# Names an ffmpeg that is used instead of the one on PATH and the bundled one.
OVERRIDE = "SOP_FFMPEG"

# Results of trials, for child processes.
_TRIED = "SOP_FFMPEG_TRIED"

# Of ffmpeg 7.0, the oldest version that passes the tests. Older ones synchronise some videos
# differently, and do not report that the format of a sound changes.
_OLDEST = "7.0"
_OLDEST_LIBAVCODEC = 61

_TRIAL_SECONDS = 60.0

# Uses all filters, encoders and muxers that this package uses, on a picture and a sound that no
# input file is needed for.
_FILTERS = (
    "nullsrc=s=64x48:r=25:d=0.2,format=yuv420p,setparams=colorspace=bt709,split=3[v0][v1][v2];"
    "[v0]fps=8:start_time=0:round=near,trim=end_frame=1,setpts=PTS-STARTPTS,"
    "scale=32:24:out_color_matrix=bt601:out_range=pc,setsar=1,format=yuvj420p[jpeg];"
    "[v1]split[left][right];[left][right]hstack=inputs=2,crop=64:48[h264];"
    "[v2]loop=loop=1:size=1,format=rgb24,split[ppm][ffv1];"
    "anullsrc=r=48000:cl=stereo,atrim=end=0.2,aeval=val(ch):c=same,asplit=4[a0][a1][a2][flac];"
    "[a0]aresample=11025:async=1:first_pts=0:min_hard_comp=0.04,"
    "aformat=sample_fmts=s16:channel_layouts=mono,apad=pad_dur=0.1,atrim=end_sample=2205[pcm];"
    "[a1]asetpts=PTS-STARTPTS,aformat=channel_layouts=stereo[aac];"
    "[a2]aformat=channel_layouts=stereo[opus]"
)
_ENCODE = (
    *("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "error"),
    *("-filter_complex_threads", "1", "-max_error_rate", "0.02", "-filter_complex", _FILTERS),
    *("-map", "[h264]", "-map", "[aac]", "-c:v", "libx264", "-preset", "veryfast"),
    *("-threads", "1", "-c:a", "aac", "-f", "mpegts", "pipe:1"),
    *("-map", "[jpeg]", "-c:v", "mjpeg", "-q:v", "3", "-threads", "1", "-f", "mpjpeg", os.devnull),
    *("-map", "[ppm]", "-c:v", "ppm", "-f", "image2pipe", os.devnull),
    *("-map", "[ffv1]", "-c:v", "ffv1", "-f", "nut", os.devnull),
    *("-map", "[pcm]", "-c:a", "pcm_s16le", "-f", "wav", os.devnull),
    *("-map", "[flac]", "-c:a", "flac", "-f", "flac", os.devnull),
    *("-map", "[opus]", "-c:a", "libopus", "-f", "webm", os.devnull),
)
_DECODE = (
    *("-nostdin", "-nostats", "-loglevel", "info", "-f", "mpegts"),
    *("-protocol_whitelist", "pipe", "-format_whitelist", "mpegts", "-i", "pipe:0"),
    *("-map", "0:V:0", "-map", "0:a:0", "-f", "framecrc", "pipe:1"),
)


@dataclass(frozen=True)
class Trial:
    """Result of trying an ffmpeg."""

    version: str = ""
    """Version that it reports; empty if it does not run."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""


@dataclass(frozen=True)
class Binary:
    """An ffmpeg that works."""

    path: str
    version: str


def binary() -> str:
    """Return the path of ffmpeg: `SOP_FFMPEG`, else one on PATH, else that of imageio-ffmpeg.

    Raises:
        UserError: there is none that works.
    """
    return _chosen().path


def version() -> str:
    """Return the version that the binary reports."""
    return _chosen().version


def forget() -> None:
    """Choose again at the next call, as in a new process."""
    os.environ.pop(_TRIED, None)
    _choice.cache_clear()


_lock = threading.Lock()


def _chosen() -> Binary:
    # Concurrent first calls would each try the candidates.
    with _lock:
        return _choice()


@lru_cache(maxsize=1)
def _choice() -> Binary:
    override = os.environ.get(OVERRIDE)
    if override:
        path = shutil.which(override)
        trial = Trial(problem="no such program") if path is None else _tried(path)
        if path is None or trial.problem:
            raise UserError(
                f"{OVERRIDE}: {path or override}: {trial.problem}; name another ffmpeg, or unset it"
            )
        return Binary(path, trial.version)
    refused: list[str] = []
    # Child processes do not repeat what the first one has said.
    said = _TRIED in os.environ
    for path in dict.fromkeys(_candidates()):
        trial = _tried(path)
        if not trial.problem:
            for reason in () if said else refused:
                logger.warning(f"{reason}; {path} is used instead ({OVERRIDE} chooses another)")
            return Binary(path, trial.version)
        refused.append(f"{path}: {trial.problem}")
    found = "; ".join(refused) or "not found"
    raise UserError(
        f"ffmpeg: {found}; install version {_OLDEST} or later, or "
        "`pip install --upgrade --force-reinstall imageio-ffmpeg`"
    )


def _candidates() -> Iterator[str]:
    if path := shutil.which("ffmpeg"):
        yield path
    with suppress(RuntimeError):
        # It may be a name on PATH.
        if path := shutil.which(imageio_ffmpeg.get_ffmpeg_exe()):
            yield path


def _tried(path: str) -> Trial:
    """Try an ffmpeg, unless a parent process has already tried the same file."""
    place = Path(path).resolve()
    state = place.stat()
    identity = f"{place} {state.st_size} {state.st_mtime_ns}"
    known = _known_trials()
    if identity not in known:
        known[identity] = _try(path)
        os.environ[_TRIED] = json.dumps({name: asdict(trial) for name, trial in known.items()})
    return known[identity]


def _known_trials() -> dict[str, Trial]:
    try:
        values = json.loads(os.environ.get(_TRIED, "{}"))
        return {identity: Trial(**trial) for identity, trial in values.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _try(path: str) -> Trial:
    """Encode and decode a fifth of a second with all that this package uses."""
    try:
        encoded = _run((path, *_ENCODE))
        decoded = _run((path, *_DECODE), encoded.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it does not end"
        return Trial(problem=f"does not run ({reason})")
    # The banner comes before any error.
    log = decoded.stderr.decode("utf-8", errors="replace")
    found = re.search(r"ffmpeg version (\S+)", log)
    library = re.search(r"libavcodec +(\d+)\.", log)
    if found is None or library is None:
        return Trial(problem="is no ffmpeg")
    if int(library[1]) < _OLDEST_LIBAVCODEC:
        return Trial(found[1], f"version {found[1]} is older than {_OLDEST}")
    for run, action in ((encoded, "encode"), (decoded, "decode")):
        if run.returncode:
            reason = _reason(run, action)
            return Trial(found[1], f"version {found[1]} cannot be used here ({reason})")
    return Trial(found[1])


def _run(command: tuple[str, ...], stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command, input=stdin, capture_output=True, timeout=_TRIAL_SECONDS)


def _reason(run: "subprocess.CompletedProcess[bytes]", action: str) -> str:
    if run.returncode < 0:
        return f"crashes when it should {action}: {signal_name(-run.returncode)}"
    lines = run.stderr.decode("utf-8", errors="replace").splitlines()
    errors = [re.sub(r"^(\[[^\]]*\] )+", "", line) for line in lines]
    # The first line that says what is missing; messages about its consequences follow.
    first = next((line for line in errors if is_tool_fault(line)), errors[-1] if errors else "")
    return printable(first)[:160] or f"exit status {run.returncode} when it should {action}"


_TOOL_FAULT = re.compile(
    r"Unknown (en|de)coder|No such filter|Unrecognized option|Option not found"
    r"|output format .* is not known|Unknown (input|output) format"
)


def is_tool_fault(error: str) -> bool:
    """Return True for an error of ffmpeg about the command, which no video can cause."""
    return bool(_TOOL_FAULT.search(error))


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
