"""Locks between processes: who holds one, and what becomes of it when the owner dies."""

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sop.runtime import locks
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT

HOLD = """
import os, sys
from pathlib import Path
from sop.runtime.locks import exclusive
with exclusive(Path(sys.argv[1]), "train", "here", "noon"):
    # The last process to start reports, so that all of them run from then on.
    if sys.argv[2] != "fork" or not os.fork():
        print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "train"


def lock(path: Path, host: str = "here") -> AbstractContextManager[None]:
    return locks.exclusive(path, "train", host, "noon")


def holder(path: Path, fork: str = "") -> "subprocess.Popen[str]":
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), fork],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def refusal(path: Path, host: str = "here") -> str:
    with pytest.raises(UserError) as error, lock(path, host):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_second_process_is_told_of_the_first(path: Path) -> None:
    with holder(path) as process:
        message = refusal(path)
        process.stdin.close()
    assert message.startswith(
        f"train: it is running in this folder already, as process {process.pid} on host here since "
        f"noon; stop that with `kill {process.pid}`,"
    )
    with lock(path):
        pass


@pytest.mark.parametrize("fork", ["", "fork"])
def test_lock_ends_with_its_owner(path: Path, fork: str) -> None:
    """Also where a worker process of the owner still runs."""
    with holder(path, fork) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_lock_is_released_by_an_error(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(path):
        raise ZeroDivisionError
    with lock(path):
        pass


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_file_systems_without_locks(path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without its lock service. The boot is the same, as in two containers on one host."""

    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with lock(path):
        assert f"as process {os.getpid()} on host here" in refusal(path, host)
        mine = json.loads(path.read_text())
    path.write_text(json.dumps(mine | {"started": mine["started"] - 60}))
    # The process with that number is another one.
    with lock(path, host):
        pass


def test_owner_on_another_machine(path: Path) -> None:
    """Whether it lives is not known here, and not every network file system shares locks."""
    owner = {"pid": 1, "started": 0.0, "host": "elsewhere", "boot": "another", "since": "noon"}
    path.parent.mkdir()
    path.write_text(json.dumps(owner))
    message = refusal(path)
    assert "as process 1 on host elsewhere since noon" in message
    assert message.endswith(f"if that process has ended, delete {path}")
    path.unlink()
    with lock(path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 3}', "null"])
def test_damaged_file(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_file_that_cannot_be_written(path: Path) -> None:
    path.parent.write_text("a file where a folder should be")
    assert refusal(path).startswith(f"{path.parent}: cannot be written (File exists)")
