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
from sop.denoise.bootstrap import Interval, mean_interval
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
from sop.denoise.trial import TRIAL_MEASURES, Trial
from sop.evaluate.measures import why_not_comparable
from sop.evaluate.records import read_record
from sop.params import Params
from sop.runtime.device import one_thread
from sop.runtime.progress import progress

# Largest loss of SIR that a method may cause and still be chosen, dB.
MAX_SIR_LOSS_DB = 0.1


class Changes:
    """Changes of the measures by each candidate, mixture by mixture.

    The unit is the mixture, because the sources of a mixture depend on each other.

    Args:
        tried: the candidates.
        values: `Trial.measure` of each mixture, (candidates + 1, measures, N); the first row is
            without denoising.
        seed: seed of the confidence intervals.
    """

    def __init__(
        self, tried: Sequence[MethodSettings], values: Sequence[NDArray[np.float64]], seed: int
    ) -> None:
        self.tried = list(tried)
        self.seed = seed
        means = [value.mean(axis=-1) for value in values]
        self._means = np.array(means).reshape(-1, len(tried) + 1, len(TRIAL_MEASURES))
        self._cache: dict[tuple[int, str], Interval] = {}

    @property
    def mixtures(self) -> int:
        """Number of measured mixtures."""
        return len(self._means)

    def mean(self, measure: str, candidate: MethodSettings | None) -> float | None:
        """Return the mean of a measure over the mixtures; None without mixtures.

        Args:
            measure: one of `TRIAL_MEASURES`.
            candidate: None for no denoising.
        """
        row = 0 if candidate is None else 1 + self.tried.index(candidate)
        means = self._means[:, row, TRIAL_MEASURES.index(measure)]
        return float(means.mean()) if len(means) else None

    def changes(self, candidate: MethodSettings, measure: str) -> NDArray[np.float64]:
        """Return the change of a measure in each mixture, (mixtures,)."""
        means = self._means[:, :, TRIAL_MEASURES.index(measure)]
        changes: NDArray[np.float64] = means[:, 1 + self.tried.index(candidate)] - means[:, 0]
        return changes

    def interval(self, candidate: MethodSettings, measure: str) -> Interval | None:
        """Return the mean change with its 95 % interval; None without mixtures."""
        key = (self.tried.index(candidate), measure)
        if self.mixtures and key not in self._cache:
            self._cache[key] = mean_interval(self.changes(candidate, measure), self.seed)
        return self._cache.get(key)

    def improves(self, candidate: MethodSettings) -> bool:
        """Return whether SDR improves and SIR loses at most `MAX_SIR_LOSS_DB`.

        Both have to hold for the whole 95 % interval.
        """
        sdr, sir = self.interval(candidate, "sdr"), self.interval(candidate, "sir")
        return sdr is not None and sir is not None and sdr.low > 0 and sir.low >= -MAX_SIR_LOSS_DB

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

    def _mean_change(self, candidate: MethodSettings, measure: str) -> float:
        """Return the mean change of a measure; 0 without mixtures."""
        values = self.changes(candidate, measure)
        return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True)
class MeasuredTrial:
    """Measures of the candidates on one mixture."""

    number: int
    videos: tuple[str, ...]
    values: NDArray[np.float64]
    """`Trial.measure` without denoising and of each candidate, (candidates + 1, measures, N)."""


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
            if reason := why_not_comparable(record.videos, trial.truth, trial.before):
                left_out[record.number] = reason
                return None
            values = trial.measure([None, *tried])
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
    tuning = Changes(every, [trial.values for trial in on_tuning], params.denoise.seed)
    chosen, reason = choose(params.denoise.method, tuning)
    finalists = list(tuning.best_of_each_method().values())
    if chosen is not None and chosen not in finalists:
        finalists.append(chosen)
    on_held_out = measure("hold out", for_measuring, finalists)
    held_out = Changes(finalists, [trial.values for trial in on_held_out], params.denoise.seed)
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


def choose(method: str, tuning: Changes) -> tuple[MethodSettings | None, str]:
    """Choose a candidate by its changes on the tuning mixtures.

    Args:
        method: `denoise.method`.
        tuning: the changes by all candidates.

    Returns:
        The candidate, None for no denoising, and the reason.
    """
    if method == NONE:
        return None, "denoise.method is none"
    if method != "auto":
        (forced,) = tuning.best_of_each_method().values()
        return forced, f"denoise.method is {method}"
    if not tuning.mixtures:
        return None, "no mixture is left for tuning; evaluate more mixtures or videos"
    best = tuning.best(filter(tuning.improves, tuning.tried))
    if best is None:
        return None, "no candidate was significantly better on the mixtures for tuning"
    sdr = tuning.interval(best, "sdr")
    assert sdr is not None
    mixtures = f"{tuning.mixtures} {'mixture' if tuning.mixtures == 1 else 'mixtures'}"
    return best, (
        f"best of {len(tuning.tried)} on {mixtures} for tuning: SDR {sdr.mean:+.2f} dB "
        f"({sdr.low:+.2f} to {sdr.high:+.2f})"
    )
