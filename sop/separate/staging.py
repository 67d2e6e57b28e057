"""Results appear in their folder all at once, at the end of a run without errors."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sop.runtime.errors import NotWritable, UserError
from sop.runtime.files import PARTIAL_PREFIX, temporary_folder, writing

DESCRIPTION = "regions.json"

# Names of all files that a run can write. No other file is removed or replaced, even if an earlier
# description lists it.
_OWN_FILES = re.compile(
    r"(region-\d+|rest)\.(wav|flac|mp3)|overlay\.mp4|colours\.png|heat\.png|regions\.json"
    r"|remix\.(mp4|m4v|mov|mkv|webm)|page/(index\.html|video\.mp4)"
)

_STAGE_PREFIX = f"{PARTIAL_PREFIX}separation-"


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder whose listed files move to `folder` if the block raises no error.

    The files are those that the description in the hidden folder lists. Files of an earlier run
    that are not among them are removed. All other files in `folder` stay.

    Raises:
        NotWritable: `folder` cannot be written.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with temporary_folder(folder, _STAGE_PREFIX) as hidden:
            try:
                with writing(folder):
                    yield hidden
            except NotWritable as error:
                if hidden not in error.path.parents:
                    raise
                raise NotWritable(folder, error.error) from None
            with writing(folder, OSError):
                _publish(hidden, folder)
    finally:
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
