"""Download and extract on a real Dask cluster of this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from sop.download.download import download
from sop.download.sources import CachePaths
from sop.extract.extraction import extract
from sop.media.binary import binary
from sop.params import Params, validate
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.runtime.parallel import Workers, map_unordered
from tests.support.extraction import PARAMS, Folders
from tests.support.server import serving

VIDEOS = 12


class Cluster:
    """A scheduler and workers, each a process that knows nothing of this repository."""

    def __init__(self, folder: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.scheduler = self.start("scheduler", "--host=127.0.0.1", f"--port={port}")

    def start(self, role: str, *arguments: str, path: str = "") -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}".strip(os.pathsep)
        with (self.folder / f"{role}{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", role, *arguments, "--no-dashboard"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self) -> "subprocess.Popen[bytes]":
        return self.start("worker", self.address, "--no-nanny", "--nthreads=1")

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    for process in cluster.processes:
        if process.poll() is None:
            cluster.kill(process)


@pytest.fixture
def folders(tmp_path: Path, ffmpeg_run: Callable[..., None]) -> Folders:
    """Videos that take some tenths of a second each."""
    folders = Folders(tmp_path / "data")
    first = folders.videos / "flute" / "00.mp4"
    first.parent.mkdir()
    ffmpeg_run(
        *("-f", "lavfi", "-i", "testsrc2=s=320x240:r=30:d=20"),
        *("-f", "lavfi", "-i", "sine=440:d=20:r=44100"),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", first),
    )
    for number in range(1, VIDEOS):
        (first.parent / f"{number:02d}.mp4").write_bytes(first.read_bytes())
    (first.parent / "text.mp4").write_text("not a video")
    return folders


def run(folders: Folders, workers: Workers) -> dict[str, Any]:
    places = (folders.videos, folders.audio, folders.frames)
    return extract(PARAMS, *places, workers, folders.hashes)


@pytest.mark.slow
def test_death_of_a_worker(cluster: Cluster, folders: Folders, tmp_path: Path) -> None:
    here = Folders(tmp_path / "here")
    here.videos.rmdir()
    here.videos.symlink_to(folders.videos)
    expected = run(here, Workers(2))
    victim, _ = cluster.worker(), cluster.worker()
    killed_after = []

    def kill_in_the_middle() -> None:
        while (done := len(list(folders.frames.glob("flute/*.zip")))) < 3:
            time.sleep(0.02)
        cluster.kill(victim)
        killed_after.append(done)

    killer = threading.Thread(target=kill_in_the_middle, daemon=True)
    killer.start()
    assert run(folders, Workers(1, cluster.address)) == expected
    killer.join()
    assert killed_after[0] < VIDEOS
    assert folders.tree() == here.tree()


@pytest.mark.slow
def test_other_ffmpeg_version_on_a_worker(
    cluster: Cluster, folders: Folders, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "ffmpeg"
    other.parent.mkdir()
    # It works, or the worker would use the bundled one.
    rename = "s/ffmpeg version [^ ]*/ffmpeg version 8.1-x/"
    other.write_text(
        f"#!/bin/bash\n'{binary()}' \"$@\" 2> >({shutil.which('sed')} '{rename}' >&2)\n"
    )
    other.chmod(0o755)
    cluster.start("worker", cluster.address, "--nthreads=1", path=str(other.parent))
    with pytest.raises(UserError, match=r"ffmpeg on .*: the version differs .*=8\.1-x, there .*"):
        run(folders, Workers(1, cluster.address))
    assert folders.tree().keys() == {"audio/manifest.json", "frames/manifest.json"}


# Workers find the repository's modules, not this one.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def misfortune(kind: str) -> str:
    if kind == "left out":
        raise LeftOut("of no use")
    if kind == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "bug":
        raise ZeroDivisionError
    return kind.upper()


@pytest.mark.slow
def test_exceptions_on_a_worker(cluster: Cluster) -> None:
    cluster.worker()
    workers = Workers(1, cluster.address)
    done = dict(map_unordered(str.upper, ["a", "b"], workers))
    assert done == {"a": "A", "b": "B"}
    done = dict(map_unordered(misfortune, ["fine", "left out"], workers))
    assert done["fine"] == "FINE"
    assert str(done["left out"]) == "of no use"
    with pytest.raises(ZeroDivisionError):
        list(map_unordered(misfortune, ["bug"], workers))


@pytest.mark.slow
def test_item_that_kills_its_workers(cluster: Cluster) -> None:
    for _ in range(6):
        cluster.worker()
    workers = Workers(1, cluster.address, limit=1)
    done = dict(map_unordered(misfortune, ["deadly", "fine"], workers))
    assert isinstance(done["deadly"], LeftOutForNow)
    assert "4 workers of the cluster died while processing it" in str(done["deadly"])
    assert done["fine"] == "FINE"


def test_missing_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sop.runtime.parallel.ANSWER_SECONDS", 1.0)
    with pytest.raises(UserError, match=r"^cluster\.scheduler: tcp://127\.0\.0\.1:9 does not ans"):
        list(map_unordered(str.upper, ["a"], Workers(1, "tcp://127.0.0.1:9")))


@pytest.mark.slow
def test_lost_scheduler(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sop.runtime.parallel.ANSWER_SECONDS", 3.0)
    cluster.worker()
    work = map_unordered(time.sleep, [0.2] * 100, Workers(1, cluster.address))
    next(work)
    cluster.kill(cluster.scheduler)
    with pytest.raises(UserError, match=r"connection to .* lost; finished files are kept"):
        list(work)


@pytest.mark.slow
def test_workers_fetch_into_relative_folders(
    cluster: Cluster,
    params: Params,
    tmp_path: Path,
    make_video: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(4):
        make_video(tmp_path / "site" / f"aaaaaaaaaa{number}.mp4")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    Path("list.csv").write_text("category,id\n" + "".join(f"a,aaaaaaaaaa{n}\n" for n in range(5)))
    # As `dask worker` starts it: under a nanny, whose children may have no children of their own.
    cluster.start("worker", cluster.address, "--nthreads=2")
    with serving(tmp_path / "site") as server:
        values = params.model_dump()
        values["dataset"]["source"] = "list"
        values["dataset"]["lists"]["own"] = "list.csv"
        values["dataset"]["fetch"]["video_url"] = f"{server.root}/{{id}}.mp4"
        values["cluster"]["scheduler"] = cluster.address
        places = CachePaths(Path("lists"), Path("partial"), Path("hashes.sqlite"))
        summary = download(validate(Params, values, "test"), Path("videos"), places)
    assert summary["category"] == {"a": {"done": 4, "unavailable": 1, "failed": 0}}
    assert len(list(Path("videos").glob("a/*.mp4"))) == 4
