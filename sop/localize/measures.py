"""Measures of localization, on videos with known boxes and sounds (stems) of the players.

Shapes: N players, K regions, L samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import librosa
import numpy as np
from scipy.optimize import linear_sum_assignment

from sop.dataset.index import Video
from sop.download.synthetic.truth import read_truth
from sop.evaluate.measures import Decibels, Sounds, UnmeasurableError, measure
from sop.inference.localization import Localization, Region
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut

Kind = Literal["silent", "solo", "distractor", "duet"]
Box = tuple[float, float, float, float]

KINDS: Mapping[Kind, int] = {"silent": 0, "solo": 1, "distractor": 1, "duet": 2}
"""Number of regions in each kind of scene; a distractor is a duet with one player muted."""

OVERLAPS = (0.3, 0.5)
"""Intersections over union from which a region counts as overlapping its player."""

DUET_MEASURES = ("sdr", "sir", "sar", "sdr_improvement")
"""Measures of the separated sounds of duets."""


@dataclass(frozen=True)
class LocalizationScene:
    """A recording with the known positions and sounds of its players."""

    name: str
    kind: Kind
    recording: Recording
    boxes: tuple[Box, ...]
    """Boxes of the players that sound: left, top, right, bottom as shares of the picture."""
    stems: Sounds
    """Sounds of these players, at the recording's sample rate, (N, L)."""


@dataclass(frozen=True)
class LocalizationResult:
    """Comparison of the regions found in a scene with its players."""

    kind: Kind
    regions: int
    """Number of regions found."""
    placed: tuple[bool, ...]
    """For each player, whether a region of its own has its loudest cell in the player's box."""
    pointed: tuple[bool, ...]
    """For each player, whether that holds for the region that sounds like the player."""
    overlaps: tuple[float, ...]
    """For each player, intersection over union of its box and its region's; 0 without a region."""
    scores: Mapping[str, Decibels]
    """Each of `DUET_MEASURES` of the regions' sounds, (N,); no players except for duets. SAR is NaN
    for silent sounds."""
    silent: int
    """Number of these sounds that are silent."""


def scenes(
    duets: Sequence[Video], solos: Sequence[Video], videos: Path, extract: ExtractParams
) -> Iterator[LocalizationScene]:
    """Make the scenes of all videos whose truth is known, and skip the other videos.

    A duet is one scene as it is, and one with one player muted. A solo is one scene as it is, and
    one in silence.

    Args:
        duets: videos of two players.
        solos: videos of one player.
        videos: folder of the videos and their truth, `<category>/<id>.truth.npz`.
        extract: sample rate and frame rate.
    """
    for number, video in enumerate(duets):
        if known := _players(video, videos, extract.sample_rate):
            boxes, stems = known
            yield LocalizationScene(video.name, "duet", Recording(video, extract), boxes, stems)
            kept = slice(number % len(stems), number % len(stems) + 1)
            alone = Recording(video, extract, stems[kept][0])
            yield LocalizationScene(video.name, "distractor", alone, boxes[kept], stems[kept])
    for video in solos:
        if known := _players(video, videos, extract.sample_rate):
            boxes, stems = known
            yield LocalizationScene(video.name, "solo", Recording(video, extract), boxes, stems)
            silence = Recording(video, extract, np.zeros_like(stems[0]))
            yield LocalizationScene(video.name, "silent", silence, (), stems[:0])


def measure_localization(separator: Separator, scene: LocalizationScene) -> LocalizationResult:
    """Localize and separate a scene without knowledge of it, and compare the result with the truth.

    Each region is assigned to the player whose stem its sound resembles most, one to one.

    Raises:
        LeftOut: the scene cannot be read.
    """
    recording = scene.recording
    where = separator.localize(recording)
    embedding = separator.embed(recording, 0, separator.frames(recording))
    sounds = embedding.sounds(separator.region_masks(embedding, where.regions))[:-1]
    length = min(sounds.shape[-1], scene.stems.shape[-1])
    sounds, stems = sounds[:, :length], scene.stems[:, :length]
    region_of = _matches(sounds, stems)
    inside = np.array(
        [[_is_inside(where, region, box) for region in where.regions] for box in scene.boxes], bool
    ).reshape(len(scene.boxes), len(where.regions))
    players, regions = linear_sum_assignment(inside, maximize=True)
    on_player = {int(n) for n, k in zip(players, regions, strict=True) if inside[n, k]}
    matched = [(n, box, region_of.get(n)) for n, box in enumerate(scene.boxes)]
    scores, silent = np.empty((len(DUET_MEASURES), 0)), 0
    if scene.kind == "duet":
        mixture = stems.sum(axis=0)
        # The estimate of a player without a region is the mixture.
        estimates = np.stack(
            [sounds[region_of[n]] if n in region_of else mixture for n in range(len(stems))]
        )
        sets = np.stack([estimates, np.broadcast_to(mixture, estimates.shape)])
        try:
            found = measure(stems, sets, [f"player {n + 1}" for n in range(len(stems))])
        except UnmeasurableError as reason:
            raise LeftOut(f"{scene.name}: {reason}") from None
        scores = np.stack([found.sdr[0], found.sir[0], found.sar[0], found.sdr[0] - found.sdr[1]])
        silent = int(found.silent[0].sum())
    return LocalizationResult(
        scene.kind,
        len(where.regions),
        placed=tuple(n in on_player for n in range(len(scene.boxes))),
        pointed=tuple(k is not None and bool(inside[n, k]) for n, _, k in matched),
        overlaps=tuple(
            0.0 if k is None else _overlap(where.regions[k].box, box) for _, box, k in matched
        ),
        scores=dict(zip(DUET_MEASURES, scores, strict=True)),
        silent=silent,
    )


def localization_summary(
    results: Sequence[LocalizationResult], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of metrics/localization.json; None where there is nothing to measure.

    `pointing` is the fraction of scenes in which all players are `placed`, `pointing_by_sound` that
    in which all players are `pointed`.

    Args:
        results: the measured scenes.
        left_out: reasons of the scenes that cannot be read, by name.
    """
    by_kind = {kind: [one for one in results if one.kind == kind] for kind in KINDS}
    audible = {kind: by_kind[kind] for kind in KINDS if kind != "silent"}
    right = {
        kind: _mean(one.regions == KINDS[kind] for one in own) for kind, own in by_kind.items()
    }
    duets = by_kind["duet"]
    overlaps = [value for one in duets + by_kind["solo"] for value in one.overlaps]
    above = {
        f"above_{minimum}": _mean(value >= minimum for value in overlaps) for minimum in OVERLAPS
    }
    return {
        "scenes": {kind: len(own) for kind, own in by_kind.items()},
        "pointing": {kind: _mean(all(one.placed) for one in own) for kind, own in audible.items()},
        "pointing_by_sound": {
            kind: _mean(all(one.pointed) for one in own) for kind, own in audible.items()
        },
        "overlap": {"mean": _mean(overlaps), **above},
        "regions_right": {**right, "mean": _mean(v for v in right.values() if v is not None)},
        "distractor_success": _mean(
            one.regions == 1 and all(one.pointed) for one in by_kind["distractor"]
        ),
        "duets": {
            name: _mean(value for one in duets for value in one.scores[name] if np.isfinite(value))
            for name in DUET_MEASURES
        }
        | {"silent_estimates": sum(one.silent for one in duets)},
        "left_out": left_out,
    }


def _players(video: Video, videos: Path, sample_rate: int) -> tuple[tuple[Box, ...], Sounds] | None:
    """Return the mean boxes and the sounds of the players of a video; None if unknown."""
    path = videos / f"{video.name}.truth.npz"
    if not path.is_file():
        return None
    truth = read_truth(path)
    boxes: Any = truth.boxes.mean(axis=1) / np.array([truth.width, truth.height] * 2)
    stems: Sounds = librosa.resample(
        truth.stems.astype(np.float32) / 2**15, orig_sr=truth.sample_rate, target_sr=sample_rate
    )
    return tuple(map(tuple, boxes.tolist())), stems


def _matches(sounds: Sounds, stems: Sounds) -> dict[int, int]:
    """Assign regions to players by the likeness of their sounds, one to one."""
    norms = np.outer(np.linalg.norm(stems, axis=1), np.linalg.norm(sounds, axis=1))
    likeness = (stems @ sounds.T) / np.maximum(norms, 1e-12)
    players, regions = linear_sum_assignment(-likeness)
    return dict(zip(players.tolist(), regions.tolist(), strict=True))


def _is_inside(where: Localization, region: Region, box: Box) -> bool:
    """Return whether the center of a region's loudest cell is in a box."""
    height, width = region.cells.shape
    row, column = divmod(int(np.where(region.cells, where.energy, -1).argmax()), width)
    x, y = (column + 0.5) / width, (row + 0.5) / height
    left, top, right, bottom = box
    return left <= x <= right and top <= y <= bottom


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return shared / (sum(areas) - shared)


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
