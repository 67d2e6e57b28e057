"""How often do 95 % intervals contain the true difference of two settings?

Run: python -m benchmarks.intervals [--simulations N]

Experiments with a known difference are simulated: runs of two settings that differ by their
training seed, and mixtures that share videos. Settings, seeds and videos interact. The intervals of
`sop compare` over groups are compared with that of one run of each setting, which does not know the
seeds, and with a percentile bootstrap of seeds, then videos.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sop.evaluate.intervals import Interval, mean_interval
from sop.report.seed_intervals import runs_interval

TRUE_DIFFERENCE = 0.5
"""Of the two settings, in dB."""

Floats = NDArray[np.float64]
Pairs = list[tuple[str, str]]


class Spread(NamedTuple):
    """Standard deviations of what makes up a value, in dB."""

    name: str
    seed: float
    """Of runs of one setting, in all mixtures alike."""
    merit: float
    """Of the difference of the settings, between videos."""
    taste: float
    """Of the difference of runs of one setting, between videos."""
    noise: float = 1.0
    """Of what a run and a mixture have alone."""
    difficulty: float = 4.0
    """Of videos, in all runs alike."""


SPREADS = (
    Spread("seeds and videos", seed=0.3, merit=1.5, taste=0.5),
    Spread("mostly seeds", seed=0.8, merit=0.3, taste=0.3),
    Spread("mostly videos", seed=0.05, merit=2.0, taste=0.5),
    Spread("each seed has its videos", seed=0.0, merit=0.3, taste=2.0),
    Spread("neither: noise", seed=0.0, merit=0.0, taste=0.0),
)


class Design(NamedTuple):
    """Runs and mixtures of an experiment."""

    name: str
    runs: tuple[int, int]
    """Of each setting; 0 of the first: the mean of the second is asked for."""
    mixtures: int
    videos: int
    paired: bool = True
    """Whether all runs have the same mixtures; otherwise each setting has its own, of the same
    videos."""


DESIGNS = (
    Design("3 and 3 runs", (3, 3), 256, 80),
    Design("3 and 3 runs, few videos", (3, 3), 60, 20),
    Design("3 and 3 runs, unpaired", (3, 3), 256, 80, paired=False),
    Design("2 and 5 runs", (2, 5), 256, 80),
    Design("1 and 3 runs", (1, 3), 256, 80),
    Design("mean of 3 runs", (0, 3), 256, 80),
)


class Simulated(NamedTuple):
    """An experiment."""

    values: Floats
    """Of each run and mixture, (runs, mixtures); NaN where a run lacks a mixture."""
    videos: Pairs
    """The two videos of each mixture."""
    groups: list[int]
    """The setting of each run."""
    truth: float
    """What an interval should contain."""


def simulate(design: Design, spread: Spread, rng: np.random.Generator) -> Simulated:
    """Draw an experiment."""
    drawn = [_pairs(design, rng) for _ in range(1 if design.paired else 2)]
    pairs = np.concatenate(drawn)
    groups = [group for group, count in enumerate(design.runs) for _ in range(count)]
    difficulty = rng.normal(0, spread.difficulty, design.videos)
    merit = rng.normal(0, spread.merit, (2, design.videos)) / np.sqrt(2)
    values = np.full((len(groups), len(pairs)), np.nan)
    for run, group in enumerate(groups):
        of_video = difficulty + merit[group] + rng.normal(0, spread.taste, design.videos)
        own = slice(None)
        if not design.paired:
            own = slice(group * design.mixtures, (group + 1) * design.mixtures)
        values[run, own] = (
            of_video[pairs[own]].mean(axis=1)
            + rng.normal(0, spread.noise, design.mixtures)
            + rng.normal(0, spread.seed)
            + group * TRUE_DIFFERENCE
        )
    both = 0 not in design.runs
    names = [(f"{a}", f"{b}") for a, b in pairs]
    return Simulated(values, names, groups if both else [0] * len(groups), TRUE_DIFFERENCE)


def _pairs(design: Design, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw mixtures as the evaluation does: the first videos in turn, the others at random."""
    first = np.arange(design.mixtures) % design.videos
    second = rng.integers(design.videos - 1, size=design.mixtures)
    return np.stack([first, second + (second >= first)], axis=1)


def one_run_each(one: Simulated) -> Interval | None:
    """Return the interval of the first run of each setting, over the videos only."""
    a, b = one.groups.index(0), one.groups.index(max(one.groups))
    difference = one.values[b] - one.values[a] if a != b else one.values[a]
    return mean_interval(difference, one.videos) if np.isfinite(difference).all() else None


def bootstrap(one: Simulated, rng: np.random.Generator, count: int = 200) -> Interval:
    """Return the percentile interval of a bootstrap of the runs of each setting and the videos.

    A mixture has the product of its videos' multiplicities as its weight.
    """
    pairs = np.array(one.videos, int)
    videos = pairs.max() + 1
    times = rng.multinomial(videos, np.full(videos, 1 / videos), count)
    weights = times[:, pairs[:, 0]] * times[:, pairs[:, 1]]
    present = np.isfinite(one.values)
    sums = weights @ np.where(present, one.values, 0).T
    means = sums / (weights @ present.T)
    groups = np.array(one.groups)
    result = np.zeros(count)
    for group in set(one.groups):
        runs = np.flatnonzero(groups == group)
        chosen = rng.choice(runs, (count, len(runs)))
        mean = np.take_along_axis(means, chosen, axis=1).mean(axis=1)
        result += mean if group == max(one.groups) else -mean
    low, high = np.quantile(result, (0.025, 0.975))
    return Interval(float(result.mean()), float(low), float(high))


class Coverage(NamedTuple):
    """How often intervals contained the truth, and how wide they were."""

    ours: float
    width: float
    """Mean of ours, in dB."""
    one_run: float | None
    bootstrap: float


def measure(design: Design, spread: Spread, simulations: int, seed: int = 0) -> Coverage:
    """Simulate experiments, and count the intervals that contain the true difference."""
    rng = np.random.default_rng([seed, *design.runs, design.mixtures, int(spread.merit * 100)])
    ours, single, resampled = [], [], []
    for _ in range(simulations):
        one = simulate(design, spread, rng)
        ours.append(runs_interval(one.values, one.videos, one.groups).interval)
        if before := one_run_each(one):
            single.append(before)
        resampled.append(bootstrap(one, rng))
    widths = [one.high - one.low for one in ours if one.low is not None and one.high is not None]
    return Coverage(
        _covered(ours),
        float(np.mean(widths)),
        _covered(single) if single else None,
        _covered(resampled),
    )


def _covered(intervals: list[Interval]) -> float:
    hits = [
        one.low is not None and one.high is not None and one.low <= TRUE_DIFFERENCE <= one.high
        for one in intervals
    ]
    return float(np.mean(hits))


def rows(simulations: int) -> Iterator[str]:
    """Yield a table of all designs and spreads."""
    yield "| runs | spread | groups | mean width, dB | one run each | percentile bootstrap |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for design in DESIGNS:
        for spread in SPREADS:
            found = measure(design, spread, simulations)
            before = "" if found.one_run is None else f"{found.one_run:.1%}"
            yield (
                f"| {design.name} | {spread.name} | {found.ours:.1%} | {found.width:.2f} "
                f"| {before} | {found.bootstrap:.1%} |"
            )


def main() -> None:
    """Print the table."""
    # Imports PyTorch, which simulations do not need.
    from benchmarks.machine import environment

    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals")
    parser.add_argument("--simulations", type=int, default=1000)
    options = parser.parse_args()
    for row in rows(options.simulations):
        print(row, flush=True)
    print(f"\n{options.simulations} simulations each; {environment()}")


if __name__ == "__main__":
    main()
