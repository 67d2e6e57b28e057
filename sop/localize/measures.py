"""Measures of localization, on videos with known boxes and sounds (stems) of the players.

Shapes: N players, K regions, L samples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sop.evaluate.measures import Decibels, Sounds, UnmeasurableError, measure
from sop.inference.localization import Localization, Region
from sop.inference.separator import Separator
from sop.localize.scenes import KINDS, Box, Kind, LocalizationScene
from sop.runtime.errors import LeftOut

ALWAYS_SHOWN: tuple[Kind, ...] = ("silent", "solo", "distractor", "duet")
"""Kinds that the summary always has; it has the others only if there are such scenes."""

OVERLAPS = (0.3, 0.5)
"""Intersections over union from which a region counts as overlapping its player."""

DUET_MEASURES = ("sdr", "sir", "sar", "sdr_improvement")
"""Measures of the separated sounds of duets."""


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
    heard_found: bool | None = None
    """Whether the cell with the most energy is in the box of the player that is heard, not of the
    other; None unless one of two players is heard."""
    shifted: bool = False
    """Whether the sound was `SHIFT_SECONDS` late."""


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
    inside = _inside(where, scene.boxes)
    matched = [(n, box, region_of.get(n)) for n, box in enumerate(scene.boxes)]
    scores, silent = np.empty((len(DUET_MEASURES), 0)), 0
    if KINDS[scene.kind] > 1:
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
        placed=found_players(where, scene.boxes),
        pointed=tuple(k is not None and bool(inside[n, k]) for n, _, k in matched),
        overlaps=tuple(
            0.0 if k is None else overlap(where.regions[k].box, box) for _, box, k in matched
        ),
        scores=dict(zip(DUET_MEASURES, scores, strict=True)),
        silent=silent,
        heard_found=_heard_is_loudest(where, scene) if scene.mute_boxes else None,
        shifted=scene.shifted,
    )


def localization_summary(
    results: Sequence[LocalizationResult], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of metrics/localization.json; None where there is nothing to measure.

    `pointing` is the fraction of scenes in which all players are `placed`, `pointing_by_sound` that
    in which all players are `pointed`. Scenes of kinds outside `ALWAYS_SHOWN` add keys:
    `success`, the fraction of scenes with the right number of regions and all players `pointed`;
    `who_is_heard`, that in which the loudest cell is on the player that is heard, and not on the
    mute one; `same_duets`, `talker_pairs` and `trios` to `quintets`, as `duets`; and `shifted`, the
    same with late sound.

    Args:
        results: the measured scenes.
        left_out: reasons of the scenes that cannot be read, by name.
    """
    in_time = [one for one in results if not one.shifted]
    by_kind = _by_kind(in_time, ALWAYS_SHOWN)
    right = _share(by_kind, _right_number)
    overlaps = [v for one in by_kind["duet"] + by_kind["solo"] for v in one.overlaps]
    above = {
        f"above_{minimum}": mean(value >= minimum for value in overlaps) for minimum in OVERLAPS
    }
    return {
        "scenes": {kind: len(own) for kind, own in by_kind.items()},
        **_pointing(by_kind),
        "overlap": {"mean": mean(overlaps), **above},
        "regions_right": {**right, "mean": mean(v for v in right.values() if v is not None)},
        "distractor_success": mean(_succeeded(one) for one in by_kind["distractor"]),
        "duets": _separation(by_kind["duet"]),
        **(_of_motion(by_kind) if by_kind.keys() - set(ALWAYS_SHOWN) else {}),
        **_shifted([one for one in results if one.shifted]),
        "left_out": left_out,
    }


def found_players(where: Localization, boxes: Sequence[Box]) -> tuple[bool, ...]:
    """Return for each box whether a region of its own has its loudest cell in it."""
    inside = _inside(where, boxes)
    players, regions = linear_sum_assignment(inside, maximize=True)
    found = {int(n) for n, k in zip(players, regions, strict=True) if inside[n, k]}
    return tuple(n in found for n in range(len(boxes)))


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, not both of which are empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return shared / (sum(areas) - shared)


def mean(values: Iterable[float]) -> float | None:
    """Return the mean of some values, None if there are none."""
    values = list(values)
    return float(np.mean(values)) if values else None


ByKind = Mapping[Kind, Sequence[LocalizationResult]]


def _by_kind(
    results: Sequence[LocalizationResult], always: Sequence[Kind] = ()
) -> dict[Kind, list[LocalizationResult]]:
    by_kind = {kind: [one for one in results if one.kind == kind] for kind in KINDS}
    return {kind: own for kind, own in by_kind.items() if own or kind in always}


def _right_number(one: LocalizationResult) -> bool:
    return one.regions == KINDS[one.kind]


def _succeeded(one: LocalizationResult) -> bool:
    return _right_number(one) and all(one.pointed)


def _share(
    by_kind: ByKind, holds: Callable[[LocalizationResult], bool]
) -> dict[Kind, float | None]:
    """For each kind, the share of the scenes of which something holds."""
    return {kind: mean(holds(one) for one in own) for kind, own in by_kind.items()}


def _pointing(by_kind: ByKind) -> dict[str, Any]:
    audible: ByKind = {kind: own for kind, own in by_kind.items() if kind != "silent"}
    return {
        "pointing": _share(audible, lambda one: all(one.placed)),
        "pointing_by_sound": _share(audible, lambda one: all(one.pointed)),
    }


def _of_motion(by_kind: ByKind) -> dict[str, Any]:
    """Measures of the scenes in which motion tells who plays, and of ensembles."""
    audible: ByKind = {k: own for k, own in by_kind.items() if own and k != "silent"}
    one_heard: ByKind = {k: own for k, own in audible.items() if own[0].heard_found is not None}
    pairs: dict[Kind, str] = {"same_duet": "same_duets", "talker_pair": "talker_pairs"}
    pairs |= {"trio": "trios", "quartet": "quartets", "quintet": "quintets"}
    return {
        "success": _share(audible, _succeeded),
        "who_is_heard": _share(one_heard, lambda one: bool(one.heard_found)),
        **{key: _separation(by_kind[kind]) for kind, key in pairs.items() if kind in by_kind},
    }


def _shifted(results: Sequence[LocalizationResult]) -> dict[str, Any]:
    """The control: measures of the same scenes with late sound."""
    if not results:
        return {}
    by_kind = _by_kind(results)
    right = _share(by_kind, _right_number)
    return {"shifted": {**_pointing(by_kind), "regions_right": right, **_of_motion(by_kind)}}


def _separation(results: Sequence[LocalizationResult]) -> dict[str, Any]:
    """Mean of each measure over the players, where it is finite."""
    return {
        name: mean(value for one in results for value in one.scores[name] if np.isfinite(value))
        for name in DUET_MEASURES
    } | {"silent_estimates": sum(one.silent for one in results)}


def _matches(sounds: Sounds, stems: Sounds) -> dict[int, int]:
    """Assign regions to players by the likeness of their sounds, one to one."""
    norms = np.outer(np.linalg.norm(stems, axis=1), np.linalg.norm(sounds, axis=1))
    likeness = (stems @ sounds.T) / np.maximum(norms, 1e-12)
    players, regions = linear_sum_assignment(-likeness)
    return dict(zip(players.tolist(), regions.tolist(), strict=True))


def _inside(where: Localization, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Return for each box and region whether the region's loudest cell is in the box, (N, K)."""
    inside = [[_is_inside(where, region, box) for region in where.regions] for box in boxes]
    return np.array(inside, bool).reshape(len(boxes), len(where.regions))


def _is_inside(where: Localization, region: Region, box: Box) -> bool:
    """Return whether the center of a region's loudest cell is in a box."""
    return _has_loudest(box, np.where(region.cells, where.energy, -1))


def _heard_is_loudest(where: Localization, scene: LocalizationScene) -> bool:
    """Return whether the loudest cell is in the box of a player that is heard, and in no other."""
    on = [_has_loudest(box, where.energy) for box in scene.boxes]
    off = [_has_loudest(box, where.energy) for box in scene.mute_boxes]
    return bool(where.energy.any()) and any(on) and not any(off)


def _has_loudest(box: Box, energy: NDArray[np.float64]) -> bool:
    """Return whether the center of the cell with the most energy is in a box."""
    height, width = energy.shape
    row, column = divmod(int(energy.argmax()), width)
    x, y = (column + 0.5) / width, (row + 0.5) / height
    left, top, right, bottom = box
    return left <= x <= right and top <= y <= bottom
