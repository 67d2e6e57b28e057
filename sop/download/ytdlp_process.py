"""Program that fetches one video with yt-dlp, in a process that may crash and can be killed.

It reads a `FetchRequest` as JSON from standard input and writes a `FetchResult` as JSON to standard
output. Standard input stays open; when it is closed, the parent has ended and so does this process.
"""

import io
import json
import logging
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import ContentTooShortError, GeoRestrictedError, UnsupportedError, YoutubeDLError

from sop.params import FetchParams
from sop.runtime.errors import DISK_ERRORS
from sop.runtime.log import printable

REASON_CHARACTERS = 160
MAX_BACKOFF_SECONDS = 300.0
# A server may request any number; the time limit of the video ends the process earlier.
LONGEST_DELAY_SECONDS = 864_000.0

# What the messages of yt-dlp and of YouTube say of a failure; the first that matches counts. The
# kinds are those of `FetchResult.failure`.
MESSAGES = {
    # Resembles messages about videos that are gone or that require a log-in.
    "temporary": re.compile(r"try again|not a bot|rate.limit|captcha", re.IGNORECASE),
    "not yet": re.compile(
        r"live event (?:will begin|has ended)|^Premieres? |premiere will begin|^Offline"
        r"|not currently live|being processed|processing this video|Check back later"
        # Often a mistyped `fetch.format`, whose names only the site knows.
        r"|^Requested format is not available",
        re.IGNORECASE,
    ),
    # yt-dlp appends the advice to use cookies or a password to its messages about a log-in.
    "no access": re.compile(
        r"Use --(?:cookies|username)"
        r"|video is private|^Private video|registered users|sign in"
        r"|log.?in (?:is )?required"
        r"|confirm your age|age.restricted|inappropriate for some users"
        r"|members.only|Join this channel|available to this channel.s members|requires payment"
        r"|premium (?:members|users)|for subscribers"
        r"|(?:available|blocked it) in your (?:country|location)|available from your location",
        re.IGNORECASE,
    ),
    "permanent": re.compile(
        r"^Video unavailable$"
        r"|(?:video|live stream recording) (?:is no longer available|is unavailable"
        r"|is(?:n.t| not) available(?: any ?more)?$|has been removed"
        r"|does(?:n.t| not) exist)"
        r"|removed (?:by the uploader|for violating)"
        r"|account (?:associated with this video )?has been (?:terminated|closed)"
        r"|uploader has closed|blocked it on copyright grounds"
        r"|DRM protected|copyright claim",
        re.IGNORECASE,
    ),
}

# Values of yt-dlp's `live_status` of streams that cannot be downloaded as a whole.
LIVE = {
    "is_live": "a live stream, which has no end yet",
    "is_upcoming": "a live stream or premiere that has not begun yet",
    "post_live": "a live stream that has just ended, its recording is being processed",
}

# No server answered.
NOT_REACHED = re.compile(
    r"establish a new connection|resolve|name or service|getaddrinfo|refused|unreachable|"
    r"no route to host|connect timeout|ConnectTimeout|unable to connect to proxy",
    re.IGNORECASE,
)

# Options that users may not set: they decide where files are written and what is printed.
OWN_OPTIONS = frozenset(
    {
        *("outtmpl", "outtmpl_na_placeholder", "paths", "format", "merge_output_format", "nopart"),
        *("continuedl", "simulate", "skip_download", "ignoreerrors", "match_filter", "noplaylist"),
        *("logger", "logtostderr", "quiet", "no_warnings", "noprogress", "color"),
        *("forceprint", "print_to_file", "progress_hooks", "postprocessor_hooks"),
        *("postprocessors", "retries", "fragment_retries", "extractor_retries"),
        *("retry_sleep_functions", "ratelimit", "socket_timeout", "proxy", "cookiefile"),
        *("download_ranges", "force_keyframes_at_cuts", "ffmpeg_location", "js_runtimes"),
    }
)


class FetchRequest(NamedTuple):
    """Video to fetch."""

    url: str
    stem: str
    """Path of the file without its suffix; partial files are written to the same folder."""
    format: str
    """Format selector of yt-dlp."""
    clip: tuple[float, float] | None
    params: FetchParams


class FetchResult(NamedTuple):
    """Result of a request: a file, or a failure and its reason."""

    file: str = ""
    failure: str = ""
    """What kind of failure it is:

    - `permanent`: the video is gone or unusable.
    - `no access`: as permanent, but other cookies or another proxy may do.
    - `not yet`: another run may do.
    - `temporary`: another attempt may do.
    - `no network`: no server answered.
    - `disk`: nothing can be written.
    """
    reason: str = ""
    """Text; the `errno` of a failure of the disk."""


class Refused(Exception):
    """A video that yt-dlp could fetch, but that cannot be used.

    Args:
        kind: as `FetchResult.failure`.
        reason: why it cannot be used.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def unknown_options(options: dict[str, Any]) -> list[str]:
    """Return those of a user's options that yt-dlp does not document or that users may not set."""
    described = re.findall(r"^ {4}(\w+):", f"{yt_dlp.YoutubeDL.__doc__}", re.MULTILINE)
    described += re.findall(r"^ {4}(\w+):", f"{FileDownloader.__doc__}", re.MULTILINE)
    return sorted(set(options) - (set(described) - OWN_OPTIONS))


def fetch(request: FetchRequest) -> FetchResult:
    """Fetch a video; retry after temporary failures as often as requested."""
    waits = [_backoff(request.params, turn) for turn in range(request.params.retries)]
    while True:
        try:
            return FetchResult(file=_fetch(request))
        except Refused as refused:
            return FetchResult("", refused.kind, str(refused))
        except (YoutubeDLError, OSError) as error:
            cause = _cause(error)
            if number := _disk_error(error):
                return FetchResult("", "disk", str(number))
            if not isinstance(error, YoutubeDLError):
                raise
            result = FetchResult("", _kind(error, cause), _reason(error))
        if result.failure == "no network":
            # Retry once only: the network is probably down.
            waits = waits[:1]
        if result.failure in ("permanent", "no access", "not yet") or not waits:
            return result
        time.sleep(max(waits.pop(0), _requested_delay(cause)))


def downloader(request: FetchRequest) -> Any:
    """Return a `YoutubeDL` for a request; nothing is fetched yet.

    Raises:
        SyntaxError: the format selector is invalid. Invalid options raise various exceptions.
    """
    params = request.params
    # The JavaScript runtime that is installed with the requirements, on PATH or not.
    deno = Path(sysconfig.get_path("scripts")) / "deno"
    options: dict[str, Any] = {
        **params.yt_dlp,
        # The format is part of the name: a partial file of another format must not be continued.
        "outtmpl": {"default": f"{request.stem.replace('%', '%%')}.%(format_id)s.%(ext)s"},
        "format": request.format,
        "merge_output_format": "mp4",
        "socket_timeout": params.stall_timeout_seconds,
        # `fetch` retries instead, with new addresses of the media, and continues partial files.
        "retries": 0,
        "extractor_retries": 0,
        "fragment_retries": params.retries,
        "retry_sleep_functions": {"fragment": partial(_backoff, params)},
        "skip_unavailable_fragments": False,
        "match_filter": _refuse,
        "noplaylist": True,
        "cachedir": False,
        "updatetime": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": {"stdout": "never", "stderr": "never"},
        # Errors are raised as exceptions too.
        "logger": logging.Logger("yt-dlp", level=logging.CRITICAL + 1),
        "js_runtimes": {"deno": {"path": str(deno)} if deno.exists() else {}},
        "ratelimit": params.rate_limit,
        "proxy": params.proxy,
    }
    if params.cookies is not None:
        # As text: several processes of yt-dlp would overwrite the user's file.
        options["cookiefile"] = io.StringIO(Path(params.cookies).read_text(encoding="utf-8"))
    if request.clip is not None:
        options["download_ranges"] = partial(_ranges, request.clip)
        # Otherwise it would begin at the previous key frame, up to seconds early.
        options["force_keyframes_at_cuts"] = True
    return yt_dlp.YoutubeDL(options)


def _fetch(request: FetchRequest) -> str:
    with downloader(request) as opened:
        info = opened.extract_info(request.url)
    downloads = (info or {}).get("requested_downloads") or []
    if len(downloads) != 1:
        raise UnsupportedError(request.url)
    file = str(downloads[0]["filepath"])
    if request.clip is not None and "Video: " not in _ffmpeg_header(file, request.params):
        # The length was not known beforehand, as for the address of a file.
        media = (downloads[0].get("requested_formats") or downloads)[0]
        raise _beyond_the_end(
            request.clip, _header_seconds(_ffmpeg_header(media["url"], request.params))
        )
    return file


def _refuse(info: dict[str, Any], *, incomplete: bool = False) -> None:
    """Raise `Refused` for a list of videos and for a stream that is live or upcoming."""
    if info.get("playlist"):
        raise Refused("permanent", "a list of videos; list the address of each video instead")
    status = info.get("live_status") or ("is_live" if info.get("is_live") else "")
    if status in LIVE:
        raise Refused("not yet", LIVE[status])


def _ranges(
    clip: tuple[float, float], info: dict[str, Any], opened: object
) -> Iterator[dict[str, float]]:
    """Yield the part to download, as yt-dlp expects it."""
    if info.get("duration") and clip[0] >= info["duration"]:
        raise _beyond_the_end(clip, info["duration"])
    yield {"start_time": clip[0], "end_time": clip[1]}


def _beyond_the_end(clip: tuple[float, float], seconds: float | None) -> Refused:
    length = f"the video is {seconds:.1f} s long" if seconds else "the video may be shorter"
    return Refused("permanent", f"nothing between {clip[0]:g} and {clip[1]:g} s: {length}")


def _ffmpeg_header(place: str, params: FetchParams) -> str:
    """Return what ffmpeg prints of a file or an address; nothing if it takes too long."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-i", place]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=params.stall_timeout_seconds,
            check=False,
        ).stderr.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return ""


def _header_seconds(header: str) -> float | None:
    """Return the length of a video from what ffmpeg prints of it."""
    found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", header)
    if found is None:
        return None
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _backoff(params: FetchParams, n: int) -> float:
    """Return the delay before retry n, from 0, in seconds."""
    return min(MAX_BACKOFF_SECONDS, params.backoff_seconds * 2.0**n)


def _requested_delay(cause: BaseException) -> float:
    """Return the delay that a server requests by Retry-After, in seconds or as a date."""
    if not isinstance(cause, HTTPError):
        return 0.0
    value = cause.response.headers.get("Retry-After") or ""
    try:
        if value.strip().isdigit():
            return min(float(value), LONGEST_DELAY_SECONDS)
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
        return min(max(0.0, seconds), LONGEST_DELAY_SECONDS)
    except (TypeError, ValueError):
        return 0.0


def _cause(error: BaseException) -> BaseException:
    """Return the innermost cause; yt-dlp nests exceptions in several ways."""
    while True:
        info = getattr(error, "exc_info", None) or (None, None)
        inner = getattr(error, "cause", None) or info[1]
        known = isinstance(error, HTTPError | TransportError)
        if known or not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def _kind(error: YoutubeDLError, cause: BaseException) -> str:
    """Classify a failure, see `FetchResult.failure`."""
    is_page = "unable to download video" not in str(error)
    if isinstance(cause, HTTPError):
        # Addresses of media expire after hours; the address of the page does not.
        if not is_page or cause.redirect_loop:
            return "temporary"
        kinds = {401: "no access", 403: "no access", 451: "no access"}
        return {404: "permanent", 410: "permanent", **kinds}.get(cause.status, "temporary")
    if isinstance(cause, IncompleteRead | ContentTooShortError):
        return "temporary"
    if isinstance(cause, TransportError | TimeoutError | ConnectionError):
        return "no network" if NOT_REACHED.search(str(error)) else "temporary"
    if isinstance(cause, GeoRestrictedError):
        return "no access"
    return "permanent" if isinstance(cause, UnsupportedError) else message_kind(error)


def message_kind(error: BaseException) -> str:
    """Classify a failure by its message, see `FetchResult.failure`."""
    # Without its prefix and end, which some patterns anchor; the advice at its end counts too.
    texts = (_reason(error), str(error))
    found = (kind for kind, pattern in MESSAGES.items() if any(map(pattern.search, texts)))
    return next(found, "temporary")


def _disk_error(error: BaseException) -> int | None:
    """Return the `errno` of a full or read-only disk; also ffmpeg's message contains its text."""
    text = str(error)
    return next((number for number in DISK_ERRORS if os.strerror(number) in text), None)


def _reason(error: BaseException) -> str:
    """Return the first sentences of yt-dlp's message, without its prefix and advice."""
    message = printable(" ".join(str(error).split())).removeprefix("ERROR: ")
    # The reader sees the site and the id already.
    message = re.sub(r"^\[[^\]]+\] (?:[^:]{1,100}: (?=[A-Z]))?", "", message)
    message = re.split(r" \(caused by |; please report|\. Use --|\. Visit |\. See ", message)[0]
    if message.startswith("ffmpeg exited"):
        message = f"fetching a part failed, the server may support whole files only ({message})"
    return message.rstrip(".")[:REASON_CHARACTERS] or "yt-dlp gave no reason"


def _end_with_parent() -> None:
    """Wait until the parent has ended, then kill all children and end."""
    sys.stdin.read()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


def main() -> None:
    """Process one request."""
    values = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Other output must not be mixed with the result.
    result_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    values["params"] = FetchParams(**values["params"])
    result = fetch(FetchRequest(**values))
    json.dump(result._asdict(), result_to)
    result_to.close()
    # Do not wait for the thread, which still reads standard input.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
