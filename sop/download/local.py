"""Local videos: a folder of `<category>/<name>.<suffix>`, or of videos without categories."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sop.download.manifest import UNAVAILABLE, VideoRow
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import is_litter
from sop.runtime.log import printable

UNLABELLED = "unlabelled"

# The list of the source `list` may be in the same folder; it is no video.
LIST_NAME = "list.csv"

# File systems allow names of 255 bytes; a file that is being written has a longer name.
NAME_BYTES = 200


ADVICE = "put videos there as <category>/<name>.mp4 (or any other container)"


@dataclass(frozen=True)
class LocalVideo:
    """A file that becomes `<category>/<id>.mp4` if it is a video."""

    path: Path
    category: str
    id: str


def find_videos(folder: Path) -> tuple[list[LocalVideo], list[VideoRow]]:
    """List the files of a folder with their categories and ids, except hidden ones and litter.

    No file is read: those that are no videos are found out later.

    Raises:
        UserError: the folder is missing or empty.
    """
    if not folder.is_dir():
        raise UserError(
            f"dataset.local.folder: {folder} is not a folder; {ADVICE}, or name another folder"
        )
    videos: dict[tuple[str, str], LocalVideo] = {}
    unusable = []
    for path, category in _files(folder):
        try:
            check_file(path, folder)
            earlier = videos.get((category, path.stem))
            if earlier is not None:
                raise LeftOut(f"{earlier.path.name} has the same name; rename one of them")
        except LeftOut as reason:
            shown = printable(str(path))
            row = VideoRow(category, path.stem, UNAVAILABLE, str(reason), source=shown)
            unusable.append(row)
        else:
            videos[category, path.stem] = LocalVideo(path, category, path.stem)
    if not videos and not unusable:
        raise UserError(f"dataset.local.folder: {folder} is empty; {ADVICE}")
    return list(videos.values()), unusable


def check_file(path: Path, folder: Path) -> None:
    """Check the name and the place of a file without reading it.

    Args:
        path: the file.
        folder: the folder of the user's videos, which no link may leave.

    Raises:
        LeftOut: the file cannot be used.
    """
    for name in path.relative_to(folder).parts:
        # Bytes outside of the system's encoding become surrogates, which cannot be printed.
        if not name.isprintable():
            raise LeftOut("its name contains control characters or is not UTF-8; rename it")
        if len(os.fsencode(name)) > NAME_BYTES:
            raise LeftOut(f"its name is longer than {NAME_BYTES} bytes; rename it")
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise LeftOut("a link to a missing file") from None
    if not place.is_relative_to(folder.resolve()):
        raise LeftOut("a link that leaves the folder; copy the file into it")
    if path.is_dir():
        raise LeftOut("a folder inside a category; videos are expected at <category>/<name>")
    if not path.is_file():
        raise LeftOut("not an ordinary file")
    if not os.access(path, os.R_OK):
        raise LeftOut("not readable; check its permissions")


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files with their categories, sorted."""
    for path in _visible(folder):
        if path.name == LIST_NAME and path.is_file():
            continue
        if path.is_dir():
            yield from ((inner, path.name) for inner in _visible(path))
        else:
            yield path, UNLABELLED


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_litter(path))
