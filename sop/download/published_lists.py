"""The published lists of videos: MUSIC and MUSIC21."""

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from sop.runtime.errors import UserError
from sop.runtime.files import replacing

MUSIC_SOLOS = "MUSIC_solo_videos.json"
MUSIC_DUETS = "MUSIC_duet_videos.json"
MUSIC21_SOLOS = "MUSIC21_solo_videos.json"

# Of the files in the public repository at the commit that params.yaml names.
SHA256 = {
    MUSIC_SOLOS: "cddd3e9544cac4b5e5ebd55c2707bad0eb6ad29ebff571afb70a5545d4740304",
    MUSIC_DUETS: "f53c60f22d1901b88a15592b55a7e9891ae70016d08fb6f7ec7acd04091cd2e9",
    MUSIC21_SOLOS: "f3e7145e4750a2455c59ab3a8acf4475171a4d3113d0fa3a8a8a549ca3e6c461",
}

# The longest of the three is 33 kB; no other answer of a server needs to be read to its end.
LIST_BYTES = 1 << 20

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CATEGORY = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*( [a-z0-9]+(_[a-z0-9]+)*)?")


@dataclass(frozen=True)
class Entry:
    """One video of a list."""

    category: str
    """As its folder is called: of a duet, both instruments joined by an underscore."""
    id: str
    """As its file is called. On YouTube eleven letters, digits, `-` and `_`, `-` first too."""
    url: str | None = None
    """Where it is; None where the id says that."""
    clip: tuple[float, float] | None = None
    """Second of its begin and of its end; None for all of it, or what the parameters say."""


def read_lists(
    names: Collection[str], list_url: str, folder: Path, timeout_seconds: float
) -> list[Entry]:
    """The videos of published lists, in their order; lists that are not there yet are fetched.

    Args:
        names: of the files, keys of `SHA256`.
        list_url: address of a list, with `{file}` where its name goes.
        folder: where lists are kept.
        timeout_seconds: of a server that says nothing.

    Raises:
        UserError: a list cannot be had, is not the published one, or holds what it may not.
    """
    entries: dict[Entry, None] = {}
    for name in names:
        text = _list_text(name, list_url.replace("{file}", name), folder, timeout_seconds)
        entries.update(dict.fromkeys(parse_list(text, name)))
    return list(entries)


def parse_list(text: bytes, name: str) -> list[Entry]:
    """The videos of a list of the published form, `{"videos": {category: [id, ...]}}`.

    Args:
        text: the JSON.
        name: of the list, for messages.

    Raises:
        UserError: it is of another form, or a category or an id could not be a file's name.
    """
    try:
        videos = json.loads(text)["videos"]
        pairs = [(category, id_) for category, ids in videos.items() for id_ in ids]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f'{name}: not a list of videos, which is {{"videos": {{category: [id, ...]}}}}'
        ) from None
    for category, id_ in pairs:
        if not _CATEGORY.fullmatch(category):
            raise UserError(
                f"{name}: category {category!r} is not allowed; a category is lower-case words "
                "joined by underscores, or two such names with a space between"
            )
        if not isinstance(id_, str) or not YOUTUBE_ID.fullmatch(id_):
            raise UserError(
                f"{name}: id {id_!r} in {category!r} is not allowed; an id is eleven letters, "
                "digits, - or _"
            )
    return [Entry(category.replace(" ", "_"), id_) for category, id_ in pairs]


def chosen(
    entries: Collection[Entry], categories: Collection[str], max_per_category: int | None
) -> list[Entry]:
    """Of a list those of some categories, and of each the first so many.

    Args:
        entries: the list.
        categories: as their folders are called; none means all.
        max_per_category: None means all.

    Raises:
        UserError: the list has no such category.
    """
    known = dict.fromkeys(entry.category for entry in entries)
    for category in categories:
        if category not in known:
            raise UserError(
                f"dataset.lists.categories: {category!r} is not in the list, which has "
                f"{', '.join(known)}"
            )
    left = dict.fromkeys(categories or known, max_per_category or len(entries))
    kept = []
    for entry in entries:
        if left.get(entry.category, 0):
            left[entry.category] -= 1
            kept.append(entry)
    return kept


def _list_text(name: str, url: str, folder: Path, timeout_seconds: float) -> bytes:
    place = folder / name
    if place.is_file():
        text = place.read_bytes()
        if hashlib.sha256(text).hexdigest() == SHA256[name]:
            return text
    text = _fetch(url, timeout_seconds)
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256[name]:
        raise UserError(
            f"{url}: not the published list: its SHA-256 is {found}, expected {SHA256[name]}; "
            "see dataset.lists.published"
        )
    with replacing(place) as partial:
        partial.write_bytes(text)
    return text


def _fetch(url: str, timeout_seconds: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            text: bytes = answer.read(LIST_BYTES)
            return text
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
    raise UserError(f"{url}: no list could be fetched ({reason}); see dataset.lists.published")
