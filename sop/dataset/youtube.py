"""One video of a list, fetched by yt-dlp."""

import re
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.utils import YoutubeDLError

from sop.dataset.catalogue import Entry
from sop.dataset.container import to_mp4
from sop.dataset.ffmpeg import binary, header
from sop.errors import LeftOut
from sop.files import PARTIAL_PREFIX, replacing
from sop.params import MusicParams

REASON_CHARACTERS = 160


class _Silent:
    """A logger for yt-dlp: what matters of its messages comes as an exception too."""

    def debug(self, message: str) -> None:
        """Ignore."""

    info = warning = error = debug


def address(entry: Entry, params: MusicParams) -> str:
    """Where a video is."""
    return params.video_url.replace("{id}", entry.id)


def fetch(entry: Entry, params: MusicParams, folder: Path) -> None:
    """Write `<folder>/<category>/<id>.mp4`, of at most `params.height` lines.

    Raises:
        LeftOut: the video cannot be had, or what came is not one.
    """
    place = folder / entry.category / f"{entry.id}.mp4"
    with replacing(place) as partial:
        # Everything that yt-dlp writes on its way begins like this and is cleared as unfinished.
        stem = f"{PARTIAL_PREFIX}{partial.name.removeprefix(PARTIAL_PREFIX)}.fetched"
        try:
            fetched = _fetch(address(entry, params), place.with_name(stem), params)
            to_mp4(fetched, partial)
            header(partial)
        finally:
            for rest in place.parent.iterdir():
                if rest.name.startswith(stem):
                    rest.unlink()


def _fetch(url: str, stem: Path, params: MusicParams) -> Path:
    options: dict[str, Any] = {
        "outtmpl": {"default": f"{str(stem).replace('%', '%%')}.%(ext)s"},
        "format": _format(params.height),
        "merge_output_format": "mp4",
        "ffmpeg_location": binary(),
        "socket_timeout": params.timeout_seconds,
        "match_filter": _refuse_lists,
        "noplaylist": True,
        "cachedir": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": {"stdout": "never", "stderr": "never"},
        "logger": _Silent(),
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            info = downloader.extract_info(url)
    except YoutubeDLError as error:
        raise LeftOut(_reason(str(error))) from None
    downloads = (info or {}).get("requested_downloads") or []
    if len(downloads) != 1:
        raise LeftOut(f"{url} is not the page of one video")
    return Path(downloads[0]["filepath"])


def _format(height: int) -> str:
    """Of what is known to be low enough, or of unknown height, the best; MP4 before others."""
    low = f"[height<=?{height}]"
    return "/".join(
        (f"bv*{low}[ext=mp4]+ba[ext=m4a]", f"b{low}[ext=mp4]", f"bv*{low}+ba", f"b{low}")
    )


def _refuse_lists(info: dict[str, Any], *, incomplete: bool = False) -> str | None:
    return "part of a list of videos" if info.get("playlist") else None


def _reason(message: str) -> str:
    """The first sentence of yt-dlp's complaint, without its marks and advice."""
    message = message.replace("\n", " ").removeprefix("ERROR: ")
    message = re.sub(r"^\[[^\]]+\] (?:[^\s:]+: )?", "", message)
    message = re.split(r" \(caused by |; please report|\. Use --|\. Visit ", message)[0]
    return " ".join(message.split()).rstrip(".")[:REASON_CHARACTERS] or "yt-dlp gives no reason"
