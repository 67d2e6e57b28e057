"""Published protocols: lists of videos, lists of mixtures, and checks of both.

The forms are those of public repositories: rows of `AUDIO,FRAMES,NUMBER_FRAMES` as in Sound of
Pixels, iQuery and CCoL, with a fourth column for the category as in DAVIS and CLIPSep, the JSON
lists of MUSIC, and one id per line. Mixtures are rows of two or more videos, with times as in
AudioScope, or rows of indices. Nothing in a list is opened: names are only compared.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sop.runtime.errors import UserError
from sop.runtime.log import counted
from sop.runtime.plain_yaml import yaml_text

MAX_BYTES = 64 * 2**20
MAX_ROWS = 1_000_000

# Number of names in a sentence.
SHOWN = 10

# Verbs of the sentences on problems, of several and of one.
_VERBS = {"are": "is", "have": "has", "name": "names", "repeat": "repeats", "stand": "stands"}

LIST_FORMS = (
    "an id, AUDIO,FRAMES,NUMBER_FRAMES with or without CATEGORY, or columns named by a header"
)
PAIR_FORM = "two or more videos, each with nothing, a begin, or begin and end in seconds behind it"

# A name may have several: abc.mp4.wav.
_SUFFIX = re.compile(
    r"\.(?:wav|mp3|m4a|flac|ogg|aac|mp4|m4v|webm|mkv|avi|mov|mpe?g|flv|jpe?g|png|npy|npz|zip|h5|pkl"
    r"|txt|json)\Z",
    re.IGNORECASE,
)
# An id of YouTube is a number of 64 bits, so its last character has 16 values only. Letters of both
# cases, which 99 % of the ids of MUSIC have, tell ids from names such as `recording_4`.
_ID_FORM = r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]"
_YOUTUBE_ID = re.compile(_ID_FORM)
# Names of parts: `<id>_<begin>-<end>` of a list of one's own, and `<id>_<begin>` of VGGSound.
_SECONDS = r"\d{1,9}(?:\.\d{1,12})?"
_PART = re.compile(rf"({_ID_FORM})_({_SECONDS})(?:-({_SECONDS}))?")
_WATCH = re.compile(r"[?&]v=([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,12})?")
_INDEX = re.compile(r"\d{1,9}")
# Folders that hold data of all categories.
_NO_CATEGORY = {"", ".", "..", "audio", "audios", "data", "frames", "video", "videos", "wav", "mp3"}

_ID_COLUMNS = ("id", "video", "video_id", "youtube_id", "ytid", "audio", "path", "file", "name")
_CATEGORY_COLUMNS = ("category", "label", "class", "instrument")
_PAIR_HEADER = re.compile(
    r"(id|video|videos?_?id|name|path|file|audio|idx|index|begin|start|end|category)s?[ _-]?\w?\d*",
    re.IGNORECASE,
)


class Entry(NamedTuple):
    """A video as a list names it."""

    category: str | None
    """Category in lower case, with _ for spaces; None if the list does not say."""
    id: str
    """Name without folders and suffixes."""

    @property
    def name(self) -> str:
        """`<category>/<id>`, or the id."""
        return self.id if self.category is None else f"{self.category}/{self.id}"

    @property
    def recording(self) -> str:
        """The id of the whole video of which it may be a part."""
        part = _PART.fullmatch(self.id)
        return part[1] if part else self.id

    @property
    def times(self) -> tuple[float, float | None] | None:
        """Begin of a part and its end, if it is named, in seconds; None for a whole video."""
        part = _PART.fullmatch(self.id)
        return part and (float(part[2]), float(part[3]) if part[3] else None)

    @property
    def is_youtube(self) -> bool:
        """Whether its id has the form of a YouTube id, which is the same video everywhere."""
        return _YOUTUBE_ID.fullmatch(self.recording) is not None


class Source(NamedTuple):
    """One video of a listed mixture."""

    entry: Entry
    begin: float | None = None
    """Begin of the clip, seconds; None for the middle of the video."""
    end: float | None = None
    """End of the clip, seconds; None if the list gives the begin alone."""


Sources = tuple[Source, ...]


def entry_of(text: str, category: str | None = None) -> Entry:
    """Return the video that a path, an address or an id names.

    Args:
        text: such as `/flute/-Gdh8N_KpLY.wav`, `flute/-Gdh8N_KpLY` or `-Gdh8N_KpLY`.
        category: the category, if it is known; otherwise it is the folder of the path.

    Raises:
        ValueError: there is no name in it.
    """
    text = text.strip()
    if watch := _WATCH.search(text):
        folders, name = [""], watch[1]
    else:
        *folders, name = ["", *text.replace("\\", "/").split("/")]
    name = _without_suffixes(name)
    if name.strip(". ") == "":
        raise ValueError("it names no video")
    if category is None and plain_category(folders[-1]) not in _NO_CATEGORY and "://" not in text:
        category = folders[-1]
    return Entry(plain_category(category) if category else None, name)


def entry_of_video(category: str, stem: str) -> Entry:
    """Return what names an extracted video: its folder, and its file without the suffix."""
    return Entry(plain_category(category), _without_suffixes(stem))


def _without_suffixes(name: str) -> str:
    while (shorter := _SUFFIX.sub("", name)) not in (name, ""):
        name = shorter
    return name


def plain_category(text: str) -> str:
    """Return a category as it is compared: `Acoustic guitar` is `acoustic_guitar`."""
    return re.sub(r"[\s_]+", "_", text.strip()).casefold()


class Known:
    """Videos among which the entries of lists are found.

    An id in the form of YouTube ids is the same video in every category; a part of a video is found
    by the id of the whole, and the whole by the id of a part, but no part by another. Any other id
    belongs to its category, unless the list gives none, or gives a folder that is no category here.

    Args:
        entries: the videos, in order.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_recording: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(self.entries):
            self._by_id[entry.id].append(number)
            self._by_recording[entry.recording].append(number)
        self._categories = {entry.category for entry in self.entries}

    def find(self, entry: Entry) -> list[int]:
        """Return the numbers of the videos that an entry names: none, one, or parts of one.

        Raises:
            UserError: it may be one of several videos.
        """
        found = [n for n in self._by_id.get(entry.id, ()) if self._may_be(entry, self.entries[n])]
        if not found and entry.is_youtube:
            parts = self._by_recording.get(entry.recording, ())
            found = [n for n in parts if _may_be_part(entry, self.entries[n])]
        same = [n for n in found if self.entries[n].category == entry.category]
        found = same or found
        if not entry.is_youtube and len({self.entries[n].category for n in found}) > 1:
            names = ", ".join(sorted(self.entries[n].name for n in found)[:3])
            raise UserError(f"{yaml_text(entry.id)} may be {names}; write <category>/<id>")
        return list(found)

    def has_recording(self, entry: Entry) -> bool:
        """Whether a video, or another part of it, is one of the videos.

        Raises:
            UserError: it may be one of several videos.
        """
        is_part_there = entry.is_youtube and entry.recording in self._by_recording
        return is_part_there or bool(self.find(entry))

    def has_id(self, text: str) -> bool:
        """Whether a text is the id of one of the videos."""
        return text in self._by_id

    def _may_be(self, entry: Entry, video: Entry) -> bool:
        if entry.is_youtube or None in (entry.category, video.category):
            return True
        return entry.category == video.category or entry.category not in self._categories


def _may_be_part(entry: Entry, video: Entry) -> bool:
    """Whether two names of one recording may be of the same part, or one is of all of it."""
    if entry.times is None or video.times is None:
        return True
    (begin, end), (video_begin, video_end) = entry.times, video.times
    return begin == video_begin and (end == video_end or None in (end, video_end))


def read_list(path: Path, key: str) -> list[Entry]:
    """Read a list of videos.

    Args:
        path: JSON as of the MUSIC dataset, `{"videos": {category: [id, ...]}}`, or text; see
            `LIST_FORMS`.
        key: the parameter that names the file, for messages; empty if there is none.

    Raises:
        UserError: the file is missing, empty or has another form.
    """
    text = _read(path, key)
    if path.suffix.lower() == ".json":
        entries = list(_json_entries(path, text))
    else:
        entries = list(_row_entries(path, text))
    if not entries:
        raise UserError(f"{path}: lists no videos; each row is {LIST_FORMS}")
    return entries


def read_pairs(path: Path, key: str, listed: Sequence[Entry]) -> list[Sources]:
    """Read a list of mixtures.

    Args:
        path: text, each row as `PAIR_FORM` says, divided by commas, tabs or spaces; or only indices
            of rows of the list of videos, counted from 0, or from 1 if the highest is its length
            and 0 does not occur.
        key: the parameter that names the file, for messages; empty if there is none.
        listed: the list of videos. A row of numbers is one of ids if they are ids of this list.

    Raises:
        UserError: the file is missing, empty or has another form.
    """
    rows = list(_rows(path, _read(path, key), is_list=False))
    known = Known(listed)
    if rows and all(_PAIR_HEADER.fullmatch(cell) for cell in rows[0][1]):
        rows = rows if any(known.has_id(cell) for cell in rows[0][1]) else rows[1:]
    if not rows:
        raise UserError(f"{path}: lists no mixtures; each row is {PAIR_FORM}")
    cells = [cell for _, row in rows for cell in row]
    are_names = all(map(known.has_id, cells))
    if all(map(_INDEX.fullmatch, cells)) and not are_names:
        return _indexed(path, rows, listed)
    mixtures = []
    for where, row in rows:
        try:
            mixtures.append(_sources(row, are_names))
        except ValueError as error:
            raise UserError(f"{path}, {where}: {error}; a row is {PAIR_FORM}") from None
    return mixtures


@dataclass(frozen=True)
class SplitCheck:
    """What is wrong with lists of videos and mixtures. Numbers are positions in the lists."""

    train: Known
    test: Known
    pairs: tuple[Sources, ...] = ()
    validation: Known | None = None
    test_rows: tuple[Entry, ...] | None = None
    """Rows of the test list; None if they are the entries of `test`."""

    @cached_property
    def leaked(self) -> list[Entry]:
        """Test videos that stand in the training list, also as another part of the video."""
        return self._standing_in(self.train)

    @cached_property
    def in_validation(self) -> list[Entry]:
        """Test videos that stand in the validation list."""
        return [] if self.validation is None else self._standing_in(self.validation)

    @cached_property
    def repeated_videos(self) -> int:
        """Number of rows of the test list that name the video of an earlier row."""
        rows = self.test.entries if self.test_rows is None else self.test_rows
        return len(rows) - len(set(map(_identity, rows)))

    @cached_property
    def repeated(self) -> list[int]:
        """Mixtures whose videos stand in an earlier row, in the same order."""
        return [n for n, kind in enumerate(self._kinds) if kind == "repeated"]

    @cached_property
    def swapped(self) -> list[int]:
        """Mixtures whose videos stand in an earlier row, but only in another order."""
        return [n for n, kind in enumerate(self._kinds) if kind == "swapped"]

    @cached_property
    def with_itself(self) -> list[int]:
        """Mixtures of a video with itself."""
        found = (len({self._video(source) for source in row}) < len(row) for row in self.pairs)
        return [number for number, is_one in enumerate(found) if is_one]

    @cached_property
    def touched(self) -> list[int]:
        """Mixtures with a video that stands in the training list."""
        return [n for n, row in enumerate(self.pairs) if any(map(self._in_training, row))]

    @cached_property
    def outside(self) -> list[int]:
        """Mixtures with a video that does not stand in the test list."""
        return [
            number
            for number, row in enumerate(self.pairs)
            if not all(self.test.find(source.entry) for source in row)
        ]

    @property
    def missing_in_test(self) -> list[str]:
        """Categories of the training list of which the test list has no video."""
        return sorted(_categories(self.train.entries) - _categories(self.test.entries))

    @property
    def missing_in_training(self) -> list[str]:
        """Categories of the test list of which the training list has no video."""
        return sorted(_categories(self.test.entries) - _categories(self.train.entries))

    @property
    def is_sound(self) -> bool:
        """Whether no test video stands in another list."""
        return not (self.leaked or self.in_validation or self.touched)

    def counts(self) -> dict[str, int]:
        """Return all counts by name; those of mixtures only if there are any."""
        counts = {
            "test_videos": len(self.test.entries),
            "repeated_test_videos": self.repeated_videos,
            "test_videos_in_training": len(self.leaked),
        }
        if self.validation is not None:
            counts["test_videos_in_validation"] = len(self.in_validation)
        if self.pairs:
            repeats = len(self.repeated) + len(self.swapped)
            counts |= {
                "mixtures": len(self.pairs),
                "distinct_mixtures": len(self.pairs) - repeats,
                "repeated_mixtures": len(self.repeated),
                "swapped_mixtures": len(self.swapped),
                "mixtures_with_training_videos": len(self.touched),
                "mixtures_of_one_video": len(self.with_itself),
                "mixtures_with_unlisted_videos": len(self.outside),
            }
        return counts | {
            "categories_missing_in_test": len(self.missing_in_test),
            "categories_missing_in_training": len(self.missing_in_training),
        }

    def problems(self) -> list[str]:
        """Return one sentence for each kind of problem."""
        counts, names = self.counts(), self.names()

        def few(key: str) -> str:
            shown = [str(name) for name in names[key][:SHOWN]]
            return ", ".join(shown) + ", ..." * (len(names[key]) > SHOWN)

        texts = {
            "test_videos_in_training": "{n} of {test_videos} test videos {stand} in the training "
            "list: {few}",
            "test_videos_in_validation": "{n} of {test_videos} test videos {stand} in the "
            "validation list: {few}",
            "repeated_test_videos": "{rows} of the test list {name} the video of an earlier row",
            "mixtures_with_training_videos": "{n} of {mixtures} mixtures {have} a video of the "
            "training list",
            "repeated_mixtures": "{n} of {mixtures} mixtures {repeat} an earlier one",
            "swapped_mixtures": "{n} of {mixtures} mixtures {repeat} an earlier one with the "
            "videos in another order",
            "mixtures_of_one_video": "{n} of {mixtures} mixtures {have} one video twice",
            "mixtures_with_unlisted_videos": "{n} of {mixtures} mixtures {have} a video that is "
            "not in the test list",
            "categories_missing_in_test": "{categories} of training {are} missing in test: {few}",
            "categories_missing_in_training": "{categories} of test {are} missing in training: "
            "{few}",
        }

        def sentence(key: str, text: str) -> str:
            n = counts[key]
            words = {verb: of_one if n == 1 else verb for verb, of_one in _VERBS.items()}
            words["rows"] = counted(n, "row", "rows")
            words["categories"] = counted(n, "category", "categories")
            return text.format(**counts, **words, n=n, few=few(key) if "{few}" in text else "")

        return [sentence(key, text) for key, text in texts.items() if counts.get(key)]

    def names(self) -> dict[str, Any]:
        """Return the videos and categories, and the numbers of mixtures, counted from 1."""
        rows = {
            "repeated_mixtures": self.repeated,
            "swapped_mixtures": self.swapped,
            "mixtures_with_training_videos": self.touched,
            "mixtures_of_one_video": self.with_itself,
            "mixtures_with_unlisted_videos": self.outside,
        }
        return {
            "test_videos_in_training": [entry.name for entry in self.leaked],
            "test_videos_in_validation": [entry.name for entry in self.in_validation],
            **{name: [number + 1 for number in numbers] for name, numbers in rows.items()},
            "categories_missing_in_test": self.missing_in_test,
            "categories_missing_in_training": self.missing_in_training,
        }

    def _standing_in(self, other: Known) -> list[Entry]:
        found = {entry: None for entry in self.test.entries if other.has_recording(entry)}
        return list(found)

    def _video(self, source: Source) -> tuple[Any, ...]:
        """Return what is the same for all names of the video of a source."""
        return tuple(self.test.find(source.entry)) or _identity(source.entry)

    def _in_training(self, source: Source) -> bool:
        return self.train.has_recording(source.entry)

    @cached_property
    def _kinds(self) -> list[str]:
        ordered: set[tuple[Any, ...]] = set()
        unordered: set[tuple[Any, ...]] = set()
        kinds = []
        for row in self.pairs:
            one = tuple((self._video(source), source[1:]) for source in row)
            another = tuple(sorted(one, key=repr))
            kinds.append(
                "repeated" if one in ordered else "swapped" if another in unordered else "new"
            )
            ordered.add(one)
            unordered.add(another)
        return kinds


def _identity(entry: Entry) -> tuple[str | None, str]:
    """Return what is the same for all names of a video."""
    return (None if entry.is_youtube else entry.category, entry.id)


def _categories(entries: Iterable[Entry]) -> set[str]:
    return {entry.category for entry in entries if entry.category is not None}


def _read(path: Path, key: str) -> str:
    file = f"{key}: {path}" if key else f"{path}:"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has more than {MAX_BYTES >> 20} MiB; it is no list")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        advice = "; copy the list there, or set null" if key else ""
        raise UserError(f"{file} not found{advice}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it has other bytes"
        raise UserError(f"{file} is not readable as text in UTF-8 ({reason})") from None


def _rows(path: Path, text: str, is_list: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of each row that is not empty or a comment, and where it is."""
    lines = text.splitlines()
    if len(lines) > MAX_ROWS:
        raise UserError(f"{path}: has more than {MAX_ROWS} rows; it is no list")
    for number, line in enumerate(lines, start=1):
        where = f"line {number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "," in line or "\t" in line:
            delimiter = "," if "," in line else "\t"
            try:
                [row] = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
            except (csv.Error, ValueError) as error:
                raise UserError(f"{path}, {where}: not CSV ({error})") from None
        else:
            # A path in a list may have spaces.
            row = [line] if is_list else line.split()
        yield where, [cell.strip() for cell in row]


def _row_entries(path: Path, text: str) -> Iterator[Entry]:
    id_column, category_column, first = 0, None, True
    has_header = False
    for where, row in _rows(path, text, is_list=True):
        if first and (columns := _header(row)):
            (id_column, category_column), has_header, first = columns, True, False
            continue
        first = False
        try:
            if has_header:
                if len(row) <= max(id_column, category_column or 0):
                    raise ValueError("fewer columns than the header")
                category = None if category_column is None else row[category_column]
                yield entry_of(row[id_column], category)
            else:
                yield _entry_of_row(row)
        except ValueError as error:
            raise UserError(
                f"{path}, {where}: {yaml_text(','.join(row))}: {error}; a row is {LIST_FORMS}"
            ) from None


def _header(row: Sequence[str]) -> tuple[int, int | None] | None:
    """Return the columns of the id and the category that a header names, if it is one."""
    names = [cell.casefold() for cell in row]
    ids = [names.index(name) for name in _ID_COLUMNS if name in names]
    categories = [names.index(name) for name in _CATEGORY_COLUMNS if name in names]
    if not ids or (len(row) > 1 and not all(re.fullmatch(r"[\w -]*", name) for name in names)):
        return None
    return ids[0], categories[0] if categories else None


def _entry_of_row(row: Sequence[str]) -> Entry:
    first = entry_of(row[0], row[3] or None if len(row) == 4 else None)
    if len(row) in (3, 4) and not _INDEX.fullmatch(row[2]):
        raise ValueError(f"{yaml_text(row[2])} is not a number of frames")
    if len(row) == 2 and entry_of(row[1]).id != first.id:
        raise ValueError("these are two videos")
    if len(row) > 4:
        raise ValueError("more than four columns")
    return first


def _json_entries(path: Path, text: str) -> Iterator[Entry]:
    try:
        values = json.loads(text)
        videos = values["videos"] if isinstance(values, Mapping) else {None: values}
        for category, ids in videos.items():
            if not isinstance(ids, list):
                raise TypeError
            for id_ in ids:
                if not isinstance(id_, str):
                    raise TypeError
                yield entry_of(id_, category)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f'{path}: not a JSON list; expected {{"videos": {{category: [id, ...]}}}} or [id, ...]'
        ) from None


def _sources(row: Sequence[str], are_names: bool) -> Sources:
    """Return the videos of a row, each with the times behind it, unless all cells are names."""
    sources: list[Source] = []
    times: list[float] = []
    for cell in [*row, None]:
        if cell is not None and sources and not are_names and _NUMBER.fullmatch(cell):
            times.append(float(cell))
            continue
        if times:
            if len(times) > 2 or (len(times) == 2 and times[0] >= times[1]):
                raise ValueError(f"the times of {yaml_text(sources[-1].entry.id)} are invalid")
            sources[-1] = Source(sources[-1].entry, *times)
            times = []
        if cell is not None:
            sources.append(Source(entry_of(cell)))
    if len(sources) < 2:
        raise ValueError("only one video")
    return tuple(sources)


def _indexed(
    path: Path, rows: Sequence[tuple[str, Sequence[str]]], listed: Sequence[Entry]
) -> list[Sources]:
    numbers = [[int(cell) for cell in row] for _, row in rows]
    highest, lowest = max(map(max, numbers)), min(map(min, numbers))
    offset = 1 if lowest > 0 and highest == len(listed) else 0
    mixtures = []
    for (where, _), row in zip(rows, numbers, strict=True):
        if len(row) < 2:
            raise UserError(f"{path}, {where}: only one index; a row has two or more")
        if max(row) - offset >= len(listed):
            raise UserError(
                f"{path}, {where}: index {max(row)} exceeds the list of "
                f"{counted(len(listed), 'video', 'videos')}"
            )
        mixtures.append(tuple(Source(listed[number - offset]) for number in row))
    return mixtures
