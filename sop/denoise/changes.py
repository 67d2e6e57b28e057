"""Changes of the measures by each candidate, against no denoising."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sop.denoise.bootstrap import Interval, mean_interval
from sop.denoise.settings import METHODS, Method, MethodSettings
from sop.denoise.trial import TRIAL_MEASURES

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
