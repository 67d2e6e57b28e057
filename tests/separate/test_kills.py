"""A stopped or killed `sop separate` leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sop.model.checkpoint import save_player
from sop.model.pixelplayer import build
from sop.params import Params
from tests.support.experiment import ROOT
from tests.support.planted import film

pytestmark = pytest.mark.slow


def everything(*folders: Path) -> list[str]:
    return [path.name for folder in folders for path in folder.rglob("*")]


def test_stopped_and_killed_separation(tmp_path: Path, tiny_params: Params) -> None:
    checkpoint, out, temporary = tmp_path / "last.pt", tmp_path / "out", tmp_path / "temporary"
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(checkpoint, player, tiny_params, step=1)
    long = film(tmp_path / "long.mp4", "0.2*sin(3000*t)", 60.0)
    short = film(tmp_path / "short.mp4", "0.2*sin(3000*t)", 2.0)
    temporary.mkdir()
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "sop", "separate", "--checkpoint", str(checkpoint)]

    def ended_by(number: signal.Signals) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [*command, str(long), "--out", str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        until = time.monotonic() + 120
        while not list(temporary.glob("sop-*/frames.zip")) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(number)
        _, messages = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, "", messages)

    stopped = ended_by(signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert stopped.stderr == "interrupted; no output was changed\n"
    assert everything(temporary) == []
    assert not out.exists()

    ended_by(signal.SIGKILL)
    assert everything(temporary)
    assert everything(out)
    subprocess.run([*command, str(short), "--out", str(out)], env=environment, check=True)
    assert everything(temporary) == []
    assert not [name for name in everything(out) if name.startswith(".")]
    assert (out / "rest.wav").is_file()
