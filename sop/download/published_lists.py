"""Published lists of videos: MUSIC and MUSIC21."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sop.runtime.errors import UserError
from sop.runtime.hashes import sha256
from sop.runtime.web import downloading

MUSIC_SOLOS = "MUSIC_solo_videos.json"
MUSIC_DUETS = "MUSIC_duet_videos.json"
MUSIC21_SOLOS = "MUSIC21_solo_videos.json"

# Hashes of the lists in the public repository, at the commit that params.yaml names.
SHA256 = {
    MUSIC_SOLOS: "cddd3e9544cac4b5e5ebd55c2707bad0eb6ad29ebff571afb70a5545d4740304",
    MUSIC_DUETS: "f53c60f22d1901b88a15592b55a7e9891ae70016d08fb6f7ec7acd04091cd2e9",
    MUSIC21_SOLOS: "f3e7145e4750a2455c59ab3a8acf4475171a4d3113d0fa3a8a8a549ca3e6c461",
}

# The longest of the three has 33 kB.
LIST_BYTES = 1 << 20

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CATEGORY = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*( [a-z0-9]+(_[a-z0-9]+)*)?")


@dataclass(frozen=True)
class ListedVideo:
    """One video of a list."""

    category: str
    """Name of the folder; for a duet, both instruments joined by an underscore."""
    id: str
    """Name of the file. A YouTube id has eleven letters, digits, `-` and `_`; `-` may be first."""
    url: str | None = None
    """Address; None if it follows from the id."""
    clip: tuple[float, float] | None = None
    """Begin and end in seconds; None for the whole video or the default of the parameters."""
    duet_of: tuple[str, ...] = ()
    """Instruments of a published duet; empty if the category is one instrument."""
    split: str = ""
    """List in which the video belongs: train, validation or test; empty if its list says none."""

    @property
    def of(self) -> str:
        """Id of the whole video."""
        return self.id if self.clip is None else self.id.rpartition("_")[0]


def read_lists(
    names: Collection[str], list_url: str, folder: Path, timeout_seconds: float
) -> list[ListedVideo]:
    """Return the videos of published lists in their order; fetch lists that are missing.

    Args:
        names: file names of the lists, keys of `SHA256`.
        list_url: address of a list, with `{file}` in path of its name.
        folder: folder where lists are kept.
        timeout_seconds: time after which a silent server is given up.

    Raises:
        UserError: a list cannot be fetched, is not the published one, or is invalid.
    """
    videos: dict[ListedVideo, None] = {}
    for name in names:
        text = _list_text(name, list_url.replace("{file}", name), folder, timeout_seconds)
        videos.update(dict.fromkeys(parse_list(text, name)))
    return list(videos)


def parse_list(text: bytes, name: str) -> list[ListedVideo]:
    """Parse a list of the published form, `{"videos": {category: [id, ...]}}`.

    Args:
        text: the JSON.
        name: name of the list, for messages.

    Raises:
        UserError: the form is another, or a category or an id is no valid file name.
    """
    try:
        videos = json.loads(text)["videos"]
        pairs = [(category, id_) for category, ids in videos.items() for id_ in ids]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f'{name}: not a list of videos; expected {{"videos": {{category: [id, ...]}}}}'
        ) from None
    for category, id_ in pairs:
        if not _CATEGORY.fullmatch(category) or not (
            isinstance(id_, str) and YOUTUBE_ID.fullmatch(id_)
        ):
            raise UserError(
                f"{name}: {category!r} with id {id_!r} is not allowed; a category is lower-case "
                "words joined by underscores, or two such names with a space between; an id is "
                "eleven letters, digits, - or _"
            )
    return [
        ListedVideo(
            category.replace(" ", "_"), id_, duet_of=tuple(category.split()) * (" " in category)
        )
        for category, id_ in pairs
    ]


def select_videos(
    videos: Collection[ListedVideo], categories: Collection[str], max_per_category: int | None
) -> list[ListedVideo]:
    """Return the videos of some categories, and only the first few of each.

    Args:
        videos: the list.
        categories: names of folders; empty for all.
        max_per_category: maximum number of videos of each category; None for all.

    Raises:
        UserError: a category is not in the list.
    """
    known = dict.fromkeys(video.category for video in videos)
    for category in categories:
        if category not in known:
            raise UserError(
                f"dataset.lists.categories: {category!r} is not in the list, which has "
                f"{', '.join(known)}"
            )
    left = dict.fromkeys(categories or known, max_per_category or len(videos))
    kept = []
    for video in videos:
        if left.get(video.category, 0):
            left[video.category] -= 1
            kept.append(video)
    return kept


def _list_text(name: str, url: str, folder: Path, timeout_seconds: float) -> bytes:
    path = folder / name
    if not path.is_file() or sha256(path) != SHA256[name]:
        remedy = "see dataset.lists.published"
        with downloading(url, path, LIST_BYTES, timeout_seconds, remedy) as partial:
            if (found := sha256(partial)) != SHA256[name]:
                raise ValueError(
                    f"not the published list: its SHA-256 is {found}, expected {SHA256[name]}"
                )
    return path.read_bytes()
