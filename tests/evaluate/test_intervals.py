"""Confidence intervals of means over mixtures that share videos."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from sop.evaluate.intervals import (
    MIN_INDEPENDENT,
    independent_mixtures,
    mean_interval,
    median_interval,
)

Pairs = list[tuple[str, ...]]


def drawn(videos: int, mixtures: int, sources: int, rng: np.random.Generator) -> Pairs:
    """Draw mixtures as the evaluation does: the first videos in turn, the others at random."""
    made = []
    for number in range(mixtures):
        others = rng.choice(videos - 1, sources - 1, replace=False)
        first = number % videos
        made.append((f"{first}", *(f"{n + (n >= first)}" for n in others)))
    return made


def apart(videos: int, mixtures: int, sources: int, rng: np.random.Generator) -> Pairs:
    """Draw mixtures without a common video."""
    names = rng.permutation(videos)[: mixtures * sources].reshape(mixtures, sources)
    return [tuple(map(str, row)) for row in names]


@pytest.mark.parametrize(
    ("draw", "videos", "mixtures", "sources"),
    [
        (drawn, 80, 256, 2),
        (drawn, 48, 90, 2),
        (drawn, 32, 39, 2),
        (drawn, 24, 30, 2),
        (drawn, 60, 100, 4),
        (drawn, 20, 60, 1),
        (apart, 80, 40, 2),
    ],
)
@pytest.mark.parametrize(("of_video", "of_mixture"), [(1, 0), (1, 1), (0, 1)])
def test_intervals_contain_the_mean_as_often_as_they_claim(
    draw: Callable[..., Pairs],
    videos: int,
    mixtures: int,
    sources: int,
    of_video: float,
    of_mixture: float,
) -> None:
    rng = np.random.default_rng([videos, mixtures, sources, of_video, of_mixture])
    covered, count = 0, 60
    for _ in range(count):
        pairs = draw(videos, mixtures, sources, rng)
        merit = of_video * rng.standard_normal(videos)
        own = of_mixture * rng.standard_normal(mixtures)
        values = [sum(merit[int(n)] for n in pair) for pair in pairs] + own
        found = mean_interval(values, pairs)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    # 95 % within three standard deviations of the count; wider intervals are no fault here.
    assert covered / count > 0.95 - 3 * np.sqrt(0.95 * 0.05 / count)


def test_mixtures_that_share_no_video_are_independent_samples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1, 2, 30)
    found = mean_interval(values, apart(60, 30, 2, rng))
    half = student.ppf(0.975, 29) * values.std(ddof=1) / np.sqrt(30)
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_mixtures_of_one_video_are_one_sample() -> None:
    """Forty mixtures of eight videos that differ by the video alone are eight samples."""
    merit = np.random.default_rng(1).standard_normal(8)
    values = np.tile(merit, 5)
    found = mean_interval(values, [(f"{n % 8}",) for n in range(40)])
    half = student.ppf(0.975, 7) * merit.std(ddof=1) / np.sqrt(8)
    assert found == pytest.approx((merit.mean(), merit.mean() - half, merit.mean() + half))


def test_few_independent_mixtures_have_no_interval() -> None:
    pairs = [(f"{n}", f"{n + 1}") for n in range(2 * MIN_INDEPENDENT - 2)]
    assert independent_mixtures(pairs) == MIN_INDEPENDENT - 1
    assert mean_interval([0.39] * len(pairs), pairs) == (0.39, None, None)
    assert mean_interval([0.39], [("a", "b")]) == (0.39, None, None)
    # Nothing differs, whatever the number.
    assert mean_interval([0.0], [("a", "b")]) == (0, 0, 0)
    enough = [(f"{n}", f"{n + 1}") for n in range(2 * MIN_INDEPENDENT)]
    assert mean_interval([0.5] * len(enough), enough) == (0.5, 0.5, 0.5)


def test_one_video_in_all_mixtures_has_no_interval() -> None:
    pairs = [("a", f"{n}") for n in range(50)]
    assert mean_interval(np.arange(50.0), pairs).low is None


def test_order_and_names_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    pairs = apart(60, 30, 2, rng)
    values = rng.standard_normal(30)
    order = rng.permutation(30)
    again = mean_interval(values[order], [(f"x{pairs[n][1]}", f"x{pairs[n][0]}") for n in order])
    assert again == pytest.approx(mean_interval(values, pairs))


@pytest.mark.parametrize("sources", [2, 3])
def test_intervals_contain_the_median_as_often_as_they_claim(sources: int) -> None:
    rng = np.random.default_rng(sources)
    hits = []
    for _ in range(250):
        videos = drawn(30, 60, sources, rng)
        effects = {name: rng.normal() for mixture in videos for name in mixture}
        # Skewed and with a floor, as the leak is; the median is that of exp(0) - 1.
        exact = [sum(map(effects.get, mixture)) + rng.normal() for mixture in videos]
        found = median_interval(np.maximum(np.expm1(exact), -0.6), videos)
        hits.append(found.low <= 0 <= found.high)
    assert 0.91 < np.mean(hits) < 0.99


def test_median_of_equal_values_is_certain() -> None:
    videos = [(f"{n}", f"{n + 100}") for n in range(20)]
    assert median_interval([-100.0] * 20, videos) == (-100, -100, -100)
    most = median_interval([-100.0] * 19 + [-3.0], videos)
    assert (most.mean, most.low) == (-100, -100)
    assert most.high == -100


def test_median_of_few_independent_mixtures_has_no_interval() -> None:
    videos = [(f"{n}", f"{n + 100}") for n in range(MIN_INDEPENDENT - 1)]
    assert median_interval([1.0, 2.0, 3.0, 4.0, 9.0], videos) == (3, None, None)
