"""Boxes of instruments in single frames of real videos, the truth of localization on them.

Format of the files, as published for the MUSIC data set (`solotest.json`, `duettest.json`):
`{"<id>_0_<end>/frame_<second>/<number>.jpg": {"bbox": [{"normbox": [left, top, width, height],
"category_id": 1}, ...]}, ...}`, with edges as shares of the picture, and frames numbered from the
beginning of the video.

Source: Hu et al., Discriminative Sounding Objects Localization via Self-supervised Audiovisual
Matching, NeurIPS 2020, and its repository DTaoo/Discriminative-Sounding-Objects-Localization.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sop.dataset.index import Video
from sop.localize.scenes import Box
from sop.runtime.errors import UserError
from sop.runtime.files import require_file
from sop.runtime.plain_yaml import yaml_text

MAX_FILE_BYTES = 1 << 28

_FRAME = re.compile(r"(.+)_0_\d+/frame_(\d{1,6})/(\d{1,9})\.jpg")


class Instrument(NamedTuple):
    """One instrument in a picture."""

    category: int
    """Number of the kind of instrument, as in the file."""
    box: Box
    """Left, top, right, bottom as shares of the picture."""


@dataclass(frozen=True)
class BoxedFrame:
    """One frame of a video, with the boxes of the instruments in it."""

    video: str
    """Id of the video."""
    seconds: float
    """Time of the frame."""
    instruments: tuple[Instrument, ...]
    """Instruments, at least one."""


class PlannedFrames(NamedTuple):
    """What is measured."""

    frames: list[tuple[Video, BoxedFrame]]
    """Frames of videos in the data set that were not used for training, by video and time."""
    left_out: dict[str, int]
    """Number of the other frames of the files, by reason."""


def read_boxes(paths: Iterable[Path]) -> list[BoxedFrame]:
    """Read files of boxes; frames without boxes are in the result, too.

    Raises:
        UserError: a file is missing or of another format.
    """
    frames = []
    for path in paths:
        values = _read(path)
        named = {name: _FRAME.fullmatch(name) for name in values}
        rates = _frame_rates(match for match in named.values() if match is not None)
        for name, match in named.items():
            if match is None:
                raise UserError(
                    f"{path}: {yaml_text(name)} is not the name of a frame, such as "
                    "abcdefghijk_0_1000/frame_013/00411.jpg"
                )
            try:
                instruments = tuple(_instruments(values[name]["bbox"]))
            except (KeyError, OverflowError, TypeError, ValueError):
                raise UserError(
                    f"{path}, {yaml_text(name)}: expected bbox, a list of objects with normbox, "
                    "[left, top, width, height] between 0 and 1, and category_id, an integer"
                ) from None
            rate = rates[match[1]]
            seconds = int(match[2]) + 0.5 if rate is None else int(match[3]) / rate
            frames.append(BoxedFrame(match[1], seconds, instruments))
    return frames


def plan_frames(
    frames: Iterable[BoxedFrame], videos: Sequence[Video], training: Iterable[Video]
) -> PlannedFrames:
    """Choose the frames that can be measured.

    Args:
        frames: frames of files of boxes.
        videos: videos that were not used for training.
        training: videos that were.
    """
    by_id = {video.audio.stem: video for video in videos}
    trained = {video.audio.stem for video in training}
    planned = []
    left_out: Counter[str] = Counter()
    for frame in frames:
        if not frame.instruments:
            left_out["no box"] += 1
        elif frame.video in trained:
            left_out["video used for training"] += 1
        elif frame.video not in by_id:
            left_out["video not in the data set"] += 1
        else:
            planned.append((by_id[frame.video], frame))
    planned.sort(key=lambda one: (one[0].name, one[1].seconds))
    return PlannedFrames(planned, dict(sorted(left_out.items())))


def _read(path: Path) -> Mapping[str, Any]:
    require_file(path, "file of boxes (localize.boxes)")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; name a file of boxes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with a key for each frame")
    return values


def _frame_rates(frames: Iterable[re.Match[str]]) -> dict[str, float | None]:
    """Return the frame rate with which the frames of each video were numbered.

    A frame is in the folder of its second, the integer part of number / rate. The rate is in the
    middle of those with which this holds for all frames of a video; None if there is no such rate,
    or if any high rate would do.
    """
    limits: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, math.inf))
    for match in frames:
        second, number = int(match[2]), int(match[3])
        low, high = limits[match[1]]
        low = max(low, number / (second + 1))
        limits[match[1]] = low, min(high, number / second if second else math.inf)
    return {
        video: (low + high) / 2 if 0 < low < high < math.inf else None
        for video, (low, high) in limits.items()
    }


def _instruments(boxes: Any) -> Iterable[Instrument]:
    """Yield the instruments of a frame; boxes are cut at the edges of the picture."""
    if not isinstance(boxes, list):
        raise TypeError
    for one in boxes:
        left, top, width, height = (float(edge) for edge in one["normbox"])
        if not all(map(math.isfinite, (left, top, width, height))):
            raise ValueError
        edges = left, top, left + width, top + height
        box = tuple(min(max(edge, 0.0), 1.0) for edge in edges)
        if box[0] < box[2] and box[1] < box[3]:
            yield Instrument(int(one["category_id"]), (box[0], box[1], box[2], box[3]))
