"""Confidence intervals: is a difference real, or chance?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from sop.dataset.seeding import generator

CONFIDENCE = 0.95
RESAMPLES = 5000


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | NDArray[np.float64], seed: int) -> Interval:
    """Return the mean of values with its 95 % interval, by bootstrap (bias-corrected, accelerated).

    Args:
        values: at least one, independent of each other; equal values have an interval of no width.
        seed: seed of the resampling.

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
