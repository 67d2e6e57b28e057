"""Index: split of the videos into training, validation and test, as lists in the published form.

The split is drawn, or listed in files (`index.split`). Without a list of test videos there is no
test list, and results are measured on the validation list.
"""

import csv
import io
import json
import logging
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sop.dataset.clips import FRAME_NAME, MANIFEST_NAME, ZIP_ERRORS, sound_seconds
from sop.dataset.protocol import Entry, Known, entry_of_video, read_list
from sop.dataset.seeding import generator
from sop.params import IndexParams, SplitParams
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import is_litter, write_json, write_text, writing
from sop.runtime.log import counted
from sop.runtime.plain_yaml import yaml_text

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST, DUETS = "train.csv", "val.csv", "test.csv", "duets.csv"
# The names in the lists of a split, in their order; only with such lists.
SPLIT = "split.json"
# The instruments of the duets, beside the lists: their published form has no place for them.
INSTRUMENTS = "instruments.json"

# Number of categories that a message names.
_SHOWN = 10

# The instruments of each category that is a duet.
Duets = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Video:
    """One extracted video: a row of the index."""

    audio: Path
    """Sound file."""
    frames: Path
    """Zip or folder of the frames."""
    frame_count: int
    """Number of frames."""
    duet_of: tuple[str, ...] = ()
    """Instruments of a duet; empty if the category is one instrument."""
    motion: Path | None = None
    """Motion track, which exists if `extract.motion_rate` is set; None if its folder is unknown."""
    centre: int | None = None
    """Frame, from 1, in the middle of the evaluated clip; None for the middle of the video."""

    @property
    def category(self) -> str:
        """Name of the folder."""
        return self.audio.parent.name

    @property
    def instruments(self) -> tuple[str, ...]:
        """Instruments of a duet, otherwise the category."""
        return self.duet_of or (self.category,)

    @property
    def name(self) -> str:
        """`<category>/<id>`."""
        return f"{self.category}/{self.audio.stem}"

    def at(self, centre: int) -> "Video":
        """Return the video with another centre of its evaluated clip."""
        return replace(self, centre=centre)

    @property
    def entry(self) -> Entry:
        """The video as lists name it."""
        return entry_of_video(self.category, self.audio.stem)


@dataclass(frozen=True)
class ListedSplit:
    """What the lists of a split say about the extracted videos."""

    listed: dict[str, list[tuple[str, list[str]]]]
    """By side: each row of its list, and the names of the videos that it names."""
    overlap: dict[str, list[str]]
    """Names of the videos that two lists name, by both sides, such as `train_test`."""
    kept: dict[str, int]
    """Number of these videos that stay on both sides."""
    unlisted: int
    """Number of videos that are on no side."""

    def summary(self) -> dict[str, Any]:
        """Return counts and names, for metrics/index.json."""
        missing = {
            side: [name for name, found in rows if not found] for side, rows in self.listed.items()
        }
        return {
            "listed": {side: len(rows) for side, rows in self.listed.items()},
            "not_found": {side: len(names) for side, names in missing.items()},
            "not_found_names": missing,
            "overlap": {sides: len(names) for sides, names in self.overlap.items()},
            "overlap_kept": self.kept,
            "overlap_names": self.overlap,
            "unlisted": self.unlisted,
        }


@dataclass(frozen=True)
class Index:
    """Split of the extracted videos; each video is in one list, unless lists of a split overlap."""

    train: tuple[Video, ...]
    """Videos for training."""
    validation: tuple[Video, ...]
    """Videos for validation."""
    duets: tuple[Video, ...]
    """Duets, if they take no part in the split."""
    left_out: dict[str, str]
    """Reasons by the names of the videos that cannot be used."""
    test: tuple[Video, ...] = ()
    """Videos for the results, if a list names them; otherwise these are those for validation."""
    split: ListedSplit | None = field(default=None, compare=False)
    """What the lists of the split say; None if it is drawn."""

    def summary(self) -> dict[str, Any]:
        """Return counts and reasons, for metrics/index.json."""
        sides = {"train": self.train, "validation": self.validation}
        if self.test:
            sides["test"] = self.test
        used = {video for videos in sides.values() for video in videos}
        sides["duets"] = self.duets
        return {
            **{side: len(videos) for side, videos in sides.items()},
            "frames": sum(video.frame_count for video in used),
            "category": {side: _count_categories(videos) for side, videos in sides.items()},
            "kept_out": {video.category: _kept_out_reason(video) for video in self.duets},
            "left_out": {"count": len(self.left_out), "reasons": self.left_out},
            **({} if self.split is None else {"split": self.split.summary()}),
        }


def build_index(
    audio: Path,
    frames: Path,
    params: IndexParams,
    frame_rate: float,
    duets_of_source: Duets | None = None,
    lists: Mapping[str, Sequence[Entry]] | None = None,
) -> Index:
    """Split the extracted videos into training, validation and, if it is listed, test.

    The side of a video depends on the seed and its name, or on lists. Of a drawn split, only the
    one video that a category would lack on a side depends on the others: a new video moves at most
    that one back.

    Args:
        audio: folder of `<category>/<id>.<wav, mp3, ...>`.
        frames: folder of `<category>/<id>.zip`, or of folders of JPEGs as from the published code.
        params: seed, minimum length, fraction for training, and whether duets take part.
        frame_rate: frames per second.
        duets_of_source: the duets that the source of the videos knows; `params.duet_categories`
            adds others.
        lists: the lists of `read_split`, by side.

    Raises:
        UserError: the training, the validation or a listed test list would be empty.
    """
    sounds = sorted(p for p in audio.glob("*/*") if p.is_file() and not is_litter(p))
    if not sounds:
        raise UserError(f"{audio}: contains no sound; run `dvc repro extract`")
    known = {**(duets_of_source or {}), **params.duet_categories}
    stills = {} if params.stills else _read_stills(frames)
    used: list[Video] = []
    duets: list[Video] = []
    left_out: dict[str, str] = {}
    for sound in sounds:
        category = sound.parent.name
        name = f"{category}/{sound.stem}"
        if name in stills:
            share = f"{stills[name]:.0%} of its pictures equal the one before"
            left_out[name] = f"a still or slideshow, {share}, and index.stills is false"
            continue
        try:
            video = _video(sound, frames / category, params, frame_rate, known.get(category, ()))
        except LeftOut as reason:
            left_out[name] = str(reason)
            continue
        (duets if video.duet_of and not params.duets else used).append(video)
    if lists:
        index = _listed_index(used, duets, left_out, params, lists)
        _log_listed(index, params.split)
    else:
        train, validation = _split(used, params.train_fraction, params.seed)
        index = Index(tuple(train), tuple(validation), tuple(duets), left_out)
    train, validation = list(index.train), list(index.validation)
    for side, other, videos in ((TRAIN, VALIDATION, train), (VALIDATION, TRAIN, validation)):
        if not videos:
            raise UserError(f"{audio}: {_why_empty(index, side, other, params)}")
    _log_duets(index, {path.parent.name for path in sounds}, known, params)
    _log_one_sided(index)
    return index


def read_duets(download: Path) -> Duets:
    """Read which categories are duets from the details of the stage `download`.

    Args:
        download: metrics/details/download.json; it is empty if other data took the place of the
            stage's outputs.

    Raises:
        UserError: the file is missing or does not say.
    """
    try:
        values = json.loads(download.read_text(encoding="utf-8"))
        return dict(values["duets"] if values else {})
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{download}: does not say which categories are duets; run `dvc repro download`"
        ) from None


def read_split(params: SplitParams, of_source: Path | None = None) -> dict[str, list[Entry]]:
    """Read the lists of a split that are given, by side.

    Args:
        params: names of the lists.
        of_source: what the source of the videos says, `{side: ["<category>/<id>", ...]}`, which
            counts if no list is given; the file may be missing.

    Raises:
        UserError: one of them is missing or has another form.
    """
    folder = Path(params.folder)
    names = {"train": params.train, "validation": params.validation, "test": params.test}
    lists = {
        side: read_list(folder / name, f"index.split.{side}")
        for side, name in names.items()
        if name is not None
    }
    return lists if lists or of_source is None else _source_split(of_source)


def _source_split(path: Path) -> dict[str, list[Entry]]:
    try:
        sides = dict(json.loads(path.read_text(encoding="utf-8")).items())
        return {
            side: [entry_of_video(*name.split("/")) for name in sides[side]]
            for side in ("train", "validation", "test")
            if side in sides
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: not readable; run `dvc repro download`") from None


def write_index(index: Index, folder: Path) -> None:
    """Write train.csv, val.csv and duets.csv: `AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES`, no header.

    The instruments of the duets are written beside them; with lists of a split, also what they
    say, and test.csv if there is a test list.
    """
    lists = {TRAIN: index.train, VALIDATION: index.validation, DUETS: index.duets}
    # DVC removes what an earlier run wrote, but the stage may also run without DVC.
    for name in (TEST, SPLIT):
        with writing(folder / name):
            (folder / name).unlink(missing_ok=True)
    if index.test:
        lists[TEST] = index.test
    if index.split is not None:
        names = {side: [name for name, _ in rows] for side, rows in index.split.listed.items()}
        write_json(folder / SPLIT, names)
    duets = {v.category: v.duet_of for videos in lists.values() for v in videos if v.duet_of}
    write_json(folder / INSTRUMENTS, duets)
    for name, videos in lists.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (video.audio.as_posix(), video.frames.as_posix(), video.frame_count) for video in videos
        )
        write_text(folder / name, text.getvalue())


def read_index(path: Path, motion: Path | None = None) -> list[Video]:
    """Read a list, written by this or by the published code.

    Without the file of instruments in the same folder, no category is a duet.

    Args:
        path: the list.
        motion: folder of the motion tracks, `<category>/<id>.npy`, for which the published form
            has no column.

    Raises:
        UserError: the file is missing or a row is not `AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES`.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise UserError(f"{path}: no such list; run `dvc repro index`") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as CSV in UTF-8 ({error})") from None
    duets = _read_instruments(path.with_name(INSTRUMENTS))
    videos = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or not re.fullmatch(r" *[0-9]{1,9} *", row[2]):
            raise UserError(
                f"{path}, row {number}: {yaml_text(','.join(row))} is not "
                "AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES"
            )
        audio = Path(row[0])
        video = Video(audio, Path(row[1]), int(row[2]), duets.get(audio.parent.name, ()))
        track = None if motion is None else motion / f"{video.name}.npy"
        videos.append(replace(video, motion=track))
    return videos


def reported_list(folder: Path) -> Path:
    """Return the list whose videos results are measured on: of test if there is one.

    Args:
        folder: data/index.
    """
    test = folder / TEST
    return test if test.is_file() else folder / VALIDATION


def reported_model(folder: Path, model: Path) -> Path:
    """Return the model that results are measured with.

    With a test list it is the best one on the validation list. Otherwise it is the last one: the
    best one would have been chosen on the videos that it is measured on.

    Args:
        folder: data/index.
        model: data/model.
    """
    return model / ("best.pt" if reported_list(folder).name == TEST else "last.pt")


def listed_names(folder: Path) -> list[str] | None:
    """Return all names of the list that `reported_list` was made from; None if it was drawn.

    Args:
        folder: data/index.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SPLIT
    side = "test" if reported_list(folder).name == TEST else "validation"
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get(side)
        return None if names is None else list(map(str, names))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: not readable; run `dvc repro index`") from None


def has_split_lists(folder: Path) -> bool:
    """Return True if lists of a split made the index in a folder."""
    return (folder / SPLIT).is_file()


def count_frames(path: Path) -> int:
    """Count the frames of a zip or a folder of JPEGs, numbered from 000001 without a gap.

    Raises:
        LeftOut: there are no frames, one is missing, or the zip is damaged.
    """
    try:
        if path.is_dir():
            names = {entry.name for entry in path.iterdir()}
        else:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
    except ZIP_ERRORS as error:
        raise LeftOut(f"{path}: not readable as frames ({error})") from None
    stems = {name[:-4] for name in names if name.endswith(".jpg")}
    numbers = {int(stem) for stem in stems if stem.isdecimal()}
    if not numbers:
        raise LeftOut(f"{path}: contains no frames")
    for number in range(1, max(numbers) + 1):
        if FRAME_NAME.format(number) not in names:
            raise LeftOut(f"{path}: frame {FRAME_NAME.format(number)} is missing")
    return max(numbers)


def _split(
    videos: Sequence[Video], train_fraction: float, seed: int
) -> tuple[list[Video], list[Video]]:
    """Draw the side of each video; one video of a category moves if a side would have none.

    It is the video whose number is nearest to the threshold: the highest of a category without
    validation, the lowest of one without training. As these are on their side anyway otherwise,
    the rule is short: the highest is for validation, the lowest for training.
    """
    drawn = {video: generator(seed, "split", video.name).random() for video in videos}
    categories: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        categories[video.category].append(video)
    threshold: dict[Video, float] = {}
    for members in categories.values():
        if len(members) > 1:
            threshold[max(members, key=drawn.__getitem__)] = 0.0
            threshold[min(members, key=drawn.__getitem__)] = 1.0
    train: list[Video] = []
    validation: list[Video] = []
    for video in videos:
        is_train = drawn[video] < threshold.get(video, train_fraction)
        (train if is_train else validation).append(video)
    return train, validation


def _listed_index(
    used: Sequence[Video],
    duets: Sequence[Video],
    left_out: dict[str, str],
    params: IndexParams,
    lists: Mapping[str, Sequence[Entry]],
) -> Index:
    """Put the videos on the sides that lists give them, and draw the sides without a list.

    Validation without a list is drawn from the training list, or with it from all videos; training
    without a list is what is left. Test videos are in no other list than that of training, and
    there only if `leaks` says so.
    """
    known = Known(video.entry for video in used)
    found: dict[str, list[tuple[str, list[Video]]]] = {}
    for side, entries in lists.items():
        try:
            found[side] = [(entry.name, [used[n] for n in known.find(entry)]) for entry in entries]
        except UserError as error:
            raise UserError(f"index.split.{side}: {error}") from None
    sides = {
        side: list(dict.fromkeys(video for _, of in rows for video in of))
        for side, rows in found.items()
    }
    for side, entries in lists.items():
        if not sides[side]:
            raise UserError(
                f"index.split.{side}: none of the listed videos ({len(entries)}) is among the "
                f"{len(used)} of data/audio that can be used (for example "
                f"{yaml_text(entries[0].name)} is not)"
            )
    recordings = {side: _recordings(videos) for side, videos in sides.items()}
    overlap = {
        f"{first}_{second}": [v for v in sides[first] if _recording(v) in recordings[second]]
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test"))
        if first in sides and second in sides
    }
    test = sides.get("test", [])
    validation = _without(sides.get("validation", ()), test)
    others = _without(used, [*test, *validation])
    train = sides.get("train", others)
    if "validation" not in sides:
        drawn = _split(_without(train, test), params.train_fraction, params.seed)[1]
        train, validation = _without(train, drawn), drawn
    if params.split.leaks == "drop":
        train = _without(train, [*test, *validation])
    on_a_side = {*train, *validation, *test}
    split = ListedSplit(
        {side: [(name, [v.name for v in of]) for name, of in rows] for side, rows in found.items()},
        {both: [video.name for video in videos] for both, videos in overlap.items()},
        {
            both: len(videos) if params.split.leaks == "keep" and both != "validation_test" else 0
            for both, videos in overlap.items()
        },
        sum(video not in on_a_side for video in used),
    )
    return Index(
        tuple(train), tuple(validation), tuple(duets), left_out, test=tuple(test), split=split
    )


def _recording(video: Video) -> tuple[str | None, str]:
    """Return what the parts of one video have in common."""
    entry = video.entry
    return (None if entry.is_youtube else entry.category, entry.recording)


def _recordings(videos: Iterable[Video]) -> set[tuple[str | None, str]]:
    return {_recording(video) for video in videos}


def _without(videos: Iterable[Video], others: Iterable[Video]) -> list[Video]:
    """Return the videos of which no part is among others."""
    taken = _recordings(others)
    return [video for video in videos if _recording(video) not in taken]


def _log_listed(index: Index, params: SplitParams) -> None:
    """Report listed videos that are not there, and videos that two lists name."""
    if index.split is None:
        return
    for side, rows in index.split.listed.items():
        if missing := [name for name, found in rows if not found]:
            logger.info(
                f"index.split.{side}: {len(missing)} of {len(rows)} listed videos cannot be used: "
                f"{_few(missing)}"
            )
    for both, names in index.split.overlap.items():
        if names:
            first, second = both.split("_")
            done = f"kept in both, as index.split.leaks: {params.leaks} says"
            if params.leaks == "drop" or first == "validation":
                done = f"removed from {first}"
            logger.info(
                f"index.split: {counted(len(names), 'video stands', 'videos stand')} in {first} "
                f"and in {second}: {_few(names)}; {done}"
            )


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}"


def _read_stills(frames: Path) -> dict[str, float]:
    """Return the share of equal pictures of each still or slideshow, by name."""
    path = frames / MANIFEST_NAME
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(row["still"]) for name, row in rows.items() if "still" in row}
    except FileNotFoundError:
        logger.info(f"index.stills: {path} not found, which says what is a still; all are kept")
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: not readable; run `dvc repro --force extract`") from None


def _why_empty(index: Index, side: str, other: str, params: IndexParams) -> str:
    """Explain an empty list by the counts, and by the keys that can change them."""
    used = len(index.train) + len(index.validation)
    advice = [f"index.train_fraction {params.train_fraction:g}"] if used else []
    if index.split is not None:
        advice = ["the lists of index.split"]
    if index.left_out:
        advice.append(f"index.min_seconds {params.min_seconds:g}")
    if any("index.stills" in reason for reason in index.left_out.values()):
        advice.append("index.stills false")
    if index.duets:
        advice.append("index.duets false")
    example = next(iter(index.left_out.items()), None)
    total, duets = used + len(index.left_out) + len(index.duets), len(index.duets)
    return (
        f"no video for the list {side}: of {counted(total, 'video', 'videos')} "
        f"{counted(used, 'is', 'are')} for {other}, {len(index.left_out)} left out"
        + (f" (for example {example[0]}: {example[1]})" if example else "")
        + f", {counted(duets, 'duet', 'duets')}; add videos"
        + (f" or change {', '.join(advice)}" if advice else "")
    )


def _count_categories(videos: Collection[Video]) -> dict[str, int]:
    return dict(sorted(Counter(video.category for video in videos).items()))


def _kept_out_reason(video: Video) -> str:
    return f"a duet of {' and '.join(video.duet_of)}, and index.duets is false"


def _log_duets(
    index: Index, categories: Collection[str], known: Duets, params: IndexParams
) -> None:
    """Report duets that are kept out, and what may be a mistake about duets."""
    if index.duets:
        duets, categories_of = len(index.duets), len(_count_categories(index.duets))
        logger.info(
            f"index: {counted(duets, 'duet', 'duets')} in "
            f"{counted(categories_of, 'category', 'categories')} "
            f"{'is' if duets == 1 else 'are'} in neither list, because index.duets is false"
        )
    for category in sorted(params.duet_categories.keys() - set(categories)):
        logger.info(f"index.duet_categories: there is no category {category!r}")
    for category in sorted(set(categories) - known.keys()):
        for first, second in _pairs(category):
            if {first, second} <= set(categories):
                logger.info(
                    f"index: {category} counts as one instrument; if it is a duet, set "
                    f"index.duet_categories: {{{category}: [{first}, {second}]}}"
                )


def _pairs(category: str) -> list[tuple[str, str]]:
    """Return the names into which each underscore divides the name of a category."""
    words = category.split("_")
    return [("_".join(words[:n]), "_".join(words[n:])) for n in range(1, len(words))]


def _log_one_sided(index: Index) -> None:
    """Report the categories that one side of a drawn split lacks, which have a single video."""
    if index.split is not None:
        return
    train, validation = (_count_categories(side) for side in (index.train, index.validation))
    for side, have, others in (("validation", validation, train), ("training", train, validation)):
        if missing := sorted(others.keys() - have.keys()):
            logger.info(
                f"index: no video for {side} in "
                f"{counted(len(missing), 'category', 'categories')} with a single video: "
                f"{_few(missing)}; add videos there"
            )


def _read_instruments(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {category: tuple(map(str, names)) for category, names in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not readable as the instruments of duets; run `dvc repro index`"
        ) from None


def _video(
    sound: Path, frames: Path, params: IndexParams, frame_rate: float, duet_of: Sequence[str]
) -> Video:
    """Return the row of a video; raise `LeftOut` if it cannot be used."""
    # In the published layout the folder of the frames keeps the suffix of the video.
    places = [frames / f"{sound.stem}{ending}" for ending in (".zip", "", ".mp4")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise LeftOut(f"{places[0]}: no frames for this sound")
    count = count_frames(place)
    seconds = min(count / frame_rate, sound_seconds(sound))
    if seconds < params.min_seconds:
        raise LeftOut(
            f"{seconds:.1f} s is shorter than index.min_seconds, {params.min_seconds:g} s"
        )
    return Video(sound, place, count, tuple(duet_of))
