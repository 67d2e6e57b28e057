"""Whether a difference is one, or luck."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from sop.dataset.seeding import generator

CONFIDENCE = 0.95
RESAMPLES = 5000


class Interval(NamedTuple):
    """A mean, and where it would lie 95 times of 100 if other samples had been drawn."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def mean_interval(values: Sequence[float] | NDArray[np.float64], seed: int) -> Interval:
    """Mean of independent values with its 95 % bootstrap interval (bias-corrected, accelerated).

    Args:
        values: at least one; of a single one, or of equal ones, the interval is that value.
        seed: of the resampling.

    Source: Efron, Better bootstrap confidence intervals, JASA 1987; scipy.stats.bootstrap.
    """
    sample = np.asarray(values, np.float64)
    mean = float(sample.mean())
    if np.ptp(sample) == 0:
        return Interval(mean, mean, mean)
    interval = bootstrap(
        (sample,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        rng=generator(seed, "bootstrap"),
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))
