"""The sections on the evaluation, from records of mixtures that are hard to measure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sop.evaluate.measures import MEASURES
from sop.evaluate.records import Record, record_paths, write_record
from sop.params import Params
from sop.report.page import MixtureFiles, PageContent, Table, Text, write_page
from sop.report.sections.evaluation import (
    Evaluation,
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
