"""Confidence intervals over training seeds and videos: is a difference of two settings real?

Two runs of one setting differ by their training seed. Several runs of each setting show by how
much, and the mean over runs is the result of the setting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from sop.evaluate.intervals import CONFIDENCE, MIN_INDEPENDENT, Interval, independent_mixtures

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""Differences below it are errors of rounding, in dB."""


@dataclass(frozen=True)
class RunsInterval:
    """A mean over runs, or the difference of two such means, with its 95 % interval."""

    interval: Interval
    seeds: bool
    """Whether the interval covers the training seed. It needs a group of at least two runs."""
    independent: int
    """Number of mixtures, in the run that has fewest, of which no two have a video in common."""


def runs_interval(
    values: Floats, videos: Sequence[Sequence[str]], groups: Sequence[int]
) -> RunsInterval:
    """Return the mean of a group of runs, or how much that of a second group is higher.

    The variance has two parts. That of the seeds is the variance of the means of the runs, divided
    by their number. That of the videos is estimated by a jackknife: the mean, or difference, is
    computed again without each video, in all runs at once. So pairing needs no special case: what
    two groups have in common in their mixtures cancels. Both parts contain how differently the runs
    of a group do on a video. The jackknife of the deviations of each run from its group estimates
    that, and it is subtracted once.

    The quantile is Student's, with the effective degrees of freedom of the sum: few seeds make it
    wide where seeds matter, and only there. A bootstrap of seeds and videos has no such correction:
    its percentile intervals are too narrow for few seeds (`benchmarks/intervals.py`).

    A group of one run has the variance of the other group. If both have one run, the interval
    covers the choice of videos only.

    Args:
        values: of each run and mixture, (runs, mixtures); NaN where a run lacks a mixture. Every
            run has at least one value.
        videos: names of the videos of each mixture.
        groups: the group of each run: 0 everywhere, or 0 and 1.

    Source: two-way clustering: Cameron, Gelbach, Miller, Robust inference with multiway clustering,
    Journal of Business and Economic Statistics 2011; the quantile: Satterthwaite, An approximate
    distribution of estimates of variance components, Biometrics Bulletin 1946; the jackknife: as in
    `sop.evaluate.intervals.mean_interval`.
    """
    group = np.asarray(groups)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    present = np.isfinite(values)
    means = np.nanmean(values, axis=1)
    weights = np.zeros(len(values))
    for sign, runs in zip((1.0,) if len(members) == 1 else (-1.0, 1.0), members, strict=True):
        weights[runs] = sign / len(runs)
    mean = float(weights @ means)
    independent = min(
        independent_mixtures([videos[at] for at in np.flatnonzero(run)]) for run in present
    )
    seeds = any(len(runs) > 1 for runs in members)
    deviations = np.where(present, values - means[:, np.newaxis], 0.0)
    constant = np.abs(weights @ deviations).max() < ROUNDING
    if constant and all(np.ptp(means[runs]) < ROUNDING for runs in members):
        # Equal everywhere, or of no interval if there are too few.
        ends = (mean, mean) if independent >= MIN_INDEPENDENT or mean == 0 else (None, None)
        return RunsInterval(Interval(mean, *ends), seeds, independent)
    if independent < MIN_INDEPENDENT:
        return RunsInterval(Interval(mean, None, None), seeds, independent)

    jackknife = _Jackknife(deviations, present, videos)
    of_videos = jackknife.variance(weights)
    of_seeds, bound = _seed_variance(means, members)
    common = 0.0
    for runs in members if seeds else ():
        if len(runs) > 1:
            apart = [jackknife.variance(_apart(run, runs, len(values))) for run in runs]
            common += sum(apart) / len(runs) / (len(runs) - 1)
    of_videos = max(of_videos - common, 0.0)
    variance = of_videos + of_seeds
    freedom = variance**2 / (bound + of_videos**2 / (independent - 1))
    quantile = student.ppf((1 + CONFIDENCE) / 2, freedom)
    half = float(quantile * np.sqrt(variance))
    return RunsInterval(Interval(mean, mean - half, mean + half), seeds, independent)


def _seed_variance(means: Floats, members: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    """Return the variance of the mean, or of the difference, that is due to seeds.

    Returns:
        The variance, and its square divided by its degrees of freedom; 0 and 0 if no group has two
        runs. The degrees of freedom are between those for different variances of the groups, which
        give too wide intervals for two groups of three runs, and those for equal ones.
    """
    several = [runs for runs in members if len(runs) > 1]
    if not several:
        return 0.0, 0.0
    found = np.array([means[runs].var(ddof=1) for runs in several])
    freedom = np.array([len(runs) - 1.0 for runs in several])
    shares = np.array([1 / len(runs) for runs in several])
    if len(several) < len(members):
        # The group of a single run is as variable as the other.
        shares = np.array([sum(1 / len(runs) for runs in members)])
    parts = shares * found
    variance = float(parts.sum())
    different = float((parts**2 / freedom).sum())
    equal = variance**2 * float((shares**2 / freedom).sum() / shares.sum() ** 2)
    return variance, (different + equal) / 2


def _apart(run: int, runs: NDArray[np.intp], count: int) -> Floats:
    """Return the weights of a run's deviation from the mean of its group."""
    weights = np.zeros(count)
    weights[runs] = -1 / len(runs)
    weights[run] += 1
    return weights


class _Jackknife:
    """The variance, by videos, of any weighted sum of the means of runs.

    Args:
        deviations: of each value from the mean of its run, (runs, mixtures); 0 where there is none.
        present: whether there is a value.
        videos: names of the videos of each mixture.
    """

    def __init__(
        self, deviations: Floats, present: NDArray[np.bool_], videos: Sequence[Sequence[str]]
    ) -> None:
        names = sorted({name for mixture in videos for name in mixture})
        column = {name: at for at, name in enumerate(names)}
        # Whether a mixture contains a video, (mixtures, videos).
        contains = np.zeros((len(videos), len(names)))
        for row, mixture in zip(contains, videos, strict=True):
            row[[column[name] for name in mixture]] = 1
        sources = contains.sum(axis=1, keepdims=True)
        self._deviations = deviations
        self._mixtures = present.sum(axis=1)
        self._others = self._mixtures[:, np.newaxis] - present @ contains
        self._changes = deviations @ contains / self._others
        self._repeated = (1 - 1 / sources) * contains
        # Otherwise, n independent samples would have n / (n - 1) times their variance.
        self._correction = 1 - sources.mean() / len(names)

    def variance(self, weights: Floats) -> float:
        """Return the variance, at least that of independent mixtures."""
        changes = weights @ self._changes
        # What a mixture has alone counts once for each of its videos; all but one are subtracted.
        alone = self._deviations.T @ (weights[:, np.newaxis] / self._others)
        jackknife = (changes**2).sum() - (self._repeated * alone**2).sum()
        count = self._mixtures[weights != 0].min()
        independent = ((weights / self._mixtures) @ self._deviations) ** 2
        return float(max(self._correction * jackknife, independent.sum() * count / (count - 1)))
