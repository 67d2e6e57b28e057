"""Reading of batches: little shared memory, readers that are stuck, and requests to stop."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sop.dataset.index import Video
from sop.params import Params
from tests.support.experiment import ROOT, with_values

TRAIN = """
import pickle, sys
from pathlib import Path

import torch

from sop.runtime.errors import run
from sop.train.distributed import process_group
from sop.train.trainer import RunFolders, Trainer

torch.set_num_threads(1)
root = Path(sys.argv[1])


def main():
    params, videos = pickle.loads((root / "run").read_bytes())
    folders = RunFolders(root / "model", root / "resume", root / "live")
    with process_group("cpu") as group:
        trainer = Trainer(params, videos[:-4], videos[-4:], folders, group)
        print("begins", flush=True)
        trainer.run()


run(main)
"""


def command(root: Path) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(root)]


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str, Params, list[Video]], Path]:
    """A function that makes the folder of a run."""

    def prepare(name: str, params: Params, videos: list[Video]) -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "run").write_bytes(pickle.dumps((params, videos)))
        return root

    return prepare


def results(root: Path) -> dict[str, bytes]:
    """Everything that a run wrote, byte by byte."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("model", "live")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_training_needs_no_shared_memory_of_the_system(
    prepared: Callable[..., Path], tiny_params: Params, tiny_videos: list[Video]
) -> None:
    # Smaller than one batch; containers have 64 MB by default, and a published batch has 114.
    limited = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=256k none /dev/shm && "$@"', ""]
    if subprocess.run([*limited, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of its own (unshare -m)")
    params = with_values(tiny_params, {"workers": 8, "train.epochs": 3})
    ample = prepared("ample", params, tiny_videos)
    little = prepared("little", params, tiny_videos)
    for arguments in (command(ample), [*limited, *command(little)]):
        subprocess.run(arguments, cwd=ROOT, check=True, timeout=120)
    # Two runs are also equal in bytes, although their processes and folders differ.
    assert results(little) == results(ample)
    assert {"model/last.pt", "model/best.pt", "live/metrics.json"} <= results(ample).keys()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_run_that_waits_for_a_stuck_reader(
    prepared: Callable[..., Path],
    tiny_params: Params,
    tiny_videos: list[Video],
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    videos = list(tiny_videos)
    for index, video in enumerate(tiny_videos[:-4]):
        # Reading it waits for a writer, like reading from a network drive that does not answer.
        fifo = tmp_path / video.category / video.audio.name
        fifo.parent.mkdir(exist_ok=True)
        os.mkfifo(fifo)
        videos[index] = Video(fifo, video.frames, video.frame_count)
    root = prepared("stuck", tiny_params, videos)
    with subprocess.Popen(
        command(root), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "begins\n":
            assert process.poll() is None
        time.sleep(1)
        # To all processes of the group, as a terminal does.
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert "train: stopped after step 0; the next run resumes there" in said


BUSY = """
import time
from sop.train.trainer import stop_signals
with stop_signals():
    print("begins", flush=True)
    while True:
        time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_a_step_at_once(second: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        # `timeout` and torchrun repeat the signal that they pass on.
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(timeout=10) == 128 + second
