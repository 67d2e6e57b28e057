"""Index: split of the videos into training and validation, as CSV lists in the published form."""

import csv
import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sop.dataset.clips import FRAME_NAME, ZIP_ERRORS, sound_seconds
from sop.dataset.instruments import instruments_of
from sop.dataset.seeding import generator
from sop.params import IndexParams
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import write_text

TRAIN, VALIDATION, DUETS = "train.csv", "val.csv", "duets.csv"


@dataclass(frozen=True)
class Video:
    """One extracted video: a row of the index."""

    audio: Path
    """Sound file."""
    frames: Path
    """Zip or folder of the frames."""
    frame_count: int
    """Number of frames."""

    @property
    def category(self) -> str:
        """Name of the folder: an instrument, or two for a duet."""
        return self.audio.parent.name

    @property
    def name(self) -> str:
        """`<category>/<id>`."""
        return f"{self.category}/{self.audio.stem}"


@dataclass(frozen=True)
class Index:
    """Split of the extracted videos; each video is in one list."""

    train: tuple[Video, ...]
    """Videos for training."""
    validation: tuple[Video, ...]
    """Videos for validation."""
    duets: tuple[Video, ...]
    """Duets, if they take no part in the split."""
    left_out: dict[str, str]
    """Reasons by the names of the videos that cannot be used."""

    def summary(self) -> dict[str, Any]:
        """Return counts and reasons, for metrics/index.json."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "duets": len(self.duets),
            "frames": sum(video.frame_count for video in (*self.train, *self.validation)),
            "category": {
                side: dict(sorted(Counter(video.category for video in videos).items()))
                for side, videos in (("train", self.train), ("validation", self.validation))
            },
            "left_out": {"count": len(self.left_out), "reasons": self.left_out},
        }


def build_index(
    audio: Path, frames: Path, params: IndexParams, frame_rate: float, seed: int
) -> Index:
    """Split the extracted videos into training and validation.

    The split of a video depends only on the seed and its name: a new video moves no other.

    Args:
        audio: folder of `<category>/<id>.<wav, mp3, ...>`.
        frames: folder of `<category>/<id>.zip`, or of folders of JPEGs as from the published code.
        params: minimum length, fraction for training, and whether duets take part.
        frame_rate: frames per second.
        seed: `seed` of params.yaml.

    Raises:
        UserError: the training or the validation list would be empty.
    """
    sounds = sorted(p for p in audio.glob("*/*") if p.is_file() and not p.name.startswith("."))
    known = {path.parent.name for path in sounds}
    train: list[Video] = []
    validation: list[Video] = []
    duets: list[Video] = []
    left_out: dict[str, str] = {}
    for sound in sounds:
        try:
            video = _video(sound, frames / sound.parent.name, params, frame_rate)
        except LeftOut as reason:
            left_out[f"{sound.parent.name}/{sound.stem}"] = str(reason)
            continue
        if not params.duets and len(instruments_of(video.category, known)) > 1:
            duets.append(video)
        elif generator(seed, "split", video.name).random() < params.train_fraction:
            train.append(video)
        else:
            validation.append(video)
    for side, videos in (("training", train), ("validation", validation)):
        if not videos:
            raise UserError(
                f"index: no video for {side} among {len(sounds)} in {audio} "
                f"({len(left_out)} left out, {len(duets)} duets); "
                "see index.train_fraction, index.min_seconds, index.duets or add videos"
            )
    return Index(tuple(train), tuple(validation), tuple(duets), left_out)


def write_index(index: Index, folder: Path) -> None:
    """Write train.csv, val.csv and duets.csv: `AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES`, no header."""
    lists = {TRAIN: index.train, VALIDATION: index.validation, DUETS: index.duets}
    for name, videos in lists.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (video.audio.as_posix(), video.frames.as_posix(), video.frame_count) for video in videos
        )
        write_text(folder / name, text.getvalue())


def read_index(path: Path) -> list[Video]:
    """Read a list, written by this or by the published code.

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
    videos = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or not row[2].strip().isdecimal():
            raise UserError(
                f"{path}, row {number}: {','.join(row)!r} is not "
                "AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES"
            )
        videos.append(Video(Path(row[0]), Path(row[1]), int(row[2])))
    return videos


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


def _video(sound: Path, frames: Path, params: IndexParams, frame_rate: float) -> Video:
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
    return Video(sound, place, count)
