"""Measures of localization, on videos whose truth is known: boxes of the players, and their stems.

Shapes: N players, K regions, L samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import librosa
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sop.dataset.index import Video
from sop.download.synthetic.truth import Truth, read_truth
from sop.evaluate.measures import bss_eval
from sop.inference.localization import Localization, Region
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut

Kind = Literal["silent", "solo", "distractor", "duet"]
Box = tuple[float, float, float, float]
Sounds = NDArray[np.float32]

KINDS: Mapping[Kind, int] = {"silent": 0, "solo": 1, "distractor": 1, "duet": 2}
"""How many regions each kind of scene has: a distractor is a duet one of whose players is mute."""

WIDE_OVERLAP, OVERLAP = 0.5, 0.3


@dataclass(frozen=True)
class LocalizationScene:
    """A recording with its truth."""

    name: str
    kind: Kind
    recording: Recording
    boxes: tuple[Box, ...]
    """Of the players that sound: left, top, right, bottom as shares of the picture."""
    stems: Sounds
    """Their sounds, at the recording's sample rate, (N, L)."""


@dataclass(frozen=True)
class LocalizationResult:
    """What was found in a scene."""

    kind: Kind
    regions: int
    placed: tuple[bool, ...]
    """Of each sounding player: whether a region of its own has its loudest cell in its box."""
    pointed: tuple[bool, ...]
    """The same of the region that sounds like the player."""
    overlaps: tuple[float, ...]
    """Intersection over union of its box and that of its region; 0 if it has none."""
    sdr: NDArray[np.float64]
    """dB, of its region's sound; (N,), duets only, else empty."""
    sir: NDArray[np.float64]
    sar: NDArray[np.float64]
    sdr_improvement: NDArray[np.float64]
    """dB, over the mixture itself."""


@dataclass(frozen=True)
class SkippedScene:
    """A scene that could not be read, and why."""

    name: str
    reason: str


def scenes(
    duets: Sequence[Video], solos: Sequence[Video], videos: Path, extract: ExtractParams
) -> Iterable[LocalizationScene]:
    """The scenes that videos make whose truth lies beside them; there are none without.

    A duet is a scene as it is, and again with one player mute; a solo as it is, and again in
    silence.

    Args:
        duets: videos of two players.
        solos: videos of one.
        videos: folder of the videos, `<category>/<id>.truth.npz`.
        extract: rates of sound and frames.
    """
    for number, video in enumerate(duets):
        truth = _truth(video, videos)
        if truth is None:
            continue
        boxes, stems = _boxes(truth), _stems(truth, extract.sample_rate)
        yield LocalizationScene(video.name, "duet", Recording(video, extract), boxes, stems)
        heard = number % len(stems)
        alone = Recording(video, extract, stems[heard])
        yield LocalizationScene(
            video.name, "distractor", alone, boxes[heard : heard + 1], stems[heard : heard + 1]
        )
    for video in solos:
        truth = _truth(video, videos)
        if truth is None:
            continue
        boxes, stems = _boxes(truth), _stems(truth, extract.sample_rate)
        yield LocalizationScene(video.name, "solo", Recording(video, extract), boxes, stems)
        silence = Recording(video, extract, np.zeros_like(stems[0]))
        yield LocalizationScene(video.name, "silent", silence, (), stems[:0])


def find(separator: Separator, scene: LocalizationScene) -> LocalizationResult | SkippedScene:
    """Localize and separate a scene, not knowing what is in it, and compare with the truth.

    Regions belong to the players whose stems their sounds resemble most, one to one.
    """
    try:
        return _find(separator, scene)
    except LeftOut as reason:
        return SkippedScene(scene.name, str(reason))


def localization_summary(results: Iterable[LocalizationResult | SkippedScene]) -> dict[str, Any]:
    """What metrics/localization.json holds; None where there was nothing to measure.

    `pointing` is the share of scenes all of whose players were pointed at, each by a region of its
    own; `pointing_by_sound` wants that region to be the one that sounds like the player.
    """
    found, left_out = [], {}
    for result in results:
        if isinstance(result, SkippedScene):
            left_out[result.name] = result.reason
        else:
            found.append(result)
    by_kind = {kind: [one for one in found if one.kind == kind] for kind in KINDS}
    right = {
        kind: _share(one.regions == count for one in by_kind[kind]) for kind, count in KINDS.items()
    }
    counted = [value for value in right.values() if value is not None]
    overlaps = [value for one in by_kind["duet"] + by_kind["solo"] for value in one.overlaps]
    measures = {
        name: np.concatenate([getattr(one, name) for one in by_kind["duet"]] or [np.empty(0)])
        for name in ("sdr", "sir", "sar", "sdr_improvement")
    }
    return {
        "scenes": {kind: len(by_kind[kind]) for kind in KINDS},
        "pointing": {
            kind: _share(all(one.placed) for one in by_kind[kind])
            for kind in ("solo", "distractor", "duet")
        },
        "pointing_by_sound": {
            kind: _share(all(one.pointed) for one in by_kind[kind])
            for kind in ("solo", "distractor", "duet")
        },
        "overlap": {
            "mean": float(np.mean(overlaps)) if overlaps else None,
            "above_0.3": _share(value >= OVERLAP for value in overlaps),
            "above_0.5": _share(value >= WIDE_OVERLAP for value in overlaps),
        },
        "regions_right": {
            **right,
            "mean": float(np.mean(counted)) if counted else None,
        },
        "distractor_success": _share(
            one.regions == 1 and all(one.pointed) for one in by_kind["distractor"]
        ),
        "duets": {
            name: float(np.mean(values)) if len(values) else None
            for name, values in measures.items()
        },
        "left_out": left_out,
    }


def _find(separator: Separator, scene: LocalizationScene) -> LocalizationResult:
    recording = scene.recording
    where = separator.localize(recording)
    embedding = separator.embed(recording, 0, separator.frames(recording))
    sounds = embedding.sounds(separator.region_masks(embedding, where.regions))[:-1]
    length = min(sounds.shape[-1], scene.stems.shape[-1])
    sounds, stems = sounds[:, :length], scene.stems[:, :length]
    pairs = _matches(sounds, stems)
    inside = np.array(
        [[_is_inside(_loudest(where, r), box) for r in where.regions] for box in scene.boxes],
        dtype=bool,
    ).reshape(len(scene.boxes), len(where.regions))
    players, regions = linear_sum_assignment(inside, maximize=True)
    on_player = {int(n) for n, k in zip(players, regions, strict=True) if inside[n, k]}
    pointed, overlaps = [], []
    for player, box in enumerate(scene.boxes):
        region = where.regions[pairs[player]] if player in pairs else None
        pointed.append(player in pairs and bool(inside[player, pairs[player]]))
        overlaps.append(0.0 if region is None else _overlap(region.box, box))
    scores = np.empty((4, 0))
    if scene.kind == "duet":
        mixture = stems.sum(axis=0)
        # Of a player that was not found, the mixture is what is left.
        estimates = np.stack(
            [sounds[pairs[n]] if n in pairs else mixture for n in range(len(stems))]
        )
        estimates = np.where(estimates.any(axis=1, keepdims=True), estimates, mixture)
        bss = bss_eval(stems, np.stack([estimates, np.broadcast_to(mixture, estimates.shape)]))
        scores = np.stack([bss.sdr[0], bss.sir[0], bss.sar[0], bss.sdr[0] - bss.sdr[1]])
    placed = tuple(player in on_player for player in range(len(scene.boxes)))
    return LocalizationResult(
        scene.kind, len(where.regions), placed, tuple(pointed), tuple(overlaps), *scores
    )


def _truth(video: Video, videos: Path) -> Truth | None:
    path = videos / f"{video.name}.truth.npz"
    return read_truth(path) if path.is_file() else None


def _boxes(truth: Truth) -> tuple[Box, ...]:
    """Where each player is on average over the frames."""
    size = np.array([truth.width, truth.height] * 2)
    boxes = truth.boxes.mean(axis=1) / size
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)


def _stems(truth: Truth, sample_rate: int) -> Sounds:
    stems: Sounds = librosa.resample(
        truth.stems.astype(np.float32) / 2**15, orig_sr=truth.sample_rate, target_sr=sample_rate
    )
    return stems


def _matches(sounds: Sounds, stems: Sounds) -> dict[int, int]:
    """The region of each player, as far as there are regions."""
    norms = np.outer(np.linalg.norm(stems, axis=1), np.linalg.norm(sounds, axis=1))
    likeness = (stems @ sounds.T) / np.maximum(norms, 1e-12)
    players, regions = linear_sum_assignment(-likeness)
    return {int(player): int(region) for player, region in zip(players, regions, strict=True)}


def _loudest(where: Localization, region: Region) -> tuple[float, float]:
    """The middle of its loudest cell, as shares of the picture."""
    height, width = region.cells.shape
    row, column = divmod(int(np.where(region.cells, where.energy, -1).argmax()), width)
    return (column + 0.5) / width, (row + 0.5) / height


def _is_inside(place: tuple[float, float], box: Box) -> bool:
    (x, y), (left, top, right, bottom) = place, box
    return left <= x <= right and top <= y <= bottom


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return shared / (sum(areas) - shared)


def _share(values: Iterable[bool]) -> float | None:
    counted = list(values)
    return float(np.mean(counted)) if counted else None
