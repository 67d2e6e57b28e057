import errno
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sop.evaluate.records import write_sound
from sop.model.checkpoint import save_checkpoint
from sop.runtime import files
from sop.runtime.errors import NotWritable
from sop.runtime.files import (
    PARTIAL_PREFIX,
    SAVE_INTERVAL_SECONDS,
    SAVE_SHARE,
    PeriodicSaver,
    remove_abandoned_partials,
    remove_others,
    remove_partials,
    replacing,
    temporary_folder,
    write_json,
    write_text,
)
from tests.support.disks import largest_file


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "sound.wav"
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        assert partial.parent == path.parent
        assert partial.suffix == ".wav"
        assert not path.exists()
        partial.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["inner", "inner/sound.wav"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_write_leaves_the_previous_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"previous")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"previous"
    assert names(tmp_path) == ["sound.wav"]


def test_block_that_writes_nothing_is_an_error_and_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"previous")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_bytes() == b"previous"


def test_text_is_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "list.csv", "二胡\nflûte\n")
    assert (tmp_path / "list.csv").read_bytes() == "二胡\nflûte\n".encode()


def test_json_is_readable_and_ends_in_a_newline(tmp_path: Path) -> None:
    values = {"sdr": {"mean": 1.25}, "reasons": {"erhu/二胡": "silent"}, "none": None}
    write_json(tmp_path / "metrics.json", values)
    text = (tmp_path / "metrics.json").read_text("utf-8")
    assert json.loads(text) == values
    assert text.endswith("}\n")
    assert "二胡" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"sdr": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"sdr": {"mean": [value]}})
    assert json.loads(path.read_text()) == {"sdr": 1.0}
    assert names(tmp_path) == ["metrics.json"]


def test_remove_partials(tmp_path: Path) -> None:
    kept = tmp_path / "flute" / "a.wav"
    write_text(kept, "whole")
    writer = replacing(tmp_path / "flute" / "b.wav")
    writer.__enter__().write_text("half")
    assert len(names(tmp_path)) == 3
    remove_partials(tmp_path)
    assert names(tmp_path) == ["flute", "flute/a.wav"]
    remove_partials(tmp_path / "not there")


def test_second_error_while_a_partial_is_removed_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(NotWritable, match=r"a\.wav: cannot be written \(No space"):  # noqa: SIM117
        with replacing(tmp_path / "a.wav"):
            monkeypatch.setattr(Path, "unlink", refuse)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writer", ["text", "torch", "numpy", "sound"])
def test_full_disk_is_one_line_whatever_writes(tmp_path: Path, writer: str) -> None:
    path = tmp_path / f"a.{'npz' if writer == 'numpy' else 'wav'}"
    path.write_bytes(b"previous")
    many = np.zeros(100_000, np.float32)

    def write(partial: Path) -> None:
        if writer == "text":
            partial.write_text("x" * 100_000)
        elif writer == "numpy":
            np.savez(partial, many=many)
        elif writer == "sound":
            write_sound(path, many, 8000)
        else:
            save_checkpoint(path, {"many": torch.from_numpy(many)})

    advice = re.escape("(File too large); raise the limit on the size of files (`ulimit -f`)")
    with (
        largest_file(10_000),
        pytest.raises(NotWritable, match=rf"^{path}: cannot be written {advice}"),
        replacing(path) as partial,
    ):
        write(partial)
    assert path.read_bytes() == b"previous"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_name_that_is_taken(tmp_path: Path, occupied: str) -> None:
    if occupied == "folder":
        path = tmp_path / "a.txt"
        path.mkdir()
    else:
        (tmp_path / "a").touch()
        path = tmp_path / "a" / "b.txt"
    with pytest.raises(NotWritable) as caught:
        write_text(path, "text")
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert str(caught.value).endswith("); use another name or folder")


def test_error_of_a_disk_survives_another_process() -> None:
    error = NotWritable(Path("a/b.wav"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
    assert str(error) == (
        "a/b.wav: cannot be written (No space left on device); free some space on the disk of "
        f"{Path.cwd() / 'a'}, then run again"
    )


def test_error_of_a_program_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.wav"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.wav"):
        (tmp_path / "missing").read_text()


KILLED = """
import os, sys
from pathlib import Path
from sop.runtime.files import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "frames.zip").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_temporary_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "sop-mine").mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert len(names(tmp_path)) == 3
    with temporary_folder(tmp_path) as first:
        assert names(tmp_path) == sorted([first.name, "sop-mine"])
        with temporary_folder(tmp_path) as second:
            assert first.is_dir()
            assert second != first
    assert names(tmp_path) == ["sop-mine"]


def test_partials_of_killed_processes_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a [1].wav"
    killed = KILLED.replace("temporary_folder(Path(sys.argv[1]))", "replacing(Path(sys.argv[1]))")
    killed = killed.replace("temporary_folder", "replacing")
    killed = killed.replace('(folder / "frames.zip")', "folder")
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    with replacing(tmp_path / f"b-{path.name}") as other, replacing(path) as own:
        other.touch()
        own.touch()
        assert len(names(tmp_path)) == 3
        remove_abandoned_partials(path)
        assert names(tmp_path) == sorted([other.name, own.name])


def partial_of(path: Path) -> str:
    with replacing(path) as partial:
        partial.touch()
        return partial.name


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_forked_processes_use_separate_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, partial_of(path).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as said:
        theirs = said.read()
    ours = partial_of(path)
    assert theirs != ours
    assert f"-{child}-" in theirs
    assert f"-{os.getpid()}-" in ours


@pytest.mark.slow
def test_machines_use_separate_files(tmp_path: Path) -> None:
    code = (
        "import os, socket, sys\n"
        "from pathlib import Path\n"
        "socket.gethostname = lambda: sys.argv[1]\n"
        "os.getpid = lambda: 7\n"
        "from sop.runtime.files import replacing\n"
        "with replacing(Path(sys.argv[2])) as partial:\n"
        "    print(partial.name)\n"
        "    partial.touch()\n"
    )
    hosts = ["node1", "node2", "../../二胡", "x" * 300]
    said = [
        subprocess.run(
            [sys.executable, "-c", code, host, tmp_path / "a.wav"],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])},
        ).stdout.decode()
        for host in hosts
    ]
    assert len(set(said)) == len(hosts)
    assert {len(name) for name in said} == {len(f"{PARTIAL_PREFIX}12345678-7-a.wav\n")}
    assert names(tmp_path) == ["a.wav"]


def test_partial_file_is_hidden_in_the_same_folder(tmp_path: Path) -> None:
    name = partial_of(tmp_path / "a.wav")
    assert name.startswith(".") and name.startswith(PARTIAL_PREFIX) and name.endswith("-a.wav")


class Clock:
    """Time that passes only when it is told to, and what was saved at which second."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.saved: list[float] = []
        self.seconds_of_a_save = 0.0

    def save(self) -> None:
        self.saved.append(self.now)
        self.now += self.seconds_of_a_save

    def run(self, saver: PeriodicSaver, seconds: float, step: float = 0.5) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            saver.save_if_due()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(files.time, "monotonic", lambda: clock.now)
    return clock


def test_first_save_after_the_interval(clock: Clock) -> None:
    saver = PeriodicSaver(clock.save)
    for _ in range(100):
        saver.save_if_due()
    clock.run(saver, SAVE_INTERVAL_SECONDS - 0.5)
    assert clock.saved == []
    clock.run(saver, 0.5)
    assert clock.saved == [1000.0 + SAVE_INTERVAL_SECONDS]
    saver.save_if_due()
    assert len(clock.saved) == 1


def test_quick_saves(clock: Clock) -> None:
    clock.run(PeriodicSaver(clock.save), 10 * SAVE_INTERVAL_SECONDS)
    assert clock.saved == [1000.0 + n * SAVE_INTERVAL_SECONDS for n in range(1, 11)]


def test_no_save_without_calls(clock: Clock) -> None:
    saver = PeriodicSaver(clock.save)
    clock.now += 100 * SAVE_INTERVAL_SECONDS
    assert clock.saved == []
    saver.save_if_due()
    saver.save_if_due()
    assert len(clock.saved) == 1


@pytest.mark.parametrize("seconds", [0.5, 1.0, 60.0])
def test_slow_saves(clock: Clock, seconds: float) -> None:
    clock.seconds_of_a_save = seconds
    clock.run(PeriodicSaver(clock.save), 100 * seconds / SAVE_SHARE)
    gaps = {b - a for a, b in zip(clock.saved, clock.saved[1:], strict=False)}
    assert gaps == {seconds + seconds / SAVE_SHARE}
    assert len(clock.saved) * seconds <= SAVE_SHARE * (clock.now - 1000.0)


def test_save_that_is_slow_once(clock: Clock) -> None:
    saver = PeriodicSaver(clock.save)
    clock.seconds_of_a_save = 10.0
    clock.run(saver, SAVE_INTERVAL_SECONDS)
    clock.seconds_of_a_save = 0.0
    clock.run(saver, 10.0 / SAVE_SHARE + 2 * SAVE_INTERVAL_SECONDS)
    first, second, third, *_ = clock.saved
    assert (second - first, third - second) == (10.0 + 10.0 / SAVE_SHARE, SAVE_INTERVAL_SECONDS)


def test_failed_save_is_repeated(clock: Clock) -> None:
    def full_disk() -> None:
        clock.save()
        if len(clock.saved) == 1:
            raise OSError

    saver = PeriodicSaver(full_disk)
    with pytest.raises(OSError):
        clock.run(saver, SAVE_INTERVAL_SECONDS)
    saver.save_if_due()
    assert len(clock.saved) == 2


def test_other_files_and_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "d" / "e").mkdir(parents=True)
    write_text(tmp_path / "d" / "file", "")
    write_text(tmp_path / "a" / "b" / "other", "")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    remove_others(tmp_path, {tmp_path / "d" / "file"})
    assert names(tmp_path) == ["d", "d/file"]
    remove_others(tmp_path / "d" / "file", set())
