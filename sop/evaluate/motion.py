"""What motion adds: mixtures in which appearance does not tell what is heard of whom.

These are mixtures of one category, and mixtures in which a source is seen but not heard. As a
control, all are measured again with frames of a later moment than the sound: what is lost by that
is due to motion, and what remains is not.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sop.dataset.index import Video
from sop.evaluate.intervals import Interval, mean_interval, median_interval
from sop.evaluate.records import evaluation_rule
from sop.evaluate.validation import (
    PLAIN,
    Leak,
    MixtureKind,
    Score,
    SkippedMixture,
    counts,
    separate_mixtures,
    separation_summary,
)
from sop.model.pixelplayer import PixelPlayer
from sop.params import EvaluateParams, MixtureParams, Params
from sop.runtime.log import counted
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

SHIFT_SECONDS = 1.5
"""Time by which the frames of the control are later than the sound."""

LOW_LEAK_DB = -20.0
"""A silent source of which less is let through can hardly be heard beside the mixture."""

DIFFERENT, ANY, SAME, RESTING = "different", "any", "same_category", "resting"
"""Mixtures of different categories, of any and of one, and sources at rest in their videos."""

_TITLES = {DIFFERENT: "different categories", ANY: "any categories", SAME: "one category"}

Results = Sequence[Score | SkippedMixture]


class MotionResults(NamedTuple):
    """Results of all kinds of mixtures, either in time or shifted."""

    separation: Mapping[str, Results]
    """Of the mixtures with all sources: first the plain ones, by `plain_categories`, then those of
    one category, by `SAME`."""
    silent: Mapping[str, Results]
    """Of the mixtures with one silent source, which are always drawn; empty if not asked for."""


def plain_kind(params: EvaluateParams) -> MixtureKind:
    """Return what the plain mixtures are like: with sources at rest if others are asked for."""
    return PLAIN._replace(rest_is_silence=max(params.same_category, params.silent) > 0)


def plain_categories(
    videos: Sequence[Video],
    params: MixtureParams,
    listed: Sequence[Sequence[Video] | str] | None = None,
) -> str:
    """Return the categories of the sources of a plain mixture: `DIFFERENT`, `ANY` or `SAME`.

    Args:
        videos: the videos of which mixtures are drawn.
        params: whether two sources of a drawn mixture may be of one category.
        listed: the mixtures, or the reason why one cannot be mixed; None if they are drawn.
    """
    if listed is not None:
        mixed = [mixture for mixture in listed if not isinstance(mixture, str)]
        if all(len({video.category for video in mixture}) == 1 for mixture in mixed):
            return SAME
        return DIFFERENT if all(map(_are_different, mixed)) else ANY
    if not params.same_category:
        return DIFFERENT
    return ANY if len({video.category for video in videos}) > 1 else SAME


def _are_different(mixture: Sequence[Video]) -> bool:
    """Whether no two videos of a mixture share an instrument."""
    members = Counter(name for video in mixture for name in set(video.instruments))
    return max(members.values()) == 1


def measure_motion(
    player: PixelPlayer,
    videos: Sequence[Video],
    params: Params,
    plain: Results,
    device: torch.device,
    listed: Sequence[Sequence[Video] | str] | None = None,
) -> dict[str, Any]:
    """Measure the mixtures that `evaluate.same_category` and `evaluate.silent` ask for.

    Plain mixtures of videos of one category are mixtures of one category: no others are measured.
    For the control, no more plain mixtures are measured again than others are asked for. Categories
    with too few videos for a mixture are logged.

    Args:
        player: the model, on `device`.
        videos: the validation list.
        params: numbers of the mixtures, and settings as in `separate_mixtures`.
        plain: results of the mixtures of `plain_kind`.
        device: device of the networks.
        listed: the plain mixtures, if they were not drawn; the others always are.

    Returns:
        What metrics/evaluate.json has in addition; see `motion_summary`. Nothing if not asked for.
    """
    settings, base = params.evaluate, plain_kind(params.evaluate)
    rule = evaluation_rule(params)
    if not base.rest_is_silence:
        return {}

    name_of_drawn = plain_categories(videos, params.mixture)
    name_of_plain = plain_categories(videos, params.mixture, listed)
    too_few = too_few_videos(videos, params.mixture.sources)
    if too_few and (settings.silent or name_of_plain != SAME):
        _log_too_few(too_few, {video.category for video in videos}, params.mixture.sources)

    def measured(
        name: str, count: int, listed: Sequence[Sequence[Video] | str] | None = None, **changes: Any
    ) -> Results:
        if not count:
            return []
        is_same = listed is None and name == SAME != name_of_drawn
        kind = base._replace(same_category=is_same, **changes)
        separations = separate_mixtures(
            player, videos, params, count, settings.seed, rule, device, kind, listed
        )
        shown = progress(separations, f"evaluate {_title(name, kind)}", count, unit="mixture")
        return [separation.score() for separation in shown]

    def all_kinds(plain: Results, shift: float) -> MotionResults:
        separation, silent = {name_of_plain: plain}, {}
        if settings.same_category and name_of_plain != SAME:
            separation[SAME] = measured(SAME, settings.same_category, shift_seconds=shift)
        if settings.silent:
            for name in dict.fromkeys((name_of_drawn, SAME)):
                silent[name] = measured(name, settings.silent, one_silent=True, shift_seconds=shift)
        return MotionResults(separation, silent)

    in_time = all_kinds(plain, 0.0)
    few = min(len(plain), max(settings.same_category, settings.silent))
    late = measured(name_of_plain, few, listed, shift_seconds=SHIFT_SECONDS)
    control = all_kinds(late, SHIFT_SECONDS)
    return motion_summary(in_time, control, too_few)


def motion_summary(
    in_time: MotionResults, shifted: MotionResults, too_few: Sequence[str]
) -> dict[str, Any]:
    """Return what metrics/evaluate.json has in addition.

    `sdr_improvement` of the plain mixtures with an interval, `same_category`, `silent_leak` and
    `shifted`, which has the same for shifted mixtures, with the plain ones by `plain_categories`.
    Its `change` is the mean change of `sdr_improvement` over the mixtures that are measured both
    ways. Keys that are not asked for are missing.

    Args:
        in_time: results of the mixtures.
        shifted: results of the same mixtures, or the first of them, with shifted frames.
        too_few: categories of which no mixture is possible.
    """
    separation = {name: _separation(of) for name, of in in_time.separation.items()}
    control: dict[str, Any] = {"seconds": SHIFT_SECONDS}
    for name, results in shifted.separation.items():
        control[name] = _separation(results) | {
            "change": _change(in_time.separation[name], results)
        }
    if shifted.silent:
        control["silent_leak"] = _silent_leak(shifted)
    plain = separation.pop(next(iter(separation)))
    categories = {"left_out": len(too_few), "too_few_videos": list(too_few)}
    return {
        "sdr_improvement": plain["sdr_improvement"],
        **{name: {**of, "categories": categories} for name, of in separation.items()},
        **({"silent_leak": _silent_leak(in_time)} if in_time.silent else {}),
        "shifted": control,
    }


def too_few_videos(videos: Sequence[Video], sources: int) -> list[str]:
    """Return the categories that have too few videos for a mixture, sorted."""
    members = Counter(video.category for video in videos)
    return sorted(name for name, count in members.items() if count < sources)


def _log_too_few(too_few: Sequence[str], categories: Collection[str], sources: int) -> None:
    """Say why there are no mixtures of one category, or none of some categories."""
    which = "none can be mixed" if len(too_few) == len(categories) else "these are left out"
    logger.info(
        f"evaluate: mixtures of one category need {sources} videos of it: "
        f"{counted(len(too_few), 'category has', 'categories have')} fewer, for example "
        f"{too_few[0]}; {which}; add videos"
    )


def leak_summary(leaks: Sequence[Leak]) -> dict[str, float | None]:
    """Return the median leak with its interval, and the share below `LOW_LEAK_DB`."""
    if not leaks:
        return dict.fromkeys(("median", "low", "high", "below_20_db"))
    decibels = np.array([leak.decibels for leak in leaks])
    median = median_interval(decibels, [leak.videos for leak in leaks])
    below = float((decibels < LOW_LEAK_DB).mean())
    return {"median": median.mean, "low": median.low, "high": median.high, "below_20_db": below}


def _silent_leak(results: MotionResults) -> dict[str, Any]:
    """Return the leak of muted sources, by kind, and of those at rest in their videos."""
    summary: dict[str, Any] = {}
    for name, of in results.silent.items():
        skipped = [one for one in of if isinstance(one, SkippedMixture)]
        measured = [leak for one in skipped for leak in one.leaks]
        left_out = [one for one in skipped if not one.leaks]
        mixtures = counts(len(skipped) - len(left_out), left_out)
        summary[name] = {**leak_summary(measured), "mixtures": mixtures}
    resting = [
        one.leaks
        for of in results.separation.values()
        for one in of
        if isinstance(one, SkippedMixture) and one.leaks
    ]
    if resting:
        found = leak_summary([leak for leaks in resting for leak in leaks])
        summary[RESTING] = {**found, "mixtures": counts(len(resting), [])}
    return summary


def _separation(results: Results) -> dict[str, Any]:
    """Summarise results, with an interval of the improvement."""
    summary = separation_summary(results)
    scores = {one.number: one for one in results if isinstance(one, Score)}
    interval = _interval(list(map(_improvement, scores.values())), list(scores.values()))
    bounds = {"low": interval and interval.low, "high": interval and interval.high}
    return {**summary, "sdr_improvement": summary["sdr_improvement"] | bounds}


def _change(before: Results, after: Results) -> dict[str, float | None] | None:
    """Return the mean change of the improvement of mixtures that are in both results."""
    first = {one.number: one for one in before if isinstance(one, Score)}
    pairs = [
        (first[one.number], one) for one in after if isinstance(one, Score) and one.number in first
    ]
    changes = [_improvement(two) - _improvement(one) for one, two in pairs]
    interval = _interval(changes, [two for _, two in pairs])
    return interval and interval._asdict()


def _improvement(score: Score) -> float:
    return float(score.measures["sdr_improvement"].mean())


def _interval(values: Sequence[float], scores: Sequence[Score]) -> Interval | None:
    names = [tuple(video.name for video in score.videos) for score in scores]
    return mean_interval(values, names) if values else None


def _title(name: str, kind: MixtureKind) -> str:
    words = [_TITLES[name]]
    words += ["one silent"] if kind.one_silent else []
    words += ["shifted"] if kind.shift_seconds else []
    return ", ".join(words)
