"""Check the settings of yt-dlp that only yt-dlp can judge, before any video is fetched."""

import hashlib
import io
from contextlib import redirect_stderr
from http.cookiejar import LoadError
from pathlib import Path
from urllib.parse import urlsplit

from sop.download.fetch import format_selector
from sop.params import DatasetParams, FetchParams
from sop.runtime.errors import UserError

LISTED_SOURCES = ("list", "music", "music21")

ANONYMOUS = "anonymous"
"""`access_of` without cookies and proxy."""


def check_fetch_settings(dataset: DatasetParams) -> None:
    """Check the cookie file, the format and the options of yt-dlp.

    Args:
        dataset: section of params.yaml; a source that downloads nothing has nothing to check.

    Raises:
        UserError: one of them cannot work for any video.
    """
    if dataset.source in LISTED_SOURCES:
        _check_cookies(dataset.fetch)
        _check_options(dataset.fetch)


def access_of(params: FetchParams) -> str:
    """Return a name for what servers are asked with: the cookies and the proxy.

    It changes if the content of the cookie file or the address of the proxy changes, and it reveals
    neither.
    """
    if params.cookies is None and params.proxy is None:
        return ANONYMOUS
    digest = hashlib.sha256()
    if params.cookies is not None:
        digest.update(Path(params.cookies).read_bytes())
    # Without its password, which may be short enough to be guessed from a hash.
    digest.update(f"\0{urlsplit(params.proxy or '').netloc.rpartition('@')[2]}".encode())
    return digest.hexdigest()[:16]


def _check_cookies(params: FetchParams) -> None:
    if params.cookies is None:
        return
    # Imported here because yt-dlp is slow to import and other sources do not need it.
    from yt_dlp.cookies import YoutubeDLCookieJar

    key, advice = f"dataset.fetch.cookies: {params.cookies}", "export it from your browser again"
    if not Path(params.cookies).is_file():
        raise UserError(f"{key} not found; export it from your browser, or set null")
    try:
        text = Path(params.cookies).read_text(encoding="utf-8")
        jar = YoutubeDLCookieJar(io.StringIO(text))
        # yt-dlp prints a warning for each line that is no cookie.
        with redirect_stderr(io.StringIO()):
            jar.load()
    except OSError as error:
        if not isinstance(error, LoadError):
            raise UserError(f"{key} is not readable ({error.strerror})") from None
        found = ", it is JSON" if text.lstrip()[:1] in ("[", "{") else ""
        raise UserError(
            f"{key} is not a cookie file in Netscape format{found}; {advice} as cookies.txt"
        ) from None
    except ValueError:
        raise UserError(f"{key} is not a text file in UTF-8; {advice} as cookies.txt") from None
    if not len(jar):
        raise UserError(
            f"{key} contains no cookies (seven values separated by tabs in a line); {advice}"
        )


def _check_options(params: FetchParams) -> None:
    # Imported here because yt-dlp is slow to import and other sources do not need it.
    from sop.download import ytdlp_process

    if unknown := ytdlp_process.unknown_options(params.yt_dlp):
        raise UserError(
            f"dataset.fetch.yt_dlp: {', '.join(unknown)} is not allowed; allowed are the "
            "documented options of yt-dlp's YoutubeDL class, except those that other "
            "parameters or the pipeline itself set"
        )
    request = ytdlp_process.FetchRequest("", "", format_selector(params), None, params)
    try:
        ytdlp_process.downloader(request)
    except SyntaxError as error:
        # The first line says what is wrong, the others point at the place.
        reason = str(error).partition("\n")[0].removeprefix("Invalid format specification: ")
        raise UserError(
            f"dataset.fetch.format: {params.format!r} is not a format selector of yt-dlp "
            f"({reason}); correct it, or set null"
        ) from None
    except Exception as error:
        if not params.yt_dlp:
            raise
        raise UserError(
            f"dataset.fetch.yt_dlp: yt-dlp does not accept these options ({error}); correct "
            "their values"
        ) from None
