"""Intervals over seeds and videos."""

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind

from benchmarks.intervals import DESIGNS, SPREADS, Spread, measure, simulate
from sop.evaluate.intervals import MIN_INDEPENDENT, mean_interval
from sop.report.seed_intervals import runs_interval

APART = [(f"{n}a", f"{n}b") for n in range(30)]


@pytest.mark.parametrize("spread", SPREADS[:3], ids=lambda spread: spread.name)
def test_intervals_contain_the_difference_as_often_as_they_claim(spread: Spread) -> None:
    """`python -m benchmarks.intervals` simulates more, and more designs."""
    few_videos = DESIGNS[1]
    found = measure(few_videos, spread, 60)
    # 95 % within three standard deviations of the count.
    assert found.ours > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)
    if spread.name == "mostly seeds":
        assert found.one_run is not None
        assert found.one_run < 0.7, "one run of each does not know the seeds"


def test_one_run_of_each_is_the_interval_over_videos() -> None:
    one = simulate(DESIGNS[0], SPREADS[0], np.random.default_rng(0))
    found = runs_interval(one.values[[0, 3]], one.videos, [0, 1])
    expected = mean_interval(one.values[3] - one.values[0], one.videos)
    assert found.interval == pytest.approx(expected)
    assert not found.seeds
    alone = runs_interval(one.values[:1], one.videos, [0])
    assert alone.interval == pytest.approx(mean_interval(one.values[0], one.videos))


def test_runs_that_differ_by_a_constant_have_the_interval_of_a_t_test() -> None:
    """Where videos do not matter, the means of the runs are independent samples."""
    difficulty = np.random.default_rng(1).normal(size=30)
    a, b = [0.0, 1.0, 2.0], [2.0, 3.5, 4.0]
    values = np.array([difficulty + one for one in (*a, *b)])
    low, high = runs_interval(values, APART, [0, 0, 0, 1, 1, 1]).interval[1:]
    equal = ttest_ind(b, a).confidence_interval()
    different = ttest_ind(b, a, equal_var=False).confidence_interval()
    assert different.low < low < equal.low
    assert equal.high < high < different.high


def test_single_run_is_as_variable_as_the_other_group() -> None:
    values = np.array([np.zeros(30) + one for one in (0.0, 2.0, 3.0, 4.0)])
    found = runs_interval(values, APART, [0, 1, 1, 1])
    half = student.ppf(0.975, 2) * np.sqrt(1 / 3 + 1)
    assert found.interval == pytest.approx((3, 3 - half, 3 + half))
    assert found.seeds


def test_order_of_runs_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    for design in DESIGNS[1:3]:  # paired, and each setting with its own mixtures
        one = simulate(design, SPREADS[0], rng)
        found = runs_interval(one.values, one.videos, one.groups)
        runs = rng.permutation(len(one.values))
        again = runs_interval(one.values[runs], one.videos, [one.groups[at] for at in runs])
        assert again.interval == pytest.approx(found.interval)
        back = runs_interval(one.values, one.videos, [1 - group for group in one.groups])
        assert back.interval[0] == pytest.approx(-found.interval[0])


def test_pairing_makes_the_interval_narrow() -> None:
    rng = np.random.default_rng(3)
    paired, unpaired = (simulate(design, SPREADS[4], rng) for design in (DESIGNS[0], DESIGNS[2]))
    width = [
        np.ptp(runs_interval(one.values, one.videos, one.groups).interval[1:])
        for one in (paired, unpaired)
    ]
    assert width[0] < width[1] / 2


def test_no_interval_of_few_independent_mixtures() -> None:
    videos = [("a", f"{n}") for n in range(30)]
    values = np.random.default_rng(4).normal(size=(4, 30))
    found = runs_interval(values, videos, [0, 0, 1, 1])
    assert found.interval[1:] == (None, None)
    assert found.independent == 1 < MIN_INDEPENDENT
    same = runs_interval(np.ones((4, 30)), APART, [0, 0, 1, 1])
    assert same.interval == (0, 0, 0)
