"""Videos of the user's own: a folder of `<category>/<name>.<ending>`, or of the videos alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sop.runtime.errors import LeftOut, UserError

UNLABELLED = "unlabelled"

# A list of videos that lie elsewhere (source list) may lie beside those that lie here.
LIST_NAME = "list.csv"

# A file system takes names of 255 bytes; while a file is written its name is longer.
NAME_BYTES = 200


@dataclass(frozen=True)
class LocalVideo:
    """A file that may become `<category>/<id>.mp4`."""

    path: Path
    category: str
    id: str


@dataclass(frozen=True)
class Refused:
    """A file that may not, and why."""

    path: Path
    category: str
    id: str
    reason: str


def find_videos(folder: Path) -> tuple[list[LocalVideo], list[Refused]]:
    """List the files of a folder, each under the name that it would get; hidden ones are ignored.

    Whether a file is a video shows when it is read.

    Raises:
        UserError: the folder is missing or empty.
    """
    if not folder.is_dir():
        raise UserError(
            f"dataset.local.folder: {folder} is not a folder; {_advice()}, or name another folder"
        )
    videos: dict[tuple[str, str], LocalVideo] = {}
    refused = []
    for path, category in _files(folder):
        try:
            _check(path, folder)
            earlier = videos.get((category, path.stem))
            if earlier is not None:
                raise LeftOut(f"{earlier.path.name} has that name already; rename one of them")
        except LeftOut as reason:
            refused.append(Refused(path, category, path.stem, str(reason)))
        else:
            videos[category, path.stem] = LocalVideo(path, category, path.stem)
    if not videos and not refused:
        raise UserError(f"dataset.local.folder: {folder} is empty; {_advice()}")
    return list(videos.values()), refused


def printable(path: Path) -> str:
    """A path on one line, whatever its name holds."""
    return "".join(c if c.isprintable() else "?" for c in str(path))


def _advice() -> str:
    return "put videos there as <category>/<name>.mp4 (or any other container)"


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """What there is, with its category, in order."""
    for path in _visible(folder):
        if path.name == LIST_NAME and path.is_file():
            continue
        if path.is_dir():
            yield from ((inner, path.name) for inner in _visible(path))
        else:
            yield path, UNLABELLED


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check(path: Path, folder: Path) -> None:
    """Raise `LeftOut` for what cannot be taken as a video, going by its name and place."""
    for name in path.relative_to(folder).parts:
        # A name that is not in the system's encoding comes with surrogates, which do not print.
        if not name.isprintable():
            raise LeftOut("its name holds control characters or is not UTF-8; rename it")
        if len(os.fsencode(name)) > NAME_BYTES:
            raise LeftOut(f"its name is longer than {NAME_BYTES} bytes; rename it")
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise LeftOut("a link to a missing file") from None
    if not place.is_relative_to(folder.resolve()):
        raise LeftOut("a link that leaves the folder; put the file itself there")
    if path.is_dir():
        raise LeftOut("a folder inside a category; videos lie at <category>/<name>")
    if not path.is_file():
        raise LeftOut("not an ordinary file")
    if not os.access(path, os.R_OK):
        raise LeftOut("not readable: see its permissions")
