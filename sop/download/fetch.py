"""Fetch one listed video with yt-dlp in a process of its own, and check that it is complete."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from sop.download.container import to_mp4
from sop.download.published_lists import ListedVideo
from sop.media.binary import binary
from sop.media.decoding import CutOff, Probe, probe
from sop.media.ffmpeg import Limits
from sop.params import FetchParams
from sop.runtime.errors import LeftOut, LeftOutForNow, NoNetwork, NotWritable
from sop.runtime.files import make_folder, replacing, temporary_folder
from sop.runtime.processes import kill_tree, time_limit

CODE = Path(__file__).parents[2]
REASON_CHARACTERS = 160

_LETTER = re.compile("[A-Za-z]")

# What `partial_name` returns.
_PARTIAL = re.compile(r".+\.[0-9a-f]{8}", re.DOTALL)


class NoAccess(LeftOut):
    """A video cannot be fetched with these cookies and this proxy, or without any."""


# Exceptions for the failures that `sop.download.ytdlp_process` reports.
FAILURES = {
    "permanent": LeftOut,
    "no access": NoAccess,
    "not yet": LeftOutForNow,
    "temporary": LeftOutForNow,
    "no network": NoNetwork,
}


def video_address(video: ListedVideo, params: FetchParams) -> str:
    """Return the URL of a video."""
    return video.url or params.video_url.replace("{id}", video.id)


def clip_of(video: ListedVideo, params: FetchParams) -> tuple[float, float] | None:
    """Return begin and end, in seconds, of the part to fetch; None for the whole video."""
    if video.clip is not None or params.clip_seconds is None:
        return video.clip
    begin, end = params.clip_seconds
    return begin, end


def format_selector(params: FetchParams) -> str:
    """Return yt-dlp's format selector: the best of at most the given height, MP4 preferred."""
    low = f"[height<=?{params.height}]"
    return params.format or "/".join(
        (f"bv*{low}[ext=mp4]+ba[ext=m4a]", f"b{low}[ext=mp4]", f"bv*{low}+ba", f"b{low}")
    )


def fetch(
    video: ListedVideo, path: Path, params: FetchParams, partial: Path, limits: Limits
) -> Probe:
    """Fetch a video and write it to `path`.

    Args:
        video: the video to fetch.
        path: the MP4 to write.
        params: `dataset.fetch` of params.yaml.
        partial: folder of partially downloaded videos, which a later run continues.
        limits: maximum time and memory of each run of ffmpeg.

    Raises:
        LeftOut: the video is permanently unavailable or unusable.
        NoAccess: the same, but other cookies or another proxy may do.
        LeftOutForNow: it could not be fetched this time.
        NotWritable: the disk is full or read-only.
    """
    own = partial / partial_name(video, params)
    make_folder(own)
    # The remote file may have changed since an earlier run: then the fetch is repeated from zero.
    attempts = 1 + any(own.iterdir())
    try:
        while True:
            attempts -= 1
            file = _fetch(video, params, own)
            try:
                return _check_and_place(file, path, limits)
            except LeftOut:
                shutil.rmtree(own)
                own.mkdir()
                if not attempts:
                    raise
    finally:
        error = sys.exc_info()[1]
        is_kept = isinstance(error, LeftOutForNow | NotWritable | KeyboardInterrupt)
        if not is_kept or not any(own.iterdir()):
            shutil.rmtree(own, ignore_errors=True)


def partial_name(video: ListedVideo, params: FetchParams) -> str:
    """Return the name of the folder of a partial download; it depends on what is requested."""
    request = f"{video_address(video, params)} {format_selector(params)} {clip_of(video, params)}"
    return f"{video.category}.{video.id}.{hashlib.sha256(request.encode()).hexdigest()[:8]}"


def remove_stale_partials(partial: Path, keep: Iterable[str]) -> None:
    """Remove partial downloads that are no longer requested; `keep` has the names of the others.

    Files and folders that `fetch` did not make stay.
    """
    if partial.is_dir():
        for name in {own.name for own in partial.iterdir() if _is_partial(own)} - set(keep):
            shutil.rmtree(partial / name)
        if not any(partial.iterdir()):
            partial.rmdir()


def _is_partial(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and _PARTIAL.fullmatch(path.name) is not None


def _fetch(video: ListedVideo, params: FetchParams, own: Path) -> Path:
    """Let yt-dlp fetch a video into a folder of its own, within the time limit."""
    request = {
        "url": video_address(video, params),
        "stem": str(own.absolute() / "video"),
        "format": format_selector(params),
        "clip": clip_of(video, params),
        "params": params.model_dump(),
    }
    with tempfile.TemporaryFile() as log, temporary_folder() as tools:
        # To fetch a part of a video, yt-dlp looks for ffmpeg only on PATH.
        (tools / "ffmpeg").symlink_to(binary())
        text = _ask(json.dumps(request), params.timeout_seconds, str(tools), log)
        if not text:
            log.seek(0)
            lines = log.read().decode("utf-8", errors="replace").splitlines()
            # The last ones may only point at a place in a line.
            last = next((line.strip() for line in reversed(lines) if _LETTER.search(line)), "")
            raise LeftOutForNow(f"yt-dlp crashed ({last[:REASON_CHARACTERS]})")
    answer = json.loads(text)
    if answer["failure"] == "disk":
        number = int(answer["reason"])
        raise NotWritable(own, OSError(number, os.strerror(number)))
    if answer["failure"]:
        raise FAILURES[answer["failure"]](answer["reason"])
    file = Path(answer["file"])
    if not file.is_file():
        raise LeftOutForNow("yt-dlp ended without a file")
    return file


def _ask(request: str, timeout_seconds: float, tools: str, log: IO[bytes]) -> bytes:
    """Return the answer of `sop.download.ytdlp_process`; nothing if it crashed."""
    path = os.pathsep.join((tools, os.environ.get("PATH", os.defpath)))
    with (
        subprocess.Popen(
            [sys.executable, "-m", "sop.download.ytdlp_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(CODE), "PATH": path},
        ) as process,
        time_limit(process, timeout_seconds) as expired,
    ):
        assert process.stdin is not None and process.stdout is not None
        text = b""
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(f"{request}\n".encode())
                process.stdin.flush()
                text = process.stdout.read()
        except BaseException:
            kill_tree(process)
            raise
    if expired.is_set():
        raise LeftOutForNow(f"took longer than {timeout_seconds:g} s and was stopped")
    return text


def _check_and_place(file: Path, path: Path, limits: Limits) -> Probe:
    """Write a complete video to `path`; a truncated one is left out for now."""
    try:
        with replacing(path) as partial:
            to_mp4(file, partial, limits)
            # Without a Content-Length, a truncated answer looks like a whole one.
            return probe(partial, limits)
    except CutOff as reason:
        raise LeftOutForNow(str(reason)) from None
    except LeftOut as reason:
        # A truncated MP4 lacks its index if that is at the end.
        with file.open("rb") as beginning:
            is_mp4 = beginning.read(8)[4:] == b"ftyp"
        if is_mp4 and "moov atom not found" in str(reason):
            raise LeftOutForNow(f"cut off ({reason})") from None
        raise
