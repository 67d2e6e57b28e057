import json
from pathlib import Path

import pytest

from sop.runtime.metrics_files import write_metrics


def test_only_what_is_compared_is_in_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "sdr": {"mean": 1.0, "low": 0.5},
        "sdr_mixture": {"mean": 0.0},
        "silent_estimates": 0,
        "mixtures": {"counted": 3, "reasons": {"1": "silent"}},
        "category": {"flute": {"sdr": 2.0}},
        "pointing": {"solo": 1.0, "duet": 0.5},
    }
    keys = ("sdr.mean", "silent_estimates", "mixtures.counted", "pointing", "absent.mean")
    write_metrics("evaluate", values, keys)
    assert json.loads(Path("metrics/details/evaluate.json").read_text()) == values
    assert json.loads(Path("metrics/evaluate.json").read_text()) == {
        "sdr": {"mean": 1.0},
        "silent_estimates": 0,
        "mixtures": {"counted": 3},
        "pointing": {"solo": 1.0, "duet": 0.5},
    }
