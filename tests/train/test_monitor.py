import json
import math
import subprocess
from pathlib import Path

import pytest
import torch
from dvclive.live import Live

from sop.dataset.mixtures import Batch
from sop.runtime.errors import UserError
from sop.train import monitor
from sop.train.monitor import MetricLog, Throughput, open_live

BATCH = Batch(torch.zeros(1), torch.zeros(1), (), torch.ones(1, dtype=torch.bool))


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(monitor, "time", time)
    return time


def test_throughput_excludes_the_start(time: Time) -> None:
    def batches() -> object:
        time.now += 60
        for _ in range(5):
            yield BATCH
            time.now += 1

    throughput = Throughput(batch_size=8)
    for _ in throughput.timed(batches()):
        time.now += 3
    # Five steps of 3 s, and five waits of 1 s, the last of them for the end.
    assert throughput.waiting_fraction == pytest.approx(4 / 20)
    assert throughput.speed == pytest.approx(5 * 8 / 20)


def test_metrics_are_logged_again_after_an_interruption(tmp_path: Path) -> None:
    tables = []
    state = None
    for run in ("whole", "continued"):
        with Live(str(tmp_path / run), save_dvc_exp=False, dvcyaml=None) as live:
            log = MetricLog(live)
            first = 1
            if state is not None:
                for entry in state:
                    log.log(*entry)
                first = 3
            for step in range(first, 5):
                log.add_step(step, torch.tensor(1.0 / step), 0.1 * step)
                if step == 2:
                    assert log.flush() == [(1, 1.0), (2, 0.5)]
                    assert log.flush() == []
                    log.add_validation(2, {"sdr": 3.0})
                    state = list(log.entries)
            log.flush()
            assert log.last_loss == 0.25
            log.add_left_out(7)
        plots = tmp_path / run / "plots" / "metrics"
        tables.append({path.name: path.read_text() for path in plots.rglob("*.tsv")})
        assert json.loads((tmp_path / run / "metrics.json").read_text())["train"]["left_out"] == 7
    assert tables[0] == tables[1]
    assert tables[0]["loss.tsv"].splitlines()[1:] == [
        "0\t1.0",
        "1\t0.5",
        "2\t0.3333333432674408",
        "3\t0.25",
    ]
    assert tables[0]["learning_rate.tsv"].splitlines()[1:3] == ["0\t0.1", "1\t0.2"]
    assert tables[0]["sdr.tsv"].splitlines()[1:] == ["1\t3.0"]


@pytest.mark.parametrize("has_git", [True, False])
def test_results_without_git_or_without_a_commit(
    has_git: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if has_git:
        subprocess.run(["git", "init", "--quiet"], check=True)
        with pytest.raises(UserError, match=r"^git: Empty git repo; .*`git commit`$"):
            open_live("metrics")
        return
    with open_live("metrics") as live:
        MetricLog(live).add_validation(1, {"sdr": 2.0})
    assert json.loads(Path("metrics/metrics.json").read_text())["validation"]["sdr"] == 2


def test_metrics_of_other_ranks_and_of_losses_that_are_not_finite(tmp_path: Path) -> None:
    log = MetricLog(None)
    log.add_step(1, torch.tensor(math.nan), 0.1)
    assert math.isnan(log.flush()[0][1])
    log.add_validation(1, {"sdr": 1.0})
    log.add_left_out(0)
    with Live(str(tmp_path), save_dvc_exp=False, dvcyaml=None) as live:
        log = MetricLog(live)
        log.add_step(1, torch.tensor(math.inf), 0.1)
        log.flush()
    assert not list(tmp_path.rglob("loss.tsv"))


def test_measure_without_values_has_a_table_for_dvc(tmp_path: Path) -> None:
    """SAR has no value if all estimates are silent; DVC reports a missing table as a failure."""
    table = tmp_path / "plots/metrics/validation/sar.tsv"
    with Live(str(tmp_path), save_dvc_exp=False, dvcyaml=None) as live:
        log = MetricLog(live)
        log.add_validation(1, {"sdr": -1.0, "sar": math.nan})
        assert table.read_text() == "step\tsar\n"
        log.add_validation(2, {"sdr": 1.0, "sar": 2.0})
    assert table.read_text() == "step\tsar\n1\t2.0\n"
