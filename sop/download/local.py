"""Local videos: a folder of `<category>/<name>.<suffix>`, nested deeper, or without categories."""

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sop.download.manifest import UNAVAILABLE, VideoRow
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import is_litter
from sop.runtime.log import printable

logger = logging.getLogger(__name__)

UNLABELLED = "unlabelled"

# The list of the source `list` may be in the same folder; it is no video.
LIST_NAME = "list.csv"

# File systems allow names of 255 bytes; a file that is being written has a longer name.
NAME_BYTES = 200

# Between the names of the folders in the id of a video that is nested deeper.
JOINT = "__"

# Files of a data set that describe its videos.
DESCRIPTIONS = frozenset(
    {
        *(".align", ".csv", ".h5", ".json", ".md", ".npy", ".npz", ".pdf", ".pkl", ".py", ".srt"),
        *(".textgrid", ".tsv", ".txt", ".vtt", ".xml", ".yaml", ".yml"),
    }
)

# Files that can be the sound of a video.
SOUNDS = frozenset({".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus"})

# Names of folders that have the sounds of the videos in the folder beside them.
_SOUND_FOLDER = re.compile("audio|sound|wav|flac|mp3|m4a|aac", re.IGNORECASE)

ADVICE = "put videos there as <category>/<name>.mp4 (or any other container)"


@dataclass(frozen=True)
class LocalVideo:
    """A file that becomes `<category>/<id>.mp4` if it is a video."""

    path: Path
    category: str
    id: str
    sound: Path | None = None
    """A sound file with the same name: the sound of the video if it has none of its own."""
    clip: tuple[float, float] | None = None
    """Begin and end of the part to take, in seconds; None for the whole video."""


def find_videos(
    folder: Path, category: str | None = None, may_be_empty: bool = False
) -> tuple[list[LocalVideo], list[VideoRow]]:
    """List the files of a folder with their categories and ids, except hidden ones and litter.

    The category is the first folder. The id is the name of the file, preceded by those of the
    folders between. No file is read: those that are no videos are found out later.

    Args:
        folder: contains the videos, in folders of any depth.
        category: category of all videos; None for that of their first folder.
        may_be_empty: True if it is no error that there are no files.

    Raises:
        UserError: the folder is missing or empty.
    """
    if not folder.is_dir():
        raise UserError(
            f"dataset.local.folder: {folder} is not a folder; {ADVICE}, or name another folder"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"dataset.local.folder: {folder} is not readable; check its permissions")
    files: list[Path] = []
    unusable: list[VideoRow] = []
    described: Counter[str] = Counter()
    for path in sorted(_walk(folder)):
        if path.parent == folder and path.name == LIST_NAME and path.is_file():
            continue
        if path.suffix.lower() in DESCRIPTIONS and path.is_file():
            described[path.suffix.lower()] += 1
            continue
        try:
            check_file(path, folder)
            files.append(path)
        except LeftOut as problem:
            unusable.append(_unusable(path, *_name(path, folder, category), str(problem)))
    if described:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(described.items()))
        logger.info(f"dataset.local.folder: {folder}: files that are no videos: {kinds}")
    sounds = _sounds_of(files, folder)
    taken = {sound for found in sounds.values() for sound in found}
    videos: dict[tuple[str, str], LocalVideo] = {}
    for path in files:
        if path in taken:
            continue
        of, id_ = _name(path, folder, category)
        earlier = videos.get((of, id_))
        if earlier is not None:
            other = earlier.path.name if earlier.path.parent == path.parent else earlier.path
            reason = f"{printable(str(other))} has the same name; rename one of them"
            unusable.append(_unusable(path, of, id_, reason))
        elif len(os.fsencode(id_)) > NAME_BYTES:
            reason = f"its name and those of its folders are longer than {NAME_BYTES} bytes"
            unusable.append(_unusable(path, of, id_[:NAME_BYTES], f"{reason}; rename them"))
        else:
            sound = next(iter(sounds.get(path, ())), None)
            videos[of, id_] = LocalVideo(path, of, id_, sound)
    if not (videos or unusable or may_be_empty):
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
    if path.is_symlink() and path.is_dir():
        raise LeftOut("a link to a folder; only a category may be one, move the folder here")
    if not path.is_file() and not path.is_dir():
        raise LeftOut("not an ordinary file")
    if path.is_dir() or not os.access(path, os.R_OK):
        raise LeftOut("not readable; check its permissions")


def _unusable(path: Path, category: str, id_: str, reason: str) -> VideoRow:
    return VideoRow(category, id_, UNAVAILABLE, reason, source=printable(str(path)))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files, and the folders that cannot be read or must not be followed.

    Only a category may be a link to a folder: deeper links could lead in a circle.
    """
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            entries = list(current.iterdir())
        except OSError:
            yield current
            continue
        for path in entries:
            if is_litter(path):
                continue
            is_folder = path.is_dir()
            if is_folder and path.is_symlink():
                target, root = path.resolve(), folder.resolve()
                is_folder = current == folder and target != root and target.is_relative_to(root)
            if is_folder:
                pending.append(path)
            else:
                yield path


def _name(path: Path, folder: Path, category: str | None) -> tuple[str, str]:
    """Return the category and the id of a file; different files have different ones.

    An exception is a file whose name itself is like those of folders and a file.
    """
    *folders, _ = path.relative_to(folder).parts
    if category is None:
        category, folders = (folders[0], folders[1:]) if folders else (UNLABELLED, [])
    names = [*folders, path.stem]
    id_ = JOINT.join(names)
    if len(names) > 1 and id_.split(JOINT) != names:
        # The same name could come from other folders.
        id_ += JOINT + hashlib.sha256("/".join(names).encode()).hexdigest()[:8]
    return category, id_


def _sounds_of(files: Iterable[Path], folder: Path) -> Mapping[Path, list[Path]]:
    """Return the sounds of each file that has any: of the same name, in its folder or beside it.

    Beside it is a folder whose name says that it contains sounds: that of `videos/a/1.mp4` is
    `audios/a/1.wav`.
    """
    here: dict[Path, list[Path]] = defaultdict(list)
    beside: dict[tuple[str | None, ...], list[Path]] = defaultdict(list)
    others = []
    for path in files:
        if path.suffix.lower() not in SOUNDS:
            others.append(path)
            continue
        here[path.with_suffix("")].append(path)
        for key, name in _without_one(path, folder):
            if _SOUND_FOLDER.search(name):
                beside[key].append(path)
    sounds = {}
    for path in others:
        found = list(here.get(path.with_suffix(""), ()))
        for key, name in _without_one(path, folder):
            if not found and not _SOUND_FOLDER.search(name):
                found = beside.get(key, [])
        if found:
            sounds[path] = found
    return sounds


def _without_one(path: Path, folder: Path) -> Iterator[tuple[tuple[str | None, ...], str]]:
    """Yield the place of a file without the name of one of its folders, and this name."""
    *folders, _ = path.relative_to(folder).parts
    for n, name in enumerate(folders):
        yield (*folders[:n], None, *folders[n + 1 :], path.stem), name
