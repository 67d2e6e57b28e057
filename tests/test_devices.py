"""Training, evaluation and separation on a GPU, or on the CPU if this machine has none.

`benchmarks/gpu.sh` runs these tests. The variable SOP_TEST_DEVICE names another device.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sop.cli.main import main
from sop.dataset.index import Video
from sop.evaluate.records import evaluation_rule
from sop.evaluate.validation import Score, SeparatedMixture, separate_mixtures
from sop.model.checkpoint import save_player
from sop.model.pixelplayer import build
from sop.params import Params
from sop.separate.api import Separator
from sop.train.distributed import ProcessGroup
from sop.train.trainer import RunFolders, Trainer
from tests.support.experiment import ROOT, with_values
from tests.support.planted import HIGH_HZ, LOW_HZ, film

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

DEVICE = os.environ.get("SOP_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")

# Convolutions in float32 use TF32 on a GPU, whose factors have 10 bits.
TF32_DECIBELS = -40.0
TF32_LOSS = 0.01

# A program of its own: a GPU cannot be used in forks.
RUN = """
import pickle, sys
from pathlib import Path

import torch

from sop.runtime.log import show_log
from sop.train.distributed import process_group
from sop.train.trainer import RunFolders, Trainer

show_log()
torch.set_num_threads(1)
root = Path(sys.argv[1])
params, videos = pickle.loads((root / "run").read_bytes())
folders = RunFolders(root / "model", root / "resume", root / "live")
with process_group(params.device) as group:
    Trainer(params, videos[:-4], videos[-4:], folders, group).run()
"""


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    """Ratio masks: one bit more or less does not make a mask of them another one."""
    values = {
        "device": DEVICE,
        "model.mask": "ratio",
        "train.loss": "l1",
        # PyTorch 2.15 writes beyond its memory where 4 channels are channels_last (AVX2).
        "model.vision_width": 8,
        "model.sound_width": 8,
    }
    return with_values(tiny_params, values)


def train(folder: Path, params: Params, videos: list[Video]) -> list[float]:
    """Train, and return the losses."""
    folders = RunFolders(*(folder / name for name in ("model", "resume", "live")))
    group = ProcessGroup(0, 1, torch.device(DEVICE))
    trainer = Trainer(params, videos[:-4], videos[-4:], folders, group)
    assert next(trainer.state.player.parameters()).device.type == DEVICE
    trainer.run()
    return losses(folder)


def losses(folder: Path) -> list[float]:
    table = (folder / "live/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
    return [float(line.split("\t")[1]) for line in table]


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory,
    params: Params,
    tiny_videos: list[Video],
    one_thread: None,
) -> Path:
    """Train four steps in float32."""
    folder = tmp_path_factory.mktemp("plain")
    found = train(folder, params, tiny_videos)
    assert len(found) == 4
    assert len(set(found)) == 4
    return folder


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    return float(10 * np.log10(np.square(error).sum() / np.square(of).sum() + 1e-20))


def test_training_in_bfloat16(
    params: Params,
    plain: Path,
    tiny_videos: list[Video],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = with_values(params, {"train.precision": "bfloat16"})
    found = train(tmp_path, half, tiny_videos)
    assert f"on {DEVICE} in bfloat16" in capsys.readouterr().out
    assert found == pytest.approx(losses(plain), rel=0.05)
    assert found != losses(plain)


def test_killed_training_resumes(params: Params, tiny_videos: list[Video], tmp_path: Path) -> None:
    several = with_values(params, {"train.epochs": 6, "checkpoint_seconds": 0.0})
    (tmp_path / "run").write_bytes(pickle.dumps((several, tiny_videos)))
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while not (tmp_path / "resume" / "train.pt").exists():
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    resumed = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    assert "resuming after step" in resumed.stdout
    expected = train(tmp_path / "undisturbed", several, tiny_videos)
    assert len(expected) == 24
    assert losses(tmp_path) == pytest.approx(expected, rel=TF32_LOSS)


def test_compiled_training(
    params: Params,
    plain: Path,
    tiny_videos: list[Video],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if DEVICE == "cpu":
        # Without generated code, which takes a compiler and minutes.
        eager = partialmethod(nn.Module.compile, backend="eager")
        monkeypatch.setattr(nn.Module, "compile", eager)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = train(tmp_path, with_values(params, {"train.compile": True}), tiny_videos)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()
    assert found == pytest.approx(losses(plain), rel=TF32_LOSS)


def test_evaluation(params: Params, tiny_videos: list[Video]) -> None:
    results = {}
    for name in ("cpu", DEVICE):
        device = torch.device(name)
        player = build(params.model, params.spectrogram, seed=0).to(device)
        separated = separate_mixtures(
            player, tiny_videos[-4:], params, 4, 1234, evaluation_rule(params), device
        )
        results[name] = list(separated)
    assert len(results[DEVICE]) == 4
    for on_cpu, on_device in zip(results["cpu"], results[DEVICE], strict=True):
        assert isinstance(on_cpu, SeparatedMixture)
        assert isinstance(on_device, SeparatedMixture)
        error = on_device.estimates - on_cpu.estimates
        assert decibels(error, on_cpu.estimates) < TF32_DECIBELS
        assert on_device.loss == pytest.approx(on_cpu.loss, rel=TF32_LOSS)
        scores = [one.score() for one in (on_cpu, on_device)]
        assert all(isinstance(one, Score) for one in scores)
        expected, found = (one.measures["sdr"] for one in scores)
        assert found == pytest.approx(expected, abs=0.2)


def test_separation(params: Params, tmp_path: Path) -> None:
    sound = f"0.2*sin(2*PI*{LOW_HZ}*t)+0.2*sin(2*PI*{HIGH_HZ}*t)"
    video, checkpoint = film(tmp_path / "video.mp4", sound, 2.0), tmp_path / "model.pt"
    save_player(checkpoint, build(params.model, params.spectrogram, seed=0), params, step=0)
    on_cpu, on_device = (
        Separator.load(checkpoint, name).separate(video, regions=1) for name in ("cpu", DEVICE)
    )
    assert on_device.components.shape[0] == 2
    energy = on_cpu.localization.energy
    assert decibels(on_device.localization.energy - energy, energy) < TF32_DECIBELS
    found = on_device.components.sum(axis=0)
    assert decibels(found - on_device.mixture, on_device.mixture) < -80

    out = tmp_path / "separated"
    command = ["separate", str(video), "--out", str(out), "--checkpoint", str(checkpoint)]
    assert main([*command, "--device", DEVICE, "--regions", "1"]) in (0, None)
    parts = [soundfile.read(out / name)[0] for name in ("region-1.wav", "rest.wav")]
    assert np.abs(parts[0]).max() > 0
    assert np.abs(sum(parts)).max() > 0.1
