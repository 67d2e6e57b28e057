import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from sop.runtime import progress as module
from sop.runtime.progress import announced, progress
from tests.support.experiment import ROOT

PROGRAM = """
import logging
from sop.runtime.log import show_log
from sop.runtime.progress import progress
show_log()
for number in progress(range(30), "extract", 40, done=10):
    if number == 20:
        logging.getLogger("sop").info("left out: a.mp4")
"""


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a minute after the last."""
    ticks = iter(range(0, 60 * 1000, 60))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))


def test_items_are_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress((letter for letter in "abc"), "work", 3)) == ["a", "b", "c"]
    assert list(progress([], "nothing", 0)) == []
    assert "nothing" not in capsys.readouterr().out


def test_log_gets_plain_lines_with_rate_and_remaining_time(
    minutes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    list(progress(range(3), "train", 3, unit="step"))
    assert capsys.readouterr().out.splitlines() == [
        "train: 1/3 steps, 0.0 steps/s, 02:00 left",
        "train: 2/3 steps, 0.0 steps/s, 01:00 left",
        "train: 3/3 steps, 0.0 steps/s, 00:00 left",
    ]


def test_resumed_work_counts_from_its_beginning(
    minutes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    list(progress(range(2), "train", 8, unit="step", done=6))
    assert capsys.readouterr().out.splitlines() == [
        "train: 7/8 steps, 0.0 steps/s, 01:00 left",
        "train: 8/8 steps, 0.0 steps/s, 00:00 left",
    ]


def test_quick_work_logs_its_end_alone(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(range(1000), "extract", 1000))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("extract: 1000/1000 videos, ")


def test_item_counts_when_done(minutes: None, capsys: pytest.CaptureFixture[str]) -> None:
    items: Iterator[int] = progress(range(2), "work", 2)
    next(items)
    assert capsys.readouterr().out == ""
    next(items)
    assert "1/2" in capsys.readouterr().out


def test_progress_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r"extract: 100%\|.*\| 40/40 \[\d\d:\d\d<\d\d:\d\d, .*video/s\]", text)
    assert re.search(r"\rleft out: a\.mp4\r\n", text)


def test_line_in_a_log_is_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("sop").info("left out: flute/a.mp4")
    assert capsys.readouterr().out == "left out: flute/a.mp4\n"


def test_only_slow_work_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sop"):
        with announced("quick work", 60):
            pass
        with announced("slow work", 0.01):
            time.sleep(0.2)
    assert caplog.messages == ["slow work"]
