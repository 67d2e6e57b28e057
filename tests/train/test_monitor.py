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
from sop.train.monitor import Clock, History, opened

BATCH = Batch(torch.zeros(1), torch.zeros(1), ())


class Time:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(monitor, "time", time)
    return time


def test_clock_tells_speed_waiting_and_time_left_without_the_start(time: Time) -> None:
    def batches() -> object:
        time.now += 60
        for _ in range(5):
            yield BATCH
            time.now += 1

    clock = Clock(batch_size=8)
    for _ in clock.waiting(batches()):
        time.now += 3
    # Five steps of 3 s, four of them waited for by 1 s, and one more look at the end.
    assert clock.waiting_share == pytest.approx(4 / 20)
    assert clock.speed == pytest.approx(5 * 8 / 20)
    assert clock.seconds_left(10) == pytest.approx(40)


def test_it_is_time_to_save_every_so_many_seconds(time: Time) -> None:
    clock = Clock(batch_size=1)
    found = []
    for _ in range(6):
        time.now += 4
        found.append(clock.is_time_to_save(10))
    assert found == [False, False, True, False, False, True]
    assert clock.is_time_to_save(0)


def test_history_is_logged_when_looked_at_and_again_after_a_stop(tmp_path: Path) -> None:
    tables = []
    entries = None
    for run in ("whole", "continued"):
        with Live(str(tmp_path / run), save_dvc_exp=False, dvcyaml=None) as live:
            history = History(live)
            first = 1
            if entries is not None:
                history.restore(entries)
                first = 3
            for step in range(first, 5):
                history.add(step, torch.tensor(1.0 / step), 0.1 * step)
                if step == 2:
                    assert history.flush() == [(1, 1.0), (2, 0.5)]
                    assert history.flush() == []
                    history.measured(2, {"sdr": 3.0})
                    entries = history.content()
            history.flush()
            assert history.last == 0.25
            history.end(unreadable=7)
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
def test_results_are_written_where_there_is_no_commit_to_compare_with_or_it_is_said(
    has_git: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if has_git:
        subprocess.run(["git", "init", "--quiet"], check=True)
        with pytest.raises(UserError, match=r"^git: Empty git repo; .*`git commit`$"):
            opened("metrics")
        return
    with opened("metrics") as live:
        History(live).measured(1, {"sdr": 2.0})
    assert json.loads(Path("metrics/metrics.json").read_text())["validation"]["sdr"] == 2


def test_history_of_a_process_that_does_not_lead_and_of_a_loss_that_is_not_finite(
    tmp_path: Path,
) -> None:
    history = History(None)
    history.add(1, torch.tensor(math.nan), 0.1)
    assert math.isnan(history.flush()[0][1])
    history.measured(1, {"sdr": 1.0})
    history.end(0)
    with Live(str(tmp_path), save_dvc_exp=False, dvcyaml=None) as live:
        history = History(live)
        history.add(1, torch.tensor(math.inf), 0.1)
        history.flush()
    assert not list(tmp_path.rglob("loss.tsv"))
