"""Program that fetches one video with yt-dlp, in a process that may crash and can be killed.

It reads a `FetchRequest` as JSON from standard input and writes a `FetchResult` as JSON to standard
output. Standard input stays open; when it is closed, the parent has ended and so does this process.
"""

import io
import json
import logging
import os
import re
import sys
import sysconfig
import threading
import time
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    GeoRestrictedError,
    UnsupportedError,
    YoutubeDLError,
    download_range_func,
)

from sop.params import FetchParams
from sop.runtime.errors import DISK_ERRORS
from sop.runtime.log import printable

REASON_CHARACTERS = 160
MAX_BACKOFF_SECONDS = 300.0

# YouTube's messages about videos that are permanently unavailable. Other errors are temporary.
PERMANENT = re.compile(
    r"^Video unavailable$"
    r"|video (?:is no longer available|is(?:n.t| not) available$|is private|has been removed|"
    r"does(?:n.t| not) exist)"
    r"|^Private video"
    r"|removed (?:by the uploader|for violating)"
    r"|account (?:associated with this video )?has been (?:terminated|closed)"
    r"|uploader has (?:closed|not made this video available in your country)"
    r"|blocked it (?:in your country|on copyright grounds)"
    r"|not available in your (?:country|location)"
    r"|confirm your age|age.restricted|inappropriate for some users"
    r"|members.only|Join this channel|requires payment|DRM protected|copyright claim",
    re.IGNORECASE,
)
# Temporary errors whose messages resemble those above.
TEMPORARY = re.compile(r"try again|not a bot|rate.limit|captcha", re.IGNORECASE)

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
    """`permanent`, `temporary`, `no network` or `disk`."""
    reason: str = ""
    """Text; the `errno` of a failure of the disk."""


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
        if result.failure == "permanent" or not waits:
            return result
        time.sleep(max(waits.pop(0), _requested_delay(cause)))


def _fetch(request: FetchRequest) -> str:
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
        "match_filter": _refuse_lists,
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
        options["download_ranges"] = download_range_func(None, [request.clip])
        # Otherwise it would begin at the previous key frame, up to seconds early.
        options["force_keyframes_at_cuts"] = True
    with yt_dlp.YoutubeDL(options) as downloader:
        info = downloader.extract_info(request.url)
    downloads = (info or {}).get("requested_downloads") or []
    if len(downloads) != 1:
        raise UnsupportedError(request.url)
    return str(downloads[0]["filepath"])


def _refuse_lists(info: dict[str, Any], *, incomplete: bool = False) -> str | None:
    return "part of a list of videos" if info.get("playlist") else None


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
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
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
        is_permanent = cause.status in (401, 403, 404, 410, 451) and is_page
        return "permanent" if is_permanent and not cause.redirect_loop else "temporary"
    if isinstance(cause, IncompleteRead | ContentTooShortError):
        return "temporary"
    if isinstance(cause, TransportError | TimeoutError | ConnectionError):
        return "no network" if NOT_REACHED.search(str(error)) else "temporary"
    if isinstance(cause, GeoRestrictedError | UnsupportedError):
        return "permanent"
    text = _reason(error)
    return "permanent" if PERMANENT.search(text) and not TEMPORARY.search(text) else "temporary"


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
