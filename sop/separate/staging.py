"""Results appear in their folder all at once, at the end of a run without errors."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from sop.runtime.errors import UserError
from sop.runtime.files import PARTIAL_PREFIX

DESCRIPTION = "regions.json"

# Names of all files that a run can write. No other file is removed or replaced, even if an earlier
# description lists it.
_OWN_FILES = re.compile(
    r"region-\d+\.wav|rest\.wav|overlay\.mp4|colours\.png|heat\.png|regions\.json"
    r"|remix\.(mp4|m4v|mov|mkv|webm)|page/(index\.html|video\.mp4)"
)

_STAGE_PREFIX = f"{PARTIAL_PREFIX}separation-"

# Errors of writing; reading rarely fails with one of these.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder whose listed files move to `folder` if the block raises no error.

    The files are those that the description in the hidden folder lists. Files of an earlier run
    that are not among them are removed. All other files in `folder` stay.

    Raises:
        UserError: `folder` cannot be written.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Hidden folders of killed runs.
        for stale in folder.glob(f"{_STAGE_PREFIX}*"):
            process = stale.name.removeprefix(_STAGE_PREFIX).partition("-")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                shutil.rmtree(stale, ignore_errors=True)
        hidden = Path(tempfile.mkdtemp(prefix=f"{_STAGE_PREFIX}{os.getpid()}-", dir=folder))
    try:
        with _writing(folder, _DISK_ERRORS):
            yield hidden
        with _writing(folder):
            _publish(hidden, folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        # Remove the folders that this run has created, if they are empty.
        with suppress(OSError):
            for place in missing:
                place.rmdir()


def check_paths(video: Path, folder: Path) -> None:
    """Check that the results do not overwrite the video and that ffmpeg can write to the folder.

    Raises:
        UserError: they do, or it cannot.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: the name is not UTF-8; choose another folder") from None
    relative = Path(os.path.relpath(video.resolve(), folder.resolve()))
    if _OWN_FILES.fullmatch(relative.as_posix()):
        raise UserError(f"{video}: would be overwritten; choose another folder than {folder}")


def _publish(hidden: Path, folder: Path) -> None:
    """Move the new files to their folder, and remove those of an earlier run."""
    earlier, new = _listed(folder), _listed(hidden)
    for name in new:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: cannot be written (a folder has this name)")
    for name in new:
        (folder / name).parent.mkdir(exist_ok=True)
        (hidden / name).replace(folder / name)
    for name in set(earlier) - set(new):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        (folder / "page").rmdir()


def _listed(folder: Path) -> list[str]:
    """Return the files that the description in a folder lists, as far as a run can write them."""
    try:
        files = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]
        return [name for name in files if _OWN_FILES.fullmatch(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextmanager
def _writing(folder: Path, errors: Collection[int] | None = None) -> Iterator[None]:
    """Report in one line that the folder cannot be written: any OSError, or those of `errors`."""
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
