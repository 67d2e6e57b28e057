import json
from pathlib import Path

from sop.runtime.metrics_files import write_metrics


def test_details_are_kept_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "sdr": {"mean": 1.0},
        "mixtures": {"counted": 3, "reasons": {"1": "silent"}},
        "category": {"flute": {"sdr": 2.0}},
    }
    write_metrics("evaluate", values, details=("category", "reasons"))
    assert json.loads(Path("metrics/details/evaluate.json").read_text()) == values
    brief = {"sdr": {"mean": 1.0}, "mixtures": {"counted": 3}}
    assert json.loads(Path("metrics/evaluate.json").read_text()) == brief
