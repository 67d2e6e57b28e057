"""The stages with motion, in one process: from rendered videos to the measures of who is heard."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sop.params import Params
from stages import download, evaluate, extract, index, localize, report, train
from tests.support.experiment import with_values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

WITH_MOTION = {
    "dataset.synthetic.same_duets": 2,
    "dataset.synthetic.resting_solos": 1,
    "extract.motion_rate": 16,
    "index.train_fraction": 0.4,
    "mixture.motion_size": 20,
    "model.motion": "synchrony",
    # After so few steps a binary mask may still be empty everywhere.
    "model.mask": "ratio",
    "train.loss": "l1",
    "train.same_category_share": 0.5,
    "train.silent_share": 0.3,
    "train.shifted_share": 0.2,
    "evaluate.same_category": 7,
    "evaluate.silent": 6,
    "report.players": 1,
}


def numbers(values: Any) -> list[float]:
    """Return all numbers in metrics."""
    if isinstance(values, dict):
        return [number for value in values.values() for number in numbers(value)]
    return [values] if isinstance(values, int | float) else []


def metrics(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        Path(f"metrics/details/{stage}.json").read_text(encoding="utf-8")
    )
    return found


def measured(summary: dict[str, Any]) -> int:
    """Return the number of mixtures of a summary, with those that were left out."""
    count: int = summary["mixtures"]["counted"] + summary["mixtures"]["left_out"]
    return count


def test_stages_with_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    params = with_values(tiny_params, WITH_MOTION)
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params.model_dump(), file)
    for stage in (download, extract, index, train, evaluate, localize, report):
        stage.main()

    found = metrics("evaluate")
    assert all(map(math.isfinite, numbers(found)))
    control = found["shifted"]
    assert control["seconds"] == 1.5
    for summary in (found, found["same_category"], control["different"], control["same_category"]):
        for name in ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement"):
            assert summary[name]["mean"] is not None
    assert measured(found) == 4
    assert measured(found["same_category"]) == 7
    # Shifted frames change the estimates, but not the sounds that these are compared with.
    for key, before in (("different", found), ("same_category", found["same_category"])):
        assert control[key]["change"]["mean"] != 0
        assert control[key]["mixtures"] == before["mixtures"]
        assert control[key]["sdr_mixture"]["mean"] == pytest.approx(before["sdr_mixture"]["mean"])
    for leaks in (found["silent_leak"], control["silent_leak"]):
        for kind in ("different", "same_category"):
            assert -100 < leaks[kind]["median"] < 6
            assert 0 <= leaks[kind]["below_20_db"] <= 1
            assert measured(leaks[kind]) == 6
    # To compare experiments by, there are no values of single categories.
    compared = json.loads(Path("metrics/evaluate.json").read_text(encoding="utf-8"))
    assert "category" not in str(compared).replace("same_category", "")
    records = list(Path("data/evaluate/records").iterdir())
    assert len(records) == found["mixtures"]["counted"]

    located = metrics("localization")
    assert located["regions_right"]["same_duet"] is not None
    assert located["who_is_heard"]["unheard_same"] is not None
    page = Path("data/report/index.html").read_text(encoding="utf-8")
    assert "What motion adds" in page
    assert len(list(Path("data/report").glob("mixtures/*/player/index.html"))) == 1
