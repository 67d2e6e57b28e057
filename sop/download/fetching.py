"""Videos of a list fetched into their places: whole, checked, and each within its time."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from sop.download.container import to_mp4
from sop.download.published_lists import Entry
from sop.media.decoding import CutOff, Probe, probe
from sop.media.ffmpeg import Limits, binary
from sop.params import FetchParams
from sop.runtime.errors import LeftOut, LeftOutForNow, NoNetwork
from sop.runtime.files import replacing
from sop.runtime.processes import kill_tree

CODE = Path(__file__).parents[2]
REASON_CHARACTERS = 160

KINDS = {"for good": LeftOut, "for now": LeftOutForNow, "no network": NoNetwork}


def address(entry: Entry, params: FetchParams) -> str:
    """Where a video is."""
    return entry.url or params.video_url.replace("{id}", entry.id)


def clip_of(entry: Entry, params: FetchParams) -> tuple[float, float] | None:
    """What is taken of a video: second of begin and end, None for all of it."""
    if entry.clip is not None or params.clip_seconds is None:
        return entry.clip
    begin, end = params.clip_seconds
    return begin, end


def format_of(params: FetchParams) -> str:
    """Selector of the format: of what is low enough or of unknown height the best, MP4 first."""
    low = f"[height<=?{params.height}]"
    return params.format or "/".join(
        (f"bv*{low}[ext=mp4]+ba[ext=m4a]", f"b{low}[ext=mp4]", f"bv*{low}+ba", f"b{low}")
    )


def fetch(entry: Entry, params: FetchParams, folder: Path, unfinished: Path) -> Probe:
    """Write `<folder>/<category>/<id>.mp4`.

    Args:
        entry: what to fetch.
        params: how.
        folder: of the videos.
        unfinished: folder for what is half-done, from where a later run goes on.

    Raises:
        LeftOut: the video is not to be had, or what came is of no use.
        LeftOutForNow: it could not be had this time.
    """
    place = folder / entry.category / f"{entry.id}.mp4"
    own = unfinished / unfinished_name(entry, params)
    own.mkdir(parents=True, exist_ok=True)
    # The half of an earlier run may be of another file than is there now: then once more, anew.
    attempts = 1 + any(own.iterdir())
    try:
        while True:
            attempts -= 1
            file = _fetch(entry, params, own)
            try:
                return _check_and_place(file, place, Limits(params.timeout_seconds))
            except LeftOut as reason:
                _empty(own)
                if not attempts:
                    raise reason
    finally:
        error = sys.exc_info()[1]
        if not isinstance(error, LeftOutForNow | KeyboardInterrupt) or not any(own.iterdir()):
            shutil.rmtree(own)


def unfinished_name(entry: Entry, params: FetchParams) -> str:
    """Name of the folder for what is half-done of a video: what is asked for tells it apart."""
    asked = f"{address(entry, params)} {format_of(params)} {clip_of(entry, params)}"
    return f"{entry.category}.{entry.id}.{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def sweep_unfinished(unfinished: Path, keep: Iterable[str]) -> None:
    """Remove what is half-done of videos that are no longer asked for."""
    kept = set(keep)
    if unfinished.is_dir():
        for own in unfinished.iterdir():
            if own.name not in kept:
                shutil.rmtree(own)
        if not any(unfinished.iterdir()):
            unfinished.rmdir()


def _fetch(entry: Entry, params: FetchParams, own: Path) -> Path:
    """Let yt-dlp fetch a video into a folder of its own, within its time."""
    request = {
        "url": address(entry, params),
        "stem": str(own.absolute() / "video"),
        "format": format_of(params),
        "clip": clip_of(entry, params),
        "stall_timeout_seconds": params.stall_timeout_seconds,
        "retries": params.retries,
        "backoff_seconds": params.backoff_seconds,
        "rate_limit": params.rate_limit,
        "cookies": params.cookies,
        "proxy": params.proxy,
        "options": params.yt_dlp,
    }
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as tools:
        # Where it takes only a part of a video, yt-dlp knows no other place than PATH.
        (Path(tools) / "ffmpeg").symlink_to(binary())
        answer = _ask(request, params.timeout_seconds, Path(tools), said)
        if answer is None:
            said.seek(0)
            last = said.read().decode("utf-8", errors="replace").strip().rpartition("\n")[2]
            raise LeftOutForNow(f"yt-dlp crashed ({last[:REASON_CHARACTERS]})")
    if answer["failure"]:
        raise KINDS[answer["failure"]](answer["reason"])
    file = Path(answer["file"])
    if not file.is_file():
        raise LeftOutForNow("yt-dlp ended without a file")
    return file


def _ask(request: dict[str, Any], timeout_seconds: float, tools: Path, said: IO[bytes]) -> Any:
    """The answer of `sop.download.youtube`, or None if it crashed; what it said is in `said`."""
    path = os.pathsep.join((str(tools), os.environ.get("PATH", os.defpath)))
    with subprocess.Popen(
        [sys.executable, "-m", "sop.download.youtube"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=os.environ | {"PYTHONPATH": str(CODE), "PATH": path},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()
        alarm = threading.Timer(timeout_seconds, _stop, (process, late))
        alarm.daemon = True
        alarm.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            text = process.stdout.read()
        except BrokenPipeError:
            text = b""
        except BaseException:
            kill_tree(process)
            raise
        finally:
            alarm.cancel()
    if late.is_set():
        raise LeftOutForNow(f"took longer than {timeout_seconds:g} s and was stopped")
    return json.loads(text) if text else None


def _stop(process: "subprocess.Popen[bytes]", late: threading.Event) -> None:
    late.set()
    kill_tree(process)


def _check_and_place(file: Path, place: Path, limits: Limits) -> Probe:
    """Put a file that is a whole video into its place; one that is cut off is left out for now."""
    try:
        with replacing(place) as partial:
            to_mp4(file, partial, limits)
            # A server that does not say how long a file is may end in its middle.
            return probe(partial, limits)
    except CutOff as reason:
        raise LeftOutForNow(str(reason)) from None
    except LeftOut as reason:
        # An MP4 whose index is at its end lacks it when it is cut off.
        if "moov atom not found" in str(reason) and _begins_like_mp4(file):
            raise LeftOutForNow(f"cut off ({reason})") from None
        raise


def _begins_like_mp4(file: Path) -> bool:
    with file.open("rb") as beginning:
        return beginning.read(8)[4:] == b"ftyp"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
