"""What the page says first: numbers with their protocol, sounds, and where the separation fails."""

import numpy as np
import pandas as pd
import pytest

from sop.evaluate.intervals import mean_interval
from sop.evaluate.measures import MEASURES
from sop.params import Params
from sop.report.page import Chart, Figure, MixtureFiles, Text
from sop.report.sections.denoise import denoise_section
from sop.report.sections.evaluation import result_section
from sop.report.sections.failures import failure_section
from sop.report.sections.protocol import protocol
from sop.report.sections.sounds import MEDIAN, WORST, sounds_of
from sop.report.sections.training import training_section
from tests.report.test_page import denoise_metrics, denoise_tables, made_up_scores
from tests.support.experiment import with_values

FILES = {
    number: MixtureFiles(
        {"sound": f"{number}.flac"},
        [{"separated": f"{number}-{k}.flac", "true": f"{number}-{k}-true.flac"} for k in (1, 2)],
    )
    for number in range(9)
}


def figures_of(scores: pd.DataFrame) -> list[Figure]:
    metrics = {
        name: {"mean": float(scores[name].mean()), "median": 0.0}
        for name in MEASURES
        if name in scores
    }
    counts = {"mixtures": {"counted": 40, "left_out": 0, "reasons": {}}}
    blocks = result_section(metrics | counts, scores).blocks
    return next(block for block in blocks if isinstance(block, list))


def test_intervals_of_the_results_are_over_videos() -> None:
    scores = made_up_scores(40)
    by_mixture = scores.groupby("mixture")
    videos = [tuple(names) for _, names in by_mixture["video"]]
    for figure, name in zip(figures_of(scores), ("sdr", "sir", "sar"), strict=False):
        expected = mean_interval(by_mixture[name].mean().to_numpy(), videos)
        assert figure.interval is not None
        np.testing.assert_allclose(figure.interval, expected)


def test_interval_contains_the_mean_that_is_shown() -> None:
    """A silent estimate has no SAR: the mean over sources is not that over mixtures."""
    scores = made_up_scores(40)
    scores.loc[scores.index % 7 == 0, "sar"] = np.nan
    (sar,) = (figure for figure in figures_of(scores) if figure.name == "SAR")
    assert sar.interval is not None and sar.mean == sar.interval.mean
    assert sar.interval.mean - sar.interval.low == pytest.approx(sar.interval.high - sar.mean)


def test_few_mixtures_have_no_interval() -> None:
    assert [figure.interval for figure in figures_of(made_up_scores(4))][:3] == [None] * 3


def test_protocol(tiny_params: Params) -> None:
    scores = made_up_scores(40)
    text = protocol(scores, tiny_params)
    videos = scores["video"].nunique()
    for part in (
        f"40 mixtures of 2 videos of different categories, from {videos} validation videos",
        "evaluate.seed",
        "the middle 1.49 s of each video at 11.025 kHz",
        "masks are 1 above 0.5",
        "One training run (train.seed",
        "intervals are over videos",
    ):
        assert part in text
    other = with_values(tiny_params, {"mixture.same_category": True, "evaluate.mask_power": 2.0})
    assert "of any categories" in protocol(scores, other)
    assert "shares of the masks to the power 2;" in protocol(scores, other)
    lists = {"index.split.test": "t.csv", "index.split.train": "a.csv", "evaluate.pairs": "p.csv"}
    counts = {
        "measured_on": "test",
        "test_videos": 25,
        "test_videos_in_training": 2,
        "mixtures": 250,
    }
    counts |= {"distinct_mixtures": 203, "mixtures_with_training_videos": 33}
    listed = protocol(scores, with_values(tiny_params, lists), counts)
    assert f"from {videos} test videos, listed in p.csv; the listed or middle" in listed
    assert "2 of 25 test videos are in training, too; 203 of 250 listed mixtures" in listed
    assert listed.endswith("are distinct, 33 have such a video.")
    alone = scores.assign(category="flute")
    assert "of one category" in protocol(alone, other)


def test_sounds_of_the_typical_and_the_worst_mixture() -> None:
    scores = made_up_scores(40)
    means = scores[scores["mixture"] < 9].groupby("mixture")["sdr"].mean().sort_values()
    for which, number in ((MEDIAN, means.index[4]), (WORST, means.index[0])):
        found = sounds_of(scores, FILES, which)
        assert found is not None and found.number == number
        assert [path for _, path in found.sounds] == [
            f"{number}.flac",
            *(f"{number}-{k}{end}.flac" for k in (1, 2) for end in ("", "-true")),
        ]
        first = scores.loc[scores["mixture"] == number, "category"].iloc[0]
        assert [name for name, _ in found.sounds][1:3] == [f"{first}, separated", f"{first}, true"]
        assert "of 9 mixtures with sounds" in found.note


def test_hyphen_of_a_category_is_no_minus_sign() -> None:
    scores = made_up_scores(40).assign(category="steel -drum", sdr=-1.5)
    found = sounds_of(scores, FILES, WORST)
    assert found is not None
    assert found.note.startswith("SDR: steel -drum \N{MINUS SIGN}1.50 dB, steel -drum ")


def test_mixtures_without_sounds_are_not_offered() -> None:
    scores = made_up_scores(40)
    assert sounds_of(scores, {}, MEDIAN) is None
    silent = {3: MixtureFiles({"sound": "3.flac"}, [{}, {}])}
    assert sounds_of(scores, silent, WORST) is None
    assert sounds_of(scores.assign(sdr=np.nan), FILES, MEDIAN) is None


def test_failures_name_the_worst_categories() -> None:
    scores = made_up_scores(40).replace({"category": {"tuba": "bass-tuba"}})
    scores["sdr"] = (
        scores["category"].map({"cello": -3.0, "flute": 1.0, "bass-tuba": 2.5}).fillna(9.0)
    )
    scores["sdr_improvement"] = np.where(scores["category"] == "cello", -1.0, 1.0)
    lead = failure_section(scores, FILES).blocks[0]
    assert isinstance(lead, Text)
    lowest = "cello \N{MINUS SIGN}3.00 dB, flute 1.00 dB, bass-tuba 2.50 dB"
    assert f"Lowest mean SDR by category: {lowest}." in lead.text
    worse = int((scores["category"] == "cello").sum())
    assert f"{worse} of 80 sources are worse than the mixture itself." in lead.text


def test_validation_curves_say_how_many_mixtures_they_use(tmp_path) -> None:
    for name in ("train/loss", "validation/loss", "validation/sdr", "train/learning_rate"):
        path = tmp_path / f"{name}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("step\tvalue\n1\t0.5\n2\t0.25\n")
    captions = [block.caption for block in training_section(tmp_path, 24).blocks]
    used = "Each validation uses 24 mixtures, the same each time."
    assert captions == [used, used, ""]


def test_settings_that_cost_sir_are_marked() -> None:
    """All maps have one scale of colours, whose legend comes first."""
    sweep, held_out = denoise_tables()
    sweep["sir_low"] = np.where(np.arange(len(sweep)) % 2, -0.11, -0.09)
    blocks = denoise_section(denoise_metrics(), sweep, held_out).blocks
    at = next(k for k, block in enumerate(blocks) if getattr(block, "title", "") == "All settings")
    legend, *maps = (block for block in blocks[at:] if isinstance(block, Chart))
    assert "cost more than 0.1 dB of SIR" in legend.caption
    domain = legend.spec["encoding"]["color"]["scale"]["domain"]
    assert domain[1] == pytest.approx(sweep["sdr_change"].abs().max())
    marked = 0
    for chart in maps:
        assert chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == domain
        marked += sum("excluded" in value for value in chart.spec["data"]["values"])
    assert marked == (sweep["sir_low"] < -0.1).sum()
