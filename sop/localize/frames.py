"""Measures of localization in single frames of real videos, whose instruments have boxes.

The model gets the clip around a frame. What it finds is compared with the boxes by the measures of
rendered videos, and by those of the authors of the boxes.

Shapes: K regions or maps, N instruments, C categories, h x w cells.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.optimize import linear_sum_assignment

from sop.dataset.index import Video
from sop.inference.localization import Localization
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.localize.boxes import Instrument, PlannedFrames
from sop.localize.measures import OVERLAPS, found_players, mean, overlap
from sop.localize.scenes import Box
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut
from sop.runtime.progress import progress

# Height and width of the maps that are compared, pixels.
MAP_SIZE = 224

# Share of the largest energy of a map above which a pixel is positive, as in the authors' scripts:
# in videos of one instrument, and of several.
SOLO_THRESHOLD, DUET_THRESHOLD = 0.1, 0.2

# The area under the curve is over these thresholds of CIoU.
CURVE = 0.05 * np.arange(21)

Map = NDArray[np.float64]
Cells = NDArray[np.bool_]


@dataclass(frozen=True)
class FrameResult:
    """Comparison of the regions found around a frame with the boxes in it."""

    video: str
    """Name of the video."""
    is_duet: bool
    """Whether the video is one of several instruments."""
    placed: tuple[bool, ...]
    """For each instrument, whether a region of its own has its loudest cell in the box."""
    overlaps: tuple[float, ...]
    """For each instrument, intersection over union of its box and that of a region of its own."""
    ciou: float
    """Mean of the intersections over union of maps over the categories."""


def measure_frames(
    separator: Separator, planned: PlannedFrames, extract: ExtractParams
) -> dict[str, Any]:
    """Measure frames, and return the key `boxes` of metrics/localization.json.

    Args:
        separator: the model.
        planned: the frames.
        extract: sample rate and frame rate.
    """
    results = []
    left_out = Counter(planned.left_out)
    frames = progress(planned.frames, "boxes", len(planned.frames), unit="frame")
    for video, frame in frames:
        try:
            where = localize_around(separator, Recording(video, extract), frame.seconds)
            results.append(measure_frame(where, frame.instruments, video))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    return frames_summary(results, left_out)


def localize_around(separator: Separator, recording: Recording, seconds: float) -> Localization:
    """Localize the sounds of the clip around a moment, which is as long as those of training.

    Raises:
        LeftOut: the video ends before the moment, or cannot be read.
    """
    if seconds > recording.seconds:
        raise LeftOut("video ends before the frame")
    params = separator.params
    hop, total = params.spectrogram.stft_hop, separator.frames(recording)
    count = min(1 + params.mixture.audio_samples // hop, total)
    centre = round(seconds * recording.sample_rate / hop)
    first = min(max(centre - count // 2, 0), total - count)
    return separator.localize(recording, part=slice(first, first + count))


def measure_frame(
    where: Localization, instruments: Sequence[Instrument], video: Video
) -> FrameResult:
    """Compare what was found in a picture with the boxes of its instruments.

    Args:
        where: what was found.
        instruments: instruments of the picture, at least one.
        video: the video of the picture.
    """
    boxes = [one.box for one in instruments]
    shared = np.array([[overlap(region.box, box) for region in where.regions] for box in boxes])
    is_duet = len(video.instruments) > 1
    return FrameResult(
        video.name,
        is_duet,
        found_players(where, boxes),
        tuple(_best(shared.reshape(len(boxes), len(where.regions)))),
        class_aware_iou(where, instruments) if is_duet else _solo_iou(where, boxes),
    )


def class_aware_iou(where: Localization, instruments: Sequence[Instrument]) -> float:
    """Return the mean IoU of maps over the categories in a picture; 0 for those without a region.

    The map of a region is the energy of its cells. As regions have no categories, they are assigned
    to categories one to one so that the mean is largest; the authors assign clusters to categories
    once for all pictures.
    """
    categories = sorted({one.category for one in instruments})
    truth = [_filled([one.box for one in instruments if one.category == c]) for c in categories]
    maps = [_positive(where.energy * one.cells, DUET_THRESHOLD) for one in where.regions]
    ious = np.array([[_iou(pixels, own) for pixels in maps] for own in truth])
    return float(np.mean(_best(ious.reshape(len(truth), len(maps)))))


def frames_summary(results: Sequence[FrameResult], left_out: Mapping[str, int]) -> dict[str, Any]:
    """Return measures of frames of videos of one instrument and of several.

    Args:
        results: the measured frames.
        left_out: number of the frames that were not measured, by reason.
    """
    groups = {
        "solo": [one for one in results if not one.is_duet],
        "duet": [one for one in results if one.is_duet],
    }
    measured = {kind: _summary(own) for kind, own in groups.items() if own}
    return measured | {"left_out": dict(sorted(left_out.items()))}


def _summary(results: Sequence[FrameResult]) -> dict[str, Any]:
    overlaps = [value for one in results for value in one.overlaps]
    cious = np.array([one.ciou for one in results])
    curve = (cious >= CURVE[:, None]).mean(axis=1)
    return {
        "videos": len({one.video for one in results}),
        "frames": len(results),
        "pointing": mean(all(one.placed) for one in results),
        "overlap": {"mean": mean(overlaps)}
        | {f"above_{least}": mean(value >= least for value in overlaps) for least in OVERLAPS},
        "ciou": {"mean": mean(cious)}
        | {f"above_{least}": mean(cious >= least) for least in OVERLAPS}
        | {"auc": float(trapezoid(curve, CURVE))},
    }


def _solo_iou(where: Localization, boxes: Sequence[Box]) -> float:
    """Return the IoU of the energy of the picture and all boxes together."""
    return _iou(_positive(where.energy, SOLO_THRESHOLD), _filled(boxes))


def _best(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of each row by the assignment to columns with the largest sum; else 0."""
    best = np.zeros(len(values))
    rows, columns = linear_sum_assignment(values, maximize=True)
    best[rows] = values[rows, columns]
    return best


def _filled(boxes: Sequence[Box]) -> Cells:
    """Return the pixels of boxes."""
    pixels = np.zeros((MAP_SIZE, MAP_SIZE), np.bool_)
    for box in boxes:
        left, top, right, bottom = (int(edge * MAP_SIZE) for edge in box)
        pixels[top:bottom, left:right] = True
    return pixels


def _positive(energy: Map, threshold: float) -> Cells:
    """Return the pixels of a map of cells above a share of its largest value."""
    size = (MAP_SIZE, MAP_SIZE)
    grid = torch.from_numpy(np.ascontiguousarray(energy))[None, None]
    large = torch.nn.functional.interpolate(grid, size, mode="bilinear")[0, 0].numpy()
    positive: Cells = large > threshold * large.max()
    return positive


def _iou(one: Cells, other: Cells) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0
