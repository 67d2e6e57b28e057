"""Training that is stopped, killed, or shared by processes."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sop.dataset.index import Video
from sop.model.checkpoint import load_checkpoint
from sop.params import Params
from sop.train.resume import Unfinished, identity
from tests.support.experiment import ROOT, with_values

KILLS = 50

# Forks, so that no run needs seconds to import what it uses and kills meet the work itself.
RUNS = """
import os, pickle, random, signal, sys, time
from pathlib import Path

import torch
from dvclive.live import Live

from sop.train.distributed import Team
from sop.train.trainer import train

root, kills, longest = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
params, videos = pickle.loads((root.parent / "run.pickle").read_bytes())
rng = random.Random(1)


def run():
    torch.set_num_threads(1)
    team = Team(0, 1, torch.device("cpu"))
    with Live(str(root / "live"), save_dvc_exp=False, dvcyaml=None) as live:
        train(params, videos[:-4], videos[-4:], root / "model", root / "unfinished", team, live)


def forked():
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        sys.stdout.reconfigure(line_buffering=True)
        run()
        sys.stdout.flush()
        os._exit(0)
    return child


root.mkdir(exist_ok=True)
killed = 0
while killed < kills:
    child = forked()
    time.sleep(rng.uniform(0.3, longest))
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    killed += os.waitpid(child, 0)[1] != 0
    if not (root / "unfinished" / "train.pt").exists() and (root / "model" / "best.pt").exists():
        # It ended: begin again, so that every kill meets a run.
        for file in (root / "model").iterdir():
            file.unlink()
os.waitpid(forked(), 0)
"""


def write_run(folder: Path, params: Params, videos: list[Video]) -> None:
    (folder / "run.pickle").write_bytes(pickle.dumps((params, videos)))


def run(root: Path, kills: int, longest: float = 2.0) -> None:
    subprocess.run(
        [sys.executable, "-c", RUNS, root, str(kills), str(longest)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )


def left_behind(root: Path) -> dict[str, Any]:
    """Models, and the files of metrics."""
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


@pytest.fixture
def short(tiny_params: Params, tiny_videos: list[Video], tmp_path: Path) -> Params:
    """Four epochs of four steps, a checkpoint after each step."""
    params = with_values(
        tiny_params,
        {
            "train.epochs": 4,
            "train.optimizer": "adamw",
            "train.schedule": "cosine",
            "train.ema_decay": 0.9,
            "train.checkpoint_seconds": 0.0,
            "model.mask": "ratio",
            "train.loss": "l1",
        },
    )
    write_run(tmp_path, params, tiny_videos)
    return params


@pytest.mark.slow
def test_killed_fifty_times_the_model_and_its_metrics_are_those_of_an_undisturbed_run(
    short: Params, tmp_path: Path
) -> None:
    run(tmp_path / "undisturbed", 0)
    run(tmp_path / "killed", KILLS)
    log = (tmp_path / "killed" / "log").read_text()
    # In the middle of epochs, too.
    assert sum(f"going on after step {step}\n" in log for step in range(1, 16)) >= 5
    assert_equal(left_behind(tmp_path / "killed"), left_behind(tmp_path / "undisturbed"))
    assert list((tmp_path / "killed" / "unfinished").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop_it_makes_a_checkpoint_first(
    number: signal.Signals,
    status: int,
    short: Params,
    tiny_videos: list[Video],
    tmp_path: Path,
) -> None:
    # No checkpoint but the one that is asked for.
    params = with_values(short, {"train.checkpoint_seconds": 1e6, "train.epochs": 100})
    write_run(tmp_path, params, tiny_videos)
    code = RUNS.partition("root.mkdir(")[0] + "root.mkdir(exist_ok=True)\nrun()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run", "0", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "run").rglob("last.pt")):
        time.sleep(0.05)
    # As a terminal does it: to all processes of the group.
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "the next run goes on from there" in said
    content = load_checkpoint(tmp_path / "run" / "unfinished" / "train.pt")
    assert content["state"]["step"] >= 4


def test_another_runs_checkpoint_is_not_continued(
    short: Params, tiny_videos: list[Video], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = identity(short, tiny_videos[:-4], tiny_videos[-4:])
    place = tmp_path / "train.pt"
    assert Unfinished(place, mine).load() is None
    assert Unfinished(place, mine).save({"step": 3})
    assert Unfinished(place, mine).load() == {"step": 3}
    assert capsys.readouterr().out == ""
    shown = with_values(short, {"train.log_every": 7, "train.checkpoint_seconds": 9.0})
    assert identity(shown, tiny_videos[:-4], tiny_videos[-4:]) == mine
    for values, said in (
        ({"train.epochs": 9}, "train.epochs 4 -> 9"),
        ({"seed": 5}, "seed 1234 -> 5"),
        ({"model.channels": 4}, "model.channels 8 -> 4"),
    ):
        other = identity(with_values(short, values), tiny_videos[:-4], tiny_videos[-4:])
        assert Unfinished(place, other).load() is None
        out = capsys.readouterr().out
        assert "stopped at step 3 and is not continued" in out
        assert said in out
    fewer = identity(short, tiny_videos[:-5], tiny_videos[-4:])
    assert Unfinished(place, fewer).load() is None
    assert "data changed" in capsys.readouterr().out
    place.write_bytes(place.read_bytes()[:100])
    assert Unfinished(place, mine).load() is None
    assert "is not readable" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = Unfinished(tmp_path / "train.pt", {"run": "1"})
    assert unfinished.save({"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # As on a disk that is full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        assert not unfinished.save({"step": 2, "large": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot be written" in capsys.readouterr().out
    assert unfinished.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["train.pt"]


TEAM = """
import pickle, sys
from contextlib import nullcontext
from pathlib import Path

import torch
from dvclive.live import Live

from sop.train.distributed import joined
from sop.train.trainer import train

root = Path(sys.argv[1])
params, videos = pickle.loads((root.parent / "run.pickle").read_bytes())
torch.set_num_threads(1)
with (
    joined("cpu") as team,
    Live(str(root / "live"), save_dvc_exp=False, dvcyaml=None)
    if team.leads
    else nullcontext() as live,
):
    train(params, videos[:-4], videos[-4:], root / "model", root / "unfinished", team, live)
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    short: Params, tiny_videos: list[Video], tmp_path: Path
) -> None:
    # Two parts have batch statistics of their own in one process as well as in two, so that the
    # losses are the same without freezing them.
    params = with_values(
        short, {"train.micro_batches": 2, "train.epochs": 5, "train.ema_decay": None}
    )
    write_run(tmp_path, params, tiny_videos)
    script = tmp_path / "team.py"
    script.write_text(TEAM)
    losses = []
    for processes in (1, 2):
        root = tmp_path / str(processes)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        subprocess.run(
            [sys.executable, *launcher, script, root],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=300,
        )
        table = (root / "live/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
        losses.append([float(line.split("\t")[1]) for line in table])
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[0][0] != losses[0][-1]
