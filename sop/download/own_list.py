"""The user's list: videos by category and YouTube id, or by category and address.

The lists of Solos, AVE and VGGSound are read in their own forms.
"""

import csv
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from operator import index
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sop.download.published_lists import YOUTUBE_ID, ListedVideo
from sop.runtime.errors import UserError
from sop.runtime.log import counted, printable
from sop.runtime.plain_yaml import yaml_text

logger = logging.getLogger(__name__)

COLUMNS = ("category", "id", "url", "begin", "end", "split")
YOUTUBE_HOSTS = ("youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com")

_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_URL = re.compile(r"https?://[^\s/?#]+\S*")

SPLITS = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    "test": "test",
}

# Solos counts frames of videos that were resampled to this rate.
SOLOS_FRAME_RATE = 25

# Length of each video of VGGSound.
VGGSOUND_SECONDS = 10

# Rows of AVE, the header of its Annotations.txt, and rows of VGGSound, which have no header.
_AVE = re.compile(r"[^&]+&[A-Za-z0-9_-]{11}&[^&]*&\d+&\d+")
_AVE_HEADER = "category&videoid&quality&starttime&endtime"
_VGGSOUND = re.compile(r"[A-Za-z0-9_-]{11}, *\d+ *,.+, *(train|val|valid|validation|test) *")

CATEGORY_FORM = "a category is letters, digits, _ and -, beginning with a letter or digit"
URL_FORM = "a url begins with http:// or https:// and has no spaces"
YOUTUBE_ID_FORM = "without a url it is a YouTube id, eleven letters, digits, - or _"
SPLIT_FORM = "a split is train, validation or test"
NAME_FORM = "with a url, or of a file, it is letters, digits, _ and -, not beginning with -"


def read_own_list(path: Path, video_url: str, of_files: bool = False) -> list[ListedVideo]:
    """Return the videos of a list in its order, without duplicates.

    Args:
        path: a CSV with a header, or JSON: a list of objects with the same keys, or the published
            form, `{"videos": {category: [id, ...]}}`. Columns: category; id, url or both;
            optionally begin and end of a part of the video, in seconds, and split. Other forms are
            Solos' JSON, `{category: {id: [[begin, end], ...]}}` in frames; AVE's rows,
            `category&id&quality&begin&end`; and VGGSound's rows, `id,begin,category,split`.
        video_url: address of a YouTube video, with `{id}` in place of its id.
        of_files: True if the videos are files that the user has.

    Raises:
        UserError: the file is missing or has another form, a row is invalid, or the times of the
            list are not those of the videos at `video_url`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"dataset.lists.own: {path} not found; create it with the columns category,id or "
            "category,url"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error})") from None
    first = text.lstrip().partition("\n")[0].strip()
    if path.suffix.lower() == ".json":
        rows = _json_rows
    elif _AVE.fullmatch(first) or first.lower() == _AVE_HEADER:
        if not of_files:
            raise UserError(
                f"{path}: the times of AVE count from the begin of its own clips, not of "
                "those videos on YouTube; set dataset.source local, dataset.local.folder to the "
                "folder of the clips, and dataset.local.by_list true"
            )
        rows = _ave_rows
    else:
        rows = _vggsound_rows if _VGGSOUND.fullmatch(first) else _csv_rows
    found: dict[tuple[str, str], tuple[ListedVideo, str]] = {}
    labels: dict[str, str] = {}
    for where, row in rows(path, text):
        try:
            video = _listed_video(row, video_url, of_files)
            label = row.get("label")
            if label and (other := labels.setdefault(video.category, label)) != label:
                raise ValueError(f"{yaml_text(label)} would have the folder of {yaml_text(other)}")
        except ValueError as error:
            raise UserError(f"{path}, {where}: {error}") from None
        earlier, place = found.setdefault((video.category, video.id), (video, where))
        if video != earlier:
            raise UserError(
                f"{path}, {where}: {video.category}/{video.id} is another video in {place}; "
                "give one of them another id in addition to its url"
            )
    if not found:
        raise UserError(f"{path}: lists no videos; add rows of category,id or category,url")
    return [video for video, _ in found.values()]


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in table.fieldnames or ()]
        known = set(names) <= set(COLUMNS) and len(set(names)) == len(names)
        if not known or "category" not in names or not {"id", "url"} & set(names):
            raise UserError(
                f"{path}, line 1: header {yaml_text(','.join(names))} is invalid; columns are "
                "category,id or category,url, and optionally begin,end,split"
            )
        table.fieldnames = names
        for row in table:
            if any(row.values()):
                # A count of the rows would leave out blank lines.
                yield f"line {table.reader.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}, line {table.reader.line_num}: not CSV ({error})") from None


def _ave_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    empty = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.strip().lower() == _AVE_HEADER:
            continue
        if not _AVE.fullmatch(line.strip()):
            raise UserError(
                f"{path}, line {number}: {yaml_text(line)} is not category&id&quality&begin&end, "
                "as the lines above"
            )
        label, id_, _, begin, end = line.strip().split("&")
        if int(begin) == int(end):
            empty += 1
        else:
            yield f"line {number}", {"label": label, "id": id_, "begin": begin, "end": end}
    if empty:
        logger.info(f"{path}: left out {counted(empty, 'part', 'parts')} without a length")


def _vggsound_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    try:
        for row in table:
            where = f"line {table.line_num}"
            if not any(row):
                continue
            if len(row) != 4 or not re.fullmatch("[0-9]{1,9}", row[1].strip()):
                raise UserError(
                    f"{path}, {where}: {yaml_text(','.join(row))} is not id,begin,category,split, "
                    "as the lines above"
                )
            id_, begin, label, split = row
            end = int(begin) + VGGSOUND_SECONDS
            yield where, {"label": label, "id": id_, "begin": begin, "end": end, "split": split}
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: not CSV ({error})") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        rows = json.loads(text, object_pairs_hook=partial(_object, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    is_solos = isinstance(rows, dict) and "videos" not in rows and bool(rows)
    if is_solos and all(isinstance(ids, dict) for ids in rows.values()):
        yield from _solos_rows(path, rows)
        return
    try:
        if isinstance(rows, dict):
            videos = rows["videos"].items()
            rows = [{"category": category, "id": id_} for category, ids in videos for id_ in ids]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f'{path}: expected a list of objects with category and id or url, or {{"videos": '
            "{category: [id, ...]}}"
        ) from None
    for number, row in enumerate(rows, start=1):
        if unknown := set(row) - set(COLUMNS):
            raise UserError(
                f"{path}, video {number}: unknown key {yaml_text(min(unknown))}; keys are "
                f"{', '.join(COLUMNS)}"
            )
        yield f"video {number}", row


def _solos_rows(
    path: Path, videos: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    empty = 0
    for label, ids in videos.items():
        for id_, parts in ids.items():
            where = f"video {printable(id_)}"
            try:
                frames = [(index(begin), index(end)) for begin, end in parts]
                seconds = [[frame / SOLOS_FRAME_RATE for frame in part] for part in frames]
            except (TypeError, ValueError, OverflowError):
                raise UserError(
                    f"{path}, {where}: {yaml_text(parts)} is not [[begin, end], ...] in frames"
                ) from None
            empty += not seconds
            for begin, end in seconds:
                yield where, {"label": label, "id": id_, "begin": begin, "end": end}
    if empty:
        logger.info(f"{path}: left out {counted(empty, 'video', 'videos')} without a part")


def _object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a key that occurs twice, Python would keep the last value only."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f"{path}: the key {yaml_text(key)} occurs twice; join its values")
        found[key] = value
    return found


def _listed_video(row: Mapping[str, Any], video_url: str, of_files: bool) -> ListedVideo:
    """Return the video of a row; raise ValueError with the reason if the row is invalid.

    The id of a file is its name; without an address, that of another video is a YouTube id.
    """
    if None in row:
        raise ValueError("more values than columns")
    for key in ("category", "id", "url", "split"):
        if not isinstance(row.get(key), str | None):
            raise ValueError(f"{key} {yaml_text(row[key])} is not allowed; it must be a string")
    if "label" in row:
        category = re.sub(r"[^A-Za-z0-9-]+", "_", row["label"]).strip("_-")
    else:
        # Duets of the published lists are written with a space.
        category = (row.get("category") or "").strip().replace(" ", "_")
    id_, url = (row.get("id") or "").strip(), (row.get("url") or "").strip()
    split = (row.get("split") or "").strip().lower()
    is_youtube = YOUTUBE_ID.fullmatch(id_) is not None
    checks = [
        ("category", category, _CATEGORY.fullmatch(category), CATEGORY_FORM),
        ("url", url, not url or _is_web_address(url), URL_FORM),
        ("id", id_, url or is_youtube or (of_files and id_), YOUTUBE_ID_FORM),
        ("id", id_, not id_ or is_youtube or _NAME.fullmatch(id_), NAME_FORM),
        ("split", split, not split or split in SPLITS, SPLIT_FORM),
    ]
    for key, value, is_valid, form in checks:
        if not is_valid:
            raise ValueError(f"{key} {yaml_text(value)} is not allowed; {form}")
    clip = _clip(row.get("begin"), row.get("end"))
    name = id_ or _name_of(url)
    if clip is not None:
        name += f"_{clip[0]:.10g}-{clip[1]:.10g}"
    address = url or video_url.replace("{id}", id_)
    return ListedVideo(category, name, address, clip, split=SPLITS.get(split, ""))


def _clip(begin: Any, end: Any) -> tuple[float, float] | None:
    if begin in (None, "") and end in (None, ""):
        return None
    try:
        # Converted to text first, because float() accepts True and overflows for large integers.
        seconds = 0.0 if begin in (None, "") else float(str(begin)), float(str(end))
    except ValueError:
        seconds = (0.0, 0.0)
    if not 0 <= seconds[0] < seconds[1] < float("inf"):
        raise ValueError(
            f"begin {yaml_text(begin)} and end {yaml_text(end)} are not allowed; both are seconds, "
            "with begin before end"
        )
    return seconds


def _is_web_address(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and url.isprintable() and _URL.fullmatch(url) is not None


def _name_of(url: str) -> str:
    """Return a file name for an address: YouTube's id, or its last part and a hash."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    id_ = ""
    if parts.hostname == "youtu.be":
        id_ = path
    elif parts.hostname in YOUTUBE_HOSTS:
        id_ = parse_qs(parts.query).get("v", [path.rpartition("/")[2]])[0]
    if YOUTUBE_ID.fullmatch(id_):
        return id_
    stem = Path(unquote(path)).stem
    readable = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:40]
    return f"{readable or 'video'}_{hashlib.sha256(url.encode()).hexdigest()[:8]}"
