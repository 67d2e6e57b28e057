"""Download of a file from the web."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten

from sop.runtime.errors import NotWritable, UserError
from sop.runtime.files import replacing
from sop.runtime.log import printable
from sop.runtime.progress import LOG_INTERVAL_SECONDS

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3600.0


@contextmanager
def downloading(
    url: str, path: Path, max_bytes: int, stall_seconds: float, remedy: str
) -> Iterator[Path]:
    """Download a file, and yield its temporary path; the file is kept if the block succeeds.

    Args:
        url: address of the file.
        path: place of the file.
        max_bytes: largest accepted size; a server that sends more is not read to the end.
        stall_seconds: time after which a silent server is given up.
        remedy: what the user can do, for the error message.

    Raises:
        UserError: the download failed, the block raised a UserError or ValueError, or the file
            cannot be written.
    """
    partial = path
    try:
        with replacing(path) as partial:
            _download(url, partial, max_bytes, stall_seconds)
            yield partial
        return
    except NotWritable:
        raise
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (UserError, OSError, HTTPException, ValueError) as error:
        reason = str(error).removeprefix(f"{partial}: ") or type(error).__name__
    # A server may send control characters.
    reason = shorten(printable(reason), 300)
    raise UserError(f"{url}: cannot be downloaded ({reason}); {remedy}")


def _download(url: str, path: Path, max_bytes: int, stall_seconds: float) -> None:
    """Write the content of an address to a file.

    Raises:
        OSError, HTTPException, ValueError: the content is incomplete, too large or a web page.
    """
    began = logged = time.monotonic()
    with urllib.request.urlopen(url, timeout=stall_seconds) as answer, path.open("wb") as file:
        announced: int | None = answer.length
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server answers with a web page")
        while file.tell() <= max_bytes and (block := answer.read1(1 << 20)):
            file.write(block)
            now = time.monotonic()
            if now - began > TIMEOUT_SECONDS:
                raise ValueError(f"it takes longer than {TIMEOUT_SECONDS:.0f} s")
            if now - logged > LOG_INTERVAL_SECONDS:
                logged = now
                total = f" of {announced / 1e6:.1f}" if announced else ""
                logger.info(f"{url.rpartition('/')[2]}: {file.tell() / 1e6:.1f}{total} MB")
        size = file.tell()
    if size > max_bytes:
        raise ValueError(f"it is larger than {max_bytes / 1e6:.0f} MB")
    if announced is not None and size < announced:
        raise ValueError(f"it ends after {size} of {announced} bytes")
