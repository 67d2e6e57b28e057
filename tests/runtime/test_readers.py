"""Worker processes that read ahead."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sop.runtime.errors import LeftOut, UserError
from sop.runtime.readers import Readers
from tests.support.experiment import ROOT

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8], str]


def arrays(size: int, number: int) -> Arrays:
    """Arrays that differ for each number, and text beside them."""
    rng = np.random.default_rng(number)
    return rng.random(size, np.float32), rng.integers(256, size=(3, 5), dtype=np.uint8), f"{number}"


def process_id(number: int) -> int:
    del number
    return os.getpid()


def fail(error: Exception, number: int) -> int:
    if number == 3:
        raise error
    return number


def end_by_signal(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def block(fifo: Path, number: int) -> int:
    """Wait like a reader of a network drive that does not answer."""
    if number == 3:
        fifo.read_bytes()
    return number


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("result_bytes", [4 * 1000 + 15, 100])
def test_results_arrive_in_order(processes: int, result_bytes: int) -> None:
    readers = Readers("test", processes, result_bytes)
    results = list(readers.map(partial(arrays, 1000), range(25)))
    assert [text for *_, text in results] == [str(number) for number in range(25)]
    for number, (floats, bytes_, _) in enumerate(results):
        expected_floats, expected_bytes, _ = arrays(1000, number)
        np.testing.assert_array_equal(floats, expected_floats)
        np.testing.assert_array_equal(bytes_, expected_bytes)
        floats += 1


def test_borrowed_results_are_right_until_the_next_one() -> None:
    readers = Readers("test", 2, 4 * 1000 + 15, borrowed=True)
    kept = []
    for number, (floats, *_) in enumerate(readers.map(partial(arrays, 1000), range(40))):
        np.testing.assert_array_equal(floats, arrays(1000, number)[0])
        kept.append(floats)
    # Memory is used again: this is what makes them quick.
    assert not np.array_equal(kept[0], arrays(1000, 0)[0])


def test_items_are_read_ahead_in_a_limited_number() -> None:
    drawn = []
    items = (drawn.append(number) or number for number in range(1000))
    results = Readers("test", 2, 100, queued=3).map(process_id, items)
    next(results)
    assert len(drawn) == 6
    next(results)
    assert len(drawn) == 7
    results.close()


def test_nothing_to_read() -> None:
    assert list(Readers("test", 2, 100).map(process_id, [])) == []


def test_processes_end_with_the_results() -> None:
    results = Readers("test", 2, 100).map(process_id, range(100))
    ids = {next(results), next(results)}
    assert len(ids) == 2
    results.close()
    for number in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


@pytest.mark.parametrize("error", [UserError("a key is wrong"), LeftOut("a clip is damaged")])
def test_expected_errors_arrive_as_they_are(error: Exception) -> None:
    results = Readers("test", 2, 100).map(partial(fail, error), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error), match=f"^{error}$"):
        next(results)


def test_a_bug_arrives_with_its_traceback() -> None:
    results = Readers("test", 2, 100).map(partial(fail, KeyError("name")), range(10))
    with pytest.raises(RuntimeError, match=r"(?s)in a process .*line \d+, in fail.*KeyError"):
        list(results)


def test_killed_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^test: a process .* ended .*-9.* lower workers") as error:
        list(Readers("test", 2, 100).map(end_by_signal, range(10)))
    assert "\n" not in str(error.value)


def test_reader_that_delivers_nothing_ends_the_run(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    began = time.monotonic()
    readers = Readers("test", 2, 100, stall_seconds=0.5)
    with pytest.raises(UserError, match=r"^test: nothing could be read for .* s; check"):
        list(readers.map(partial(block, fifo), range(10)))
    assert time.monotonic() - began < 5


def test_waiting_can_be_stopped(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found = []
    stop: Callable[[], bool] = lambda: len(found) == 3  # noqa: E731
    for number in Readers("test", 2, 100).map(partial(block, fifo), range(10), stop):
        found.append(number)
    assert found == [0, 1, 2]


ORPHANS = """
import os, signal, time
from sop.runtime.readers import Readers

def process_id(number):
    return os.getpid()

outer = Readers("outer", 2, 100).map(process_id, range(1000))
inner = Readers("inner", 2, 100).map(process_id, range(1000))
print(next(outer), next(outer), next(inner), next(inner), flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit", "1 / 0", "os._exit(0)"]
)
def test_processes_end_with_the_program(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS.format(end=end)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    ids = [int(number) for number in done.stdout.split()]
    assert len(set(ids)) == 4
    deadline = time.monotonic() + 10
    while any(is_running(number) for number in ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(number: int) -> bool:
    """True unless the process has ended; nobody may have asked for its exit status yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
