"""One video fetched by yt-dlp, as a program of its own: it may hang or crash, and can be stopped.

It reads a `Request` as JSON from its standard input, which then stays open: when it closes, whoever
asked is gone, and so is this. It answers with an `Answer` as JSON on its standard output.
"""

import io
import json
import os
import re
import sys
import sysconfig
import threading
import time
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

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

REASON_CHARACTERS = 160
MOST_BACK_OFF_SECONDS = 300.0

# What YouTube says of a video that no later run will get. Anything else may pass.
FOR_GOOD = re.compile(
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
# These sound like it, and pass.
PASSES = re.compile(r"try again|not a bot|rate.limit|captcha", re.IGNORECASE)

# No server answered, whatever it would have said.
NOT_REACHED = re.compile(
    r"establish a new connection|resolve|name or service|getaddrinfo|refused|unreachable|"
    r"no route to host|connect timeout|ConnectTimeout|unable to connect to proxy",
    re.IGNORECASE,
)

# The options that decide where files go and what is printed are not the user's.
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


@dataclass(frozen=True)
class Request:
    """What to fetch, and how."""

    url: str
    stem: str
    """Path of the file without its ending; what is half-done lies there too."""
    format: str
    """yt-dlp's selector."""
    clip: tuple[float, float] | None
    stall_timeout_seconds: float
    retries: int
    backoff_seconds: float
    rate_limit: int | None
    cookies: str | None
    proxy: str | None
    options: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came of it: a file, or a failure and its reason."""

    file: str = ""
    failure: str = ""
    """`for good`, `for now` or `no network`."""
    reason: str = ""


def unknown_options(options: dict[str, Any]) -> list[str]:
    """Those of a user's options that yt-dlp does not describe, or that are set here."""
    described = re.findall(r"^ {4}(\w+):", f"{yt_dlp.YoutubeDL.__doc__}", re.MULTILINE)
    described += re.findall(r"^ {4}(\w+):", f"{FileDownloader.__doc__}", re.MULTILINE)
    return sorted(set(options) - (set(described) - OWN_OPTIONS))


def fetch(request: Request) -> Answer:
    """Fetch a video; after a failure that may pass, again, as often as is asked for."""
    waits = [_back_off(request, turn) for turn in range(request.retries)]
    while True:
        try:
            return Answer(file=_fetch(request))
        except YoutubeDLError as error:
            cause = _cause(error)
            answer = Answer("", _kind(error, cause), _reason(error))
        if answer.failure == "no network":
            # One hiccup is worth a second look; a lost network is not worth many.
            waits = waits[:1]
        if answer.failure == "for good" or not waits:
            return answer
        time.sleep(max(waits.pop(0), _asked_to_wait(cause)))


def _fetch(request: Request) -> str:
    options: dict[str, Any] = {
        **request.options,
        # Another format's half of a file must not be continued with this one's.
        "outtmpl": {"default": f"{request.stem.replace('%', '%%')}.%(format_id)s.%(ext)s"},
        "format": request.format,
        "merge_output_format": "mp4",
        "socket_timeout": request.stall_timeout_seconds,
        # Retries are made around all of this: with fresh addresses, and from where it ended.
        "retries": 0,
        "extractor_retries": 0,
        "fragment_retries": request.retries,
        "retry_sleep_functions": {"fragment": partial(_back_off, request)},
        "skip_unavailable_fragments": False,
        "match_filter": _refuse_lists,
        "noplaylist": True,
        "cachedir": False,
        "updatetime": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": {"stdout": "never", "stderr": "never"},
        "logger": _Silent(),
        "js_runtimes": {"deno": _deno()},
    }
    if request.rate_limit is not None:
        options["ratelimit"] = request.rate_limit
    if request.cookies is not None:
        # As text: yt-dlp would write the user's file anew, several of them at a time.
        options["cookiefile"] = io.StringIO(Path(request.cookies).read_text(encoding="utf-8"))
    if request.proxy is not None:
        options["proxy"] = request.proxy
    if request.clip is not None:
        options["download_ranges"] = download_range_func(None, [request.clip])
        # Else it would begin at the key frame before, seconds too early.
        options["force_keyframes_at_cuts"] = True
    with yt_dlp.YoutubeDL(options) as downloader:
        info = downloader.extract_info(request.url)
    downloads = (info or {}).get("requested_downloads") or []
    if len(downloads) != 1:
        raise UnsupportedError(request.url)
    return str(downloads[0]["filepath"])


class _Silent:
    """A logger for yt-dlp: what matters of its messages comes as an exception too."""

    def debug(self, message: str) -> None:
        """Ignore."""

    info = warning = error = debug


def _refuse_lists(info: dict[str, Any], *, incomplete: bool = False) -> str | None:
    return "part of a list of videos" if info.get("playlist") else None


def _deno() -> dict[str, str]:
    """The JavaScript runtime that came with the requirements, on PATH or not."""
    place = Path(sysconfig.get_path("scripts")) / "deno"
    return {"path": str(place)} if place.exists() else {}


def _back_off(request: Request, n: int) -> float:
    """Seconds before the n-th retry, from 0."""
    return min(MOST_BACK_OFF_SECONDS, request.backoff_seconds * 2.0**n)


def _asked_to_wait(cause: BaseException) -> float:
    """Seconds that a server asks to wait, in either form of Retry-After."""
    if not isinstance(cause, HTTPError):
        return 0.0
    asked = cause.response.headers.get("Retry-After") or ""
    try:
        return float(asked) if asked.strip().isdigit() else _until(asked)
    except (TypeError, ValueError):
        return 0.0


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())


def _cause(error: BaseException) -> BaseException:
    """What lies at the bottom of yt-dlp's exceptions, which hold one another in several ways."""
    while True:
        info = getattr(error, "exc_info", None) or (None, None)
        inner = getattr(error, "cause", None) or info[1]
        known = isinstance(error, HTTPError | TransportError)
        if known or not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def _kind(error: YoutubeDLError, cause: BaseException) -> str:
    """How a failure counts, see `Answer.failure`."""
    asked_for_page = "unable to download video" not in str(error)
    if isinstance(cause, HTTPError):
        # The address of a file behind a page lasts for hours only; that of the page is the video's.
        lasts = cause.status in (401, 403, 404, 410, 451) and asked_for_page
        return "for good" if lasts and not cause.redirect_loop else "for now"
    if isinstance(cause, IncompleteRead | ContentTooShortError):
        return "for now"
    if isinstance(cause, TransportError | TimeoutError | ConnectionError):
        return "no network" if NOT_REACHED.search(str(error)) else "for now"
    if isinstance(cause, GeoRestrictedError | UnsupportedError):
        return "for good"
    said = _reason(error)
    return "for good" if FOR_GOOD.search(said) and not PASSES.search(said) else "for now"


def _reason(error: BaseException) -> str:
    """The first sentences of yt-dlp's complaint, without its marks and advice."""
    message = " ".join(str(error).split()).removeprefix("ERROR: ")
    # Whoever reads it knows the site and the id.
    message = re.sub(r"^\[[^\]]+\] (?:[^:]{1,100}: (?=[A-Z]))?", "", message)
    message = re.split(r" \(caused by |; please report|\. Use --|\. Visit |\. See ", message)[0]
    if message.startswith("ffmpeg exited"):
        message = f"no part of it can be fetched, its server may know whole files only ({message})"
    return message.rstrip(".")[:REASON_CHARACTERS] or "yt-dlp gives no reason"


def _end_with_parent() -> None:
    """Wait until whoever asked is gone, and go too, with all that was started here."""
    sys.stdin.read()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


def main() -> None:
    """Answer one request."""
    values = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Whatever else prints must not be taken for the answer.
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    clip = values.pop("clip")
    answer = fetch(Request(**values, clip=None if clip is None else (clip[0], clip[1])))
    json.dump(asdict(answer), answer_to)
    answer_to.close()
    # The thread above still reads; nothing is left that would have to be closed.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
