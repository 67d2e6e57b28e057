"""Work in processes of this machine: results, errors, kills and interruptions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import replacing
from sop.runtime.parallel import Workers, map_unordered
from tests.support.kills import ROOT

KILLED = 3

# Ends in an item that takes longer than the test, while it writes a file.
LONG = """
import signal
from functools import partial
from pathlib import Path
from sop.runtime.errors import run, stoppable
from sop.runtime.parallel import Workers, map_unordered
from tests.runtime.test_parallel import write_slowly

def main():
    work = partial(write_slowly, Path({folder!r}))
    with stoppable():
        list(map_unordered(work, range(4), Workers(2), processes=True))

if __name__ == "__main__":
    # A program that was started in the background ignores Ctrl-C otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(main)
"""


def kill_itself(number: int) -> int:
    if number == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    # The rest of a pipe's buffer is written while the other end is gone.
    time.sleep(0.01)
    return number


def with_a_large_item(item: bytes) -> int:
    return kill_itself(item[0])


def refuse(number: int) -> int:
    if number == 1:
        raise LeftOut("odd")
    if number == 2:
        raise ValueError("a fault of ours")
    return number


def write_slowly(folder: Path, number: int) -> None:
    with replacing(folder / f"{number}.txt") as path:
        path.write_text("half")
        time.sleep(60)


def test_a_killed_process_ends_the_work_with_one_line_and_keeps_other_results():
    done = []
    with pytest.raises(UserError, match=r"^render: .*\(SIGKILL\).*lower workers in params.yaml"):
        for item, result in map_unordered(kill_itself, range(20), Workers(2), True, "render"):
            assert result == item
            done.append(item)
    assert {0, 1, 2} <= set(done)
    assert not psutil.Process().children()[1:], "only the resource tracker of Python may remain"


def test_a_killed_process_with_more_in_its_pipe_than_fits_ends_the_work():
    items = [bytes([number]) * 1_000_000 for number in range(8)]
    with pytest.raises(UserError, match="SIGKILL"):
        list(map_unordered(with_a_large_item, items, Workers(1), True))


def test_processes_return_reasons_and_raise_errors_with_their_traceback():
    (first, second) = sorted(map_unordered(refuse, [0, 1], Workers(2), True), key=lambda p: p[0])
    assert first == (0, 0)
    assert isinstance(second[1], LeftOut)
    with pytest.raises(ValueError, match="a fault of ours") as caught:
        list(map_unordered(refuse, [2], Workers(1), True))
    assert "in refuse" in str(caught.value.__cause__)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_processes_remove_their_temporary_files(tmp_path: Path, number: int):
    script = tmp_path / "script.py"
    script.write_text(LONG.format(folder=str(tmp_path / "out")))
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list((tmp_path / "out").iterdir())) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors == "interrupted; the next run continues from here\n"
    assert not list((tmp_path / "out").iterdir())
