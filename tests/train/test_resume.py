"""Training that is interrupted, killed, or shared by processes."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sop.dataset.index import Video
from sop.model.checkpoint import load_checkpoint
from sop.params import Params
from sop.train.distributed import launch
from sop.train.resume import ResumeCheckpoint, run_identity
from tests.support.disks import largest_file
from tests.support.experiment import ROOT, with_values
from tests.support.stress import repeats

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = repeats(6, 50)
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}

# Runs are forked: they need no time for imports, so that kills hit the training itself.
RUNS = """
import os, pickle, random, signal, socket, sys, time
from pathlib import Path

import torch

from sop.runtime.log import show_log
from sop.train.distributed import process_group
from sop.train.trainer import RunFolders, Trainer

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(1)


def forked(root, name, **environment):
    root.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ.update(environment)
        os.dup2(os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        sys.stdout.reconfigure(line_buffering=True)
        show_log()
        torch.set_num_threads(1)
        params, videos = pickle.loads((folder / name).read_bytes())
        folders = RunFolders(root / "model", root / "resume", root / "live")
        try:
            with process_group("cpu") as group:
                Trainer(params, videos[:-4], videos[-4:], folders, group).run()
        except SystemExit as stop:
            os._exit(stop.code)
        os._exit(0)
    return child


def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_new(path, child):
    before = path.stat().st_mtime_ns if path.exists() else 0
    while not path.exists() or path.stat().st_mtime_ns == before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.02)


assert status(forked(folder / "undisturbed", "short")) == 0

root, killed = folder / "killed", 0
while killed < kills:
    child = forked(root, "short")
    if killed % 3 == 0:
        # During setup, or at any step.
        time.sleep(rng.uniform(0.3, 2))
    else:
        wait_for_new(root / "resume" / "train.pt", child)
        time.sleep(rng.uniform(0, 0.3))
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    killed += status(child) != 0
    if not (root / "resume" / "train.pt").exists() and (root / "model" / "best.pt").exists():
        # The run ended: begin another one, so that every kill hits a run.
        for file in (root / "model").iterdir():
            file.unlink()
assert status(forked(root, "short")) == 0

for number in (signal.SIGTERM, signal.SIGINT):
    root = folder / number.name
    child = forked(root, "long")
    wait_for_new(root / "model" / "last.pt", child)
    # To all processes of the group, as a terminal does.
    os.killpg(child, number)
    (root / "status").write_text(str(status(child)))

with socket.create_server(("127.0.0.1", 0)) as server:
    port = str(server.getsockname()[1])
for size in (1, 2):
    group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        forked(folder / f"{size}-ranks", "shared", RANK=rank, LOCAL_RANK=rank, **group)
        for rank in "01"[:size]
    ]
    assert [status(child) for child in ranks] == [0] * size
"""


def results(root: Path) -> dict[str, Any]:
    """Return models and metrics of a run."""
    found: dict[str, Any] = {}
    for path in sorted((root / "model").iterdir()):
        content = load_checkpoint(path)
        found |= {f"{path.name} {name}": value for name, value in content.pop("model").items()}
        found[path.name] = content
    for path in sorted((root / "live").rglob("*.tsv")):
        found[path.name] = path.read_text()
    found["metrics"] = json.loads((root / "live" / "metrics.json").read_text())
    return found


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


@pytest.fixture(scope="module")
def short(tiny_params: Params) -> Params:
    """Four epochs of four steps, and a checkpoint after each step."""
    return with_values(
        tiny_params,
        {
            "train.epochs": 4,
            "train.optimizer": "adamw",
            "train.schedule": "cosine",
            "train.ema_decay": 0.9,
            "checkpoint_seconds": 0.0,
            "model.mask": "ratio",
            "train.loss": "l1",
        },
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, short: Params, tiny_videos: list[Video]) -> Path:
    """Train undisturbed, killed repeatedly, stopped by signals, and with several ranks."""
    folder = tmp_path_factory.mktemp("runs")
    # No checkpoint except the one after the signal.
    long = with_values(short, {"checkpoint_seconds": 1e5, "train.epochs": 100})
    # Two micro-batches have their own batch statistics on one rank as well as on two.
    shared = with_values(
        short, {"train.micro_batches": 2, "train.epochs": 5, "train.ema_decay": None}
    )
    for name, params in (("short", short), ("long", long), ("shared", shared)):
        (folder / name).write_bytes(pickle.dumps((params, tiny_videos)))
    subprocess.run(
        [sys.executable, "-c", RUNS, folder, str(KILLS)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    return folder


@pytest.mark.slow
def test_killed_run_equals_an_undisturbed_one(runs: Path) -> None:
    log = (runs / "killed" / "log").read_text()
    resumed = sum(f"resuming after step {step}\n" in log for step in range(1, 16))
    assert resumed >= repeats(2, 5)
    assert_equal(results(runs / "killed"), results(runs / "undisturbed"))
    assert list((runs / "killed" / "resume").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_stop_signal_saves_a_checkpoint(runs: Path, number: signal.Signals) -> None:
    root = runs / number.name
    assert int((root / "status").read_text()) == SIGNALS[number]
    assert "the next run resumes there" in (root / "log").read_text()
    content = load_checkpoint(root / "resume" / "train.pt")
    assert content["state"]["step"] >= 4


def test_checkpoint_of_another_run_is_not_resumed(
    short: Params, tiny_videos: list[Video], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = run_identity(short, tiny_videos[:-4], tiny_videos[-4:])
    path = tmp_path / "train.pt"
    assert ResumeCheckpoint(path, identity).load() is None
    assert ResumeCheckpoint(path, identity).save({"step": 3})
    assert ResumeCheckpoint(path, identity).load() == {"step": 3}
    assert capsys.readouterr().out == ""
    same = with_values(short, {"log_every": 7, "checkpoint_seconds": 9.0})
    assert run_identity(same, tiny_videos[:-4], tiny_videos[-4:]) == identity
    for values, said in (
        ({"train.epochs": 9}, "train.epochs 4 -> 9"),
        ({"train.seed": 5}, "train.seed 1234 -> 5"),
        ({"model.channels": 4}, "model.channels 8 -> 4"),
    ):
        other = run_identity(with_values(short, values), tiny_videos[:-4], tiny_videos[-4:])
        assert ResumeCheckpoint(path, other).load() is None
        out = capsys.readouterr().out
        assert "interrupted at step 3 cannot be resumed" in out
        assert said in out
    fewer = run_identity(short, tiny_videos[:-5], tiny_videos[-4:])
    assert ResumeCheckpoint(path, fewer).load() is None
    assert "data changed" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:100])
    assert ResumeCheckpoint(path, identity).load() is None
    assert "is not readable" in capsys.readouterr().out


def test_failed_save_keeps_the_previous_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ResumeCheckpoint(tmp_path / "train.pt", {"run": "1"})
    assert checkpoint.save({"step": 1})
    with largest_file(10_000):
        assert not checkpoint.save({"step": 2, "large": torch.zeros(100_000)})
    assert "cannot be written" in capsys.readouterr().out
    assert checkpoint.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["train.pt"]


def losses(root: Path) -> list[float]:
    table = (root / "live/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
    return [float(line.split("\t")[1]) for line in table]


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(runs: Path) -> None:
    expected = losses(runs / "1-ranks")
    assert len(expected) == 20
    assert losses(runs / "2-ranks") == pytest.approx(expected, abs=1e-4)
    assert expected[0] != expected[-1]


RANK = """
import os
from pathlib import Path

rank = os.environ["LOCAL_RANK"]
Path(__file__).with_name(f"rank-{rank}").write_text(os.environ["WORLD_SIZE"])
"""


@pytest.mark.slow
def test_launch_starts_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert launch("rank", 2) == 0
    assert {path.name for path in tmp_path.glob("rank-*")} == {"rank-0", "rank-1"}
    assert (tmp_path / "rank-1").read_text() == "2"
