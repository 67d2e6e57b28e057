"""The sections on the evaluation, from records of mixtures that are hard to measure."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sop.evaluate.intervals import Interval
from sop.evaluate.measures import MEASURES
from sop.evaluate.records import Record, record_paths, write_record
from sop.localize.frames import FrameResult, frames_summary
from sop.localize.measures import localization_summary
from sop.params import Params
from sop.report.page import MixtureFiles, PageContent, Table, Text, write_page
from sop.report.sections.evaluation import (
    Evaluation,
    localization_section,
    mixture_section,
    result_section,
    scale_section,
    scale_steps,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(seed: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(16383)).astype(np.float32)


def evaluation(folder: Path, sources: list[np.ndarray], params: Params) -> Evaluation:
    """Return an evaluation of mixtures of given sources, separated by masks of one half."""
    for number, pair in enumerate(sources):
        masks = np.full((2, 256, 32), 0.6, np.float32)
        write_record(folder, Record(number, ("flute/a", "cello/b"), np.stack(pair), masks))
    scores = pd.DataFrame({"mixture": np.repeat(range(len(sources)), 2)})
    return Evaluation({}, scores, record_paths(folder))


def test_ideal_masks_that_are_empty_are_measured(tmp_path: Path, tiny_params: Params) -> None:
    """No bin belongs to a quiet source beside loud noise, nor to two sources that are the same."""
    quiet = 10 ** (-59 / 20) * noise(0) / 0.2
    made = evaluation(tmp_path, [[quiet, noise(1)], [noise(2), noise(2)]], tiny_params)
    steps, count = scale_steps(made, None, None, tiny_params)
    assert count == 2
    by_name = {step.name.partition(" (")[0]: step for step in steps}
    assert by_name["Ideal binary masks"].silent == 3
    assert by_name["Mixture"].silent == by_name["Model"].silent == 0
    for step in steps:
        assert np.isfinite([step.sdr, step.sir]).all()
    assert scale_section(steps, count, is_held_out=False).blocks


def test_steps_of_the_scale_name_their_mixtures(tmp_path: Path, tiny_params: Params) -> None:
    """The mean of the section `Result` is over other mixtures, so the same name would mislead."""
    pairs = [[noise(2 * n), noise(2 * n + 1)] for n in range(3)]
    made = evaluation(tmp_path, pairs, tiny_params)
    held_out = pd.DataFrame({"mixture": [1, 2]})
    steps, count = scale_steps(made, held_out, None, tiny_params)
    assert count == 2
    assert [step.name for step in steps] == [
        f"{name} (2 held-out mixtures)"
        for name in ("Mixture", "Model", "Ideal binary masks", "Ideal ratio masks")
    ]
    (table,) = (b for b in scale_section(steps, 2, True).blocks if isinstance(b, Table))
    assert [row[0] for row in table.rows] == [step.name for step in steps]
    alone, _ = scale_steps(made, None, None, tiny_params)
    assert alone[1].name == "Model (3 mixtures)"


def test_silent_estimates_are_shown(tmp_path: Path) -> None:
    metrics = {name: {"mean": 1.0, "median": 2.0} for name in MEASURES}
    metrics |= {"sar": {"mean": None, "median": None}, "silent_estimates": 2}
    counts = {"counted": 4, "left_out": 0, "reasons": {}}
    section = result_section(metrics | {"mixtures": counts})
    lead = section.blocks[0]
    assert isinstance(lead, Text)
    assert lead.text == "Means over the sources of 4 mixtures; 2 silent estimates."
    row = {name: [1.0, 0.0] for name in MEASURES} | {"sar": [3.0, np.nan]}
    names = {"category": ["flute", "cello"], "video": ["flute/a", "cello/b"]}
    scores = pd.DataFrame({"mixture": [0, 0], "source": [1, 2], **names, **row, "silent": [0, 1]})
    files = {0: MixtureFiles({"sound": "mixture.flac"}, [{}, {}])}
    page = write_page(tmp_path, PageContent("t", [section, mixture_section(scores, files)]))
    text = page.read_text(encoding="utf-8")
    assert '"silent":true' in text.replace(" ", "")
    assert '"shown":true' in text.replace(" ", "")


def with_motion(metrics: dict[str, Any], silent: bool = True) -> dict[str, Any]:
    """Return metrics of an evaluation that was asked for mixtures of one category."""

    def separated(mean: float, change: float | None = None) -> dict[str, Any]:
        improvement = {"mean": mean, "median": mean, "low": mean - 1, "high": mean + 1}
        lost = {"mean": change, "low": None, "high": None} if change else None
        counts = {"counted": 9, "left_out": 0, "reasons": {}}
        return {"sdr_improvement": improvement, "mixtures": counts} | (
            {"change": lost} if change else {}
        )

    def leak(median: float) -> dict[str, Any]:
        bounds = {"low": median - 1, "high": median + 1, "below_20_db": 0.25}
        return {"median": median, **bounds, "mixtures": {"counted": 5, "left_out": 0}}

    control = {
        "seconds": 1.5,
        "different": separated(6.5, -0.5),
        "same_category": separated(-4.0, -7.0),
    }
    found = {"same_category": separated(3.0), "shifted": control}
    if silent:
        found["silent_leak"] = {name: leak(-11.0) for name in ("different", "resting")}
        control["silent_leak"] = {"different": leak(-7.0)}
    return metrics | separated(7.0) | found


def test_what_motion_adds_is_shown_if_it_is_measured(tmp_path: Path) -> None:
    plain = {name: {"mean": 1.0, "median": 2.0} for name in MEASURES}
    plain |= {"mixtures": {"counted": 4, "left_out": 0, "reasons": {}}}
    assert not any(isinstance(block, Table) for block in result_section(plain).blocks)

    section = result_section(with_motion(plain))
    separated, silent = (block for block in section.blocks if isinstance(block, Table))
    different, same = separated.rows
    assert different[1:3] == [Interval(7.0, 6.0, 8.0), Interval(6.5, 5.5, 7.5)]
    assert same[1:3] == [Interval(3.0, 2.0, 4.0), Interval(-4.0, -5.0, -3.0)]
    assert same[3] == Interval(-7.0, None, None)
    other, resting = silent.rows
    assert other[1:] == [Interval(-11, -12, -10), 0.25, Interval(-7, -8, -6), 0.25, 5]
    # Nobody was at rest in the few mixtures of the control.
    assert resting[1:] == [Interval(-11, -12, -10), 0.25, None, None, 5]
    text = write_page(tmp_path, PageContent("t", [section])).read_text(encoding="utf-8")
    for part in ("What motion adds", "frames 1.5 s late", "Below \N{MINUS SIGN}20 dB", "[too few]"):
        assert part in text
    # Videos of one category: the main mixtures are of it, and nothing is said of others.
    found = with_motion(plain)
    del found["same_category"]
    control = found["shifted"]
    control["same_category"] = control.pop("different")
    for of in (found, control):
        of["silent_leak"] = {"same_category": of["silent_leak"]["different"]}
    section = result_section(found)
    separated, silent = (block for block in section.blocks if isinstance(block, Table))
    assert separated.rows == [["One category", *different[1:]]]
    assert [row[0] for row in silent.rows] == ["Beside its own category"]
    text = write_page(tmp_path, PageContent("t", [section])).read_text(encoding="utf-8")
    assert "ifferent categories" not in text
    [alone] = (b for b in result_section(with_motion(plain, False)).blocks if isinstance(b, Table))
    assert alone.title == "What motion adds"


def test_localization_in_frames_of_real_videos_is_shown() -> None:
    """Also without videos that are measured as a whole, as with lists from the web."""
    plain = localization_summary([], {})
    assert not localization_section(plain).blocks
    results = [FrameResult("a", False, (True,), (0.4,), 0.61), FrameResult("b", True, (), (), 0.2)]
    boxes = frames_summary(results, {"no box": 1})
    (table,) = localization_section(plain | {"boxes": boxes}).blocks
    assert isinstance(table, Table)
    assert [column.name for column in table.columns[1:]] == ["solo (1)", "duet (1)"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["A region points at every box"] == [1, 1]
    assert rows["Boxes of region and instrument overlap by 0.3 or more"] == [1, None]
    assert rows["Maps (CIoU) overlap by 0.5 or more"] == [1, 0]
    assert rows["Area under the curve of CIoU"][0] == pytest.approx(0.625)
