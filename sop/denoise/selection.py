"""Choose the denoising method that removes residual interference, if one of them helps.

Two kinds of methods compete with each other and with no denoising. Adaptive filters
(`sop.denoise.adaptive`) take one separated sound as the target and the other sounds of its mixture
as the references. Masks that sum to one (`sop.denoise.wiener`) separate the mixture again. The
method is chosen on the tuning mixtures and measured on the held-out mixtures; no video is in both.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sop.dataset.seeding import generator
from sop.denoise.guard import Kept, total_kept
from sop.denoise.settings import (
    METHODS,
    NONE,
    FilterSettings,
    LmsSettings,
    Method,
    MethodSettings,
    candidates,
)
from sop.denoise.trial import SILENT, TRIAL_MEASURES, Trial
from sop.evaluate.intervals import MIN_INDEPENDENT, Interval, independent_mixtures, mean_interval
from sop.evaluate.measures import UnmeasurableError
from sop.evaluate.records import read_record
from sop.params import DenoiseParams, Params
from sop.runtime.device import one_thread
from sop.runtime.progress import progress

# Largest loss of SIR that a method may cause and still be chosen, dB.
MAX_SIR_LOSS_DB = 0.1


@dataclass(frozen=True)
class MeasuredTrial:
    """Measures of the candidates on one mixture."""

    number: int
    videos: tuple[str, ...]
    values: NDArray[np.float64]
    """`Trial.measure` without denoising and of each candidate, (candidates + 1, measures, N)."""


class Changes:
    """Changes of the measures by each candidate, mixture by mixture.

    The unit is the mixture, because the sources of a mixture depend on each other. A measure is
    compared over the sources that have a value without denoising: a sound that was silent has no
    SAR to change.

    Args:
        tried: the candidates.
        trials: their measures on each mixture.
    """

    def __init__(self, tried: Sequence[MethodSettings], trials: Sequence[MeasuredTrial]) -> None:
        self.tried = list(tried)
        self._videos = [trial.videos for trial in trials]
        shape = (len(trials), len(tried) + 1, len(TRIAL_MEASURES))
        self._means, self._silent = np.full(shape, np.nan), np.zeros(shape[:2], int)
        for number, trial in enumerate(trials):
            self._silent[number] = trial.values[:, TRIAL_MEASURES.index(SILENT)].sum(axis=-1)
            for at, values in enumerate(trial.values.transpose(1, 0, 2)):
                known = np.isfinite(values[0])
                if known.any():
                    self._means[number, :, at] = values[:, known].mean(axis=-1)
        self._cache: dict[tuple[int, str], Interval] = {}

    @property
    def mixtures(self) -> int:
        """Number of measured mixtures."""
        return len(self._videos)

    @property
    def videos(self) -> int:
        """Number of videos in these mixtures."""
        return len(set().union(*self._videos))

    @property
    def independent(self) -> int:
        """Number of these mixtures of which no two have a video in common."""
        return independent_mixtures(self._videos)

    def mean(self, measure: str, candidate: MethodSettings | None) -> float | None:
        """Return the mean of a measure over the mixtures; None without values.

        Args:
            measure: one of `TRIAL_MEASURES`.
            candidate: None for no denoising.
        """
        means = self._means[:, self._row(candidate), TRIAL_MEASURES.index(measure)]
        known = means[np.isfinite(means)]
        return float(known.mean()) if len(known) else None

    def silent(self, candidate: MethodSettings | None) -> int:
        """Return the number of silent sounds."""
        return int(self._silent[:, self._row(candidate)].sum())

    def interval(self, candidate: MethodSettings, measure: str) -> Interval | None:
        """Return the mean change with its 95 % interval; None without values."""
        key = (self._row(candidate), measure)
        changes = self._changes(candidate, measure)
        known = np.isfinite(changes)
        if known.any() and key not in self._cache:
            videos = [
                names for names, is_known in zip(self._videos, known, strict=True) if is_known
            ]
            self._cache[key] = mean_interval(changes[known], videos)
        return self._cache.get(key)

    def improves(self, candidate: MethodSettings) -> bool:
        """Return whether SDR improves and SIR loses at most `MAX_SIR_LOSS_DB`.

        Both have to hold for the whole 95 % interval.
        """
        sdr, sir = self.interval(candidate, "sdr"), self.interval(candidate, "sir")
        if sdr is None or sir is None or sdr.low is None or sir.low is None:
            return False
        return sdr.low > 0 and sir.low >= -MAX_SIR_LOSS_DB

    def best(self, among: Iterable[MethodSettings]) -> MethodSettings | None:
        """Return the candidate with the largest mean change of SDR; None without candidates."""
        return max(among, key=lambda one: self._mean_change(one, "sdr"), default=None)

    def best_of_each_method(self) -> dict[Method, MethodSettings]:
        """Return the best candidate of each method, preferring those without a loss of SIR."""
        found = {}
        for method in METHODS:
            own = [candidate for candidate in self.tried if candidate.method == method]
            harmless = [one for one in own if self._mean_change(one, "sir") >= -MAX_SIR_LOSS_DB]
            if best := self.best(harmless or own):
                found[method] = best
        return found

    def _row(self, candidate: MethodSettings | None) -> int:
        return 0 if candidate is None else 1 + self.tried.index(candidate)

    def _changes(self, candidate: MethodSettings, measure: str) -> NDArray[np.float64]:
        """Return the change of a measure in each mixture, (mixtures,); NaN without a value."""
        means = self._means[:, :, TRIAL_MEASURES.index(measure)]
        changes: NDArray[np.float64] = means[:, self._row(candidate)] - means[:, 0]
        return changes

    def _mean_change(self, candidate: MethodSettings, measure: str) -> float:
        """Return the mean change of a measure; 0 without mixtures."""
        values = self._changes(candidate, measure)
        return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True)
class Denoised:
    """Result of the competition."""

    chosen: MethodSettings | None
    """The chosen candidate; None for no denoising."""
    reason: str
    """Reason for the choice."""
    tuning: Changes
    """Changes by all candidates on the tuning mixtures."""
    held_out: Changes
    """Changes by the best candidate of each method and the chosen one on the held-out mixtures."""
    measured: Mapping[int, MeasuredTrial]
    """Held-out mixtures by number."""
    left_out: Mapping[int, str]
    """Reasons of the mixtures that cannot be measured, by number."""
    bounded: set[LmsSettings]
    """LMS candidates whose rate would have diverged on a mixture."""
    kept: Mapping[FilterSettings, Kept]
    """Where adaptive filters would have made a sound louder, so that it was kept; sums over all
    mixtures that a candidate was tried on."""


def denoise(paths: Sequence[Path], params: Params) -> Denoised:
    """Try all candidates on the tuning mixtures, and the best of them on the held-out mixtures.

    Args:
        paths: the records of the stage `evaluate`.
        params: the candidates, and the split of the mixtures.

    Raises:
        UserError: a record is damaged.
    """
    left_out: dict[int, str] = {}
    bounded: set[LmsSettings] = set()
    kept: dict[FilterSettings, list[Kept]] = defaultdict(list)

    def measure(
        name: str, positions: Sequence[int], tried: Sequence[MethodSettings]
    ) -> list[MeasuredTrial]:
        """Try candidates on mixtures, several mixtures in parallel."""

        def measured(position: int) -> MeasuredTrial | None:
            record = read_record(paths[position])
            trial = Trial(record, params)
            try:
                values = trial.measure([None, *tried])
            except UnmeasurableError as reason:
                left_out[record.number] = str(reason)
                return None
            bounded.update(trial.bounded)
            for settings, one in trial.kept.items():
                kept[settings].append(one)
            return MeasuredTrial(record.number, record.videos, values)

        # Compiled code releases Python's lock, so that threads run in parallel. One core for each
        # mixture is faster than all cores for each.
        with one_thread(), threadpool_limits(1), ThreadPoolExecutor(params.worker_count) as pool:
            results = pool.map(measured, positions)
            return list(filter(None, progress(results, name, len(positions), unit="mixture")))

    videos = [read_record(path).videos for path in paths]
    for_tuning, for_measuring = split(videos, params.denoise.tuning_fraction, params.denoise.seed)
    every = candidates(params.denoise)
    on_tuning = measure("tune", for_tuning, every)
    tuning = Changes(every, on_tuning)
    chosen, reason = choose(params.denoise, tuning)
    finalists = list(tuning.best_of_each_method().values())
    if chosen is not None and chosen not in finalists:
        finalists.append(chosen)
    on_held_out = measure("hold out", for_measuring, finalists)
    held_out = Changes(finalists, on_held_out)
    by_number = {trial.number: trial for trial in on_held_out}
    all_kept = {settings: total_kept(parts) for settings, parts in kept.items()}
    return Denoised(chosen, reason, tuning, held_out, by_number, left_out, bounded, all_kept)


def split(
    videos: Sequence[Sequence[str]], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split mixtures into tuning and held-out mixtures that have no video in common.

    Args:
        videos: names of the videos of each mixture.
        fraction: fraction of the videos for tuning.
        seed: seed of the choice of videos.

    Returns:
        Positions in `videos` of the tuning and of the held-out mixtures; mixtures with videos of
        both are in neither.
    """
    names = sorted({name for mixture in videos for name in mixture})
    order = generator(seed, "denoise").permutation(len(names))
    for_tuning = {names[position] for position in order[: round(fraction * len(names))]}
    counts = [sum(name in for_tuning for name in mixture) for mixture in videos]
    tuning = [n for n, count in enumerate(counts) if count == len(videos[n])]
    return tuning, [n for n, count in enumerate(counts) if not count]


def choose(params: DenoiseParams, tuning: Changes) -> tuple[MethodSettings | None, str]:
    """Choose a candidate by its changes on the tuning mixtures.

    Args:
        params: the method, and the fewest mixtures and videos that may choose it.
        tuning: the changes by all candidates.

    Returns:
        The candidate, None for no denoising, and the reason.
    """
    if params.method == NONE:
        return None, "denoise.method is none"
    if params.method != "auto":
        (forced,) = tuning.best_of_each_method().values()
        return forced, f"denoise.method is {params.method}"
    mixtures = f"{tuning.mixtures} {'mixture' if tuning.mixtures == 1 else 'mixtures'}"
    videos = f"{tuning.videos} {'video' if tuning.videos == 1 else 'videos'}"
    fewest = params.min_tuning_mixtures, params.min_tuning_videos, MIN_INDEPENDENT
    if (
        tuning.mixtures < fewest[0]
        or tuning.videos < fewest[1]
        or tuning.independent < MIN_INDEPENDENT
    ):
        return None, (
            f"too few mixtures for tuning: {mixtures} (at least {fewest[0]}, "
            f"denoise.min_tuning_mixtures) of {videos} (at least {fewest[1]}, "
            f"denoise.min_tuning_videos), {tuning.independent} without a common video (at least "
            f"{fewest[2]}); add videos, or raise evaluate.mixtures"
        )
    best = tuning.best(filter(tuning.improves, tuning.tried))
    if best is None:
        return None, "no candidate was significantly better on the mixtures for tuning"
    sdr = tuning.interval(best, "sdr")
    assert sdr is not None
    return best, (
        f"best of {len(tuning.tried)} on {mixtures} of {videos} for tuning: SDR {sdr.mean:+.2f} dB "
        f"({sdr.low:+.2f} to {sdr.high:+.2f})"
    )
