"""A list of the user's own: videos by category and YouTube id, or by category and address."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sop.dataset.catalogue import YOUTUBE_ID, Entry, parse_list
from sop.errors import UserError

COLUMNS = ("category", "id", "url", "begin", "end")
YOUTUBE_HOSTS = ("youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com")

_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")


def read_own_list(path: Path, video_url: str) -> list[Entry]:
    """The videos of a list, in its order.

    Args:
        path: a CSV with a header, or JSON: a list of objects with the same keys, or the published
            form, `{"videos": {category: [id, ...]}}`. Columns: category; id, url or both; and
            begin and end in seconds, for a part of the video.

    Raises:
        UserError: the file is missing or of another form, or a row holds what it may not.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"dataset.lists.own: {path} not found; write it, with the columns category,id or "
            "category,url"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error})") from None
    published = path.suffix.lower() == ".json" and text.lstrip().startswith("{")
    entries = parse_list(text.encode(), str(path)) if published else _entries(path, text, video_url)
    if not entries:
        raise UserError(f"{path}: lists no videos; add rows of category,id or category,url")
    entries = list(dict.fromkeys(entries))
    _check_names_differ(entries, path)
    return entries


def _entries(path: Path, text: str, video_url: str) -> list[Entry]:
    rows = _json_rows if path.suffix.lower() == ".json" else _csv_rows
    entries = []
    for where, row in rows(path, text):
        try:
            entries.append(_entry(row, video_url))
        except ValueError as error:
            raise UserError(f"{path}, {where}: {error}") from None
    return entries


def _csv_rows(path: Path, text: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    table = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
    names = table.fieldnames or ()
    if "category" not in names or not {"id", "url"} & set(names) or set(names) - set(COLUMNS):
        raise UserError(
            f"{path}: its first line is {','.join(map(str, names))!r}; it should name the columns: "
            "category,id or category,url, and begin,end if wanted"
        )
    try:
        for row in table:
            if any(row.values()):
                yield f"line {table.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: not CSV ({error})") from None


def _json_rows(path: Path, text: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: should be a list of objects with category and id or url")
    for number, row in enumerate(rows, start=1):
        if unknown := set(row) - set(COLUMNS):
            raise UserError(f"{path}, video {number}: unknown key {min(unknown)!r}")
        yield f"video {number}", row


def _entry(row: Mapping[str, Any], video_url: str) -> Entry:
    """A row as an entry; what is wrong with it is a ValueError."""
    if None in row or not all(isinstance(row.get(key) or "", str) for key in COLUMNS[:3]):
        raise ValueError("has more values than there are columns, or a value that is no text")
    # Duets of the published lists have a space.
    category = (row.get("category") or "").strip().replace(" ", "_")
    id_, url = (row.get("id") or "").strip(), (row.get("url") or "").strip()
    if not _CATEGORY.fullmatch(category):
        raise ValueError(
            f"category {category!r} is not allowed; a category is letters, digits, _ and -, and "
            "begins with a letter or digit"
        )
    if url and not _URL.fullmatch(url):
        raise ValueError(f"url {url!r} is not allowed; a url begins with http:// or https://")
    if not url and not YOUTUBE_ID.fullmatch(id_):
        raise ValueError(
            f"id {id_!r} is not allowed; without a url it is a YouTube id, eleven letters, "
            "digits, - or _"
        )
    if url and id_ and not (_NAME.fullmatch(id_) or YOUTUBE_ID.fullmatch(id_)):
        raise ValueError(
            f"id {id_!r} is not allowed; beside a url it is letters, digits, _ and -, "
            "not beginning with -"
        )
    clip = _clip(row.get("begin"), row.get("end"))
    name = id_ or _name_of(url)
    if clip is not None:
        name += f"_{clip[0]:g}-{clip[1]:g}"
    return Entry(category, name, url or video_url.replace("{id}", id_), clip)


def _clip(begin: Any, end: Any) -> tuple[float, float] | None:
    if begin in (None, "") and end in (None, ""):
        return None
    try:
        seconds = float(begin or 0), float(end)
    except (TypeError, ValueError):
        seconds = (0.0, 0.0)
    if not 0 <= seconds[0] < seconds[1] < float("inf"):
        raise ValueError(f"begin {begin!r} and end {end!r} are not allowed; they are seconds")
    return seconds


def _name_of(url: str) -> str:
    """A file's name for an address: YouTube's id, or its last part and what tells it apart."""
    parts = urlsplit(url)
    if parts.hostname == "youtu.be":
        id_ = parts.path.strip("/")
    elif parts.hostname in YOUTUBE_HOSTS:
        id_ = parse_qs(parts.query).get("v", [parts.path.rpartition("/")[2]])[0]
    else:
        id_ = ""
    if YOUTUBE_ID.fullmatch(id_):
        return id_
    stem = Path(unquote(parts.path)).stem
    readable = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:40]
    return f"{readable or 'video'}_{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _check_names_differ(entries: list[Entry], path: Path) -> None:
    seen = set()
    for entry in entries:
        if (entry.category, entry.id) in seen:
            raise UserError(
                f"{path}: two videos would be {entry.category}/{entry.id}; "
                "give one of them another id"
            )
        seen.add((entry.category, entry.id))
