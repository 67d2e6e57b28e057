import os
import subprocess
import sys
from pathlib import Path

import pytest

from sop.runtime.errors import run
from sop.runtime.log import printable
from tests.support.experiment import ROOT

# What a terminal obeys: colours, the title of the window, a line that replaces another.
HOSTILE = "a\x1b[31mb\x1b]0;title\x07\rc\nd\x9b2J\u202ee\u2028\udcff\ud800"
SHOWN = r"a\x1b[31mb\x1b]0;title\x07\rc\nd\x9b2J\u202ee\u2028\xff\ud800"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("二胡 flûte.mp4", "二胡 flûte.mp4"),
        ("二胡\u3000flûte.mp4", r"二胡\u3000flûte.mp4"),
        (r"C:\new", r"C:\new"),
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
    ],
)
def test_text_is_shown_on_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_every_way_to_print_shows_control_characters(tmp_path: Path) -> None:
    # In a process of its own: pytest would collect the record of the log as it is.
    program = f"""
import logging
from sop.runtime.errors import UserError, run
from sop.runtime.log import say
def main():
    say({HOSTILE!a})
    logging.getLogger("sop").info({HOSTILE!a})
    raise UserError({HOSTILE!a})
run(main)
"""
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == f"{SHOWN}\n{SHOWN}\n"
    assert shown.stderr == f"error: {SHOWN}\n"
    assert shown.returncode == 2


def test_letters_that_the_terminal_lacks(tmp_path: Path) -> None:
    program = "from sop.runtime.errors import run; from sop.runtime.log import say; "
    shown = subprocess.run(
        [sys.executable, "-c", program + "run(lambda: say('二胡'))"],
        env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, rb"\u4e8c\u80e1" + b"\n", b"")


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("action", ["say(*['x'] * 100_000)", "say('x')", "print('x')"])
def test_reader_of_the_output_that_ends(tmp_path: Path, action: str, buffered: str) -> None:
    program = "from sop.runtime.errors import run; from sop.runtime.log import say; "
    reader, writer = os.pipe()
    os.close(reader)
    shown = subprocess.run(
        [sys.executable, "-c", f"{program}run(lambda: {action})"],
        env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": buffered},
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (shown.returncode, shown.stderr) == (141, b"")


def test_another_broken_pipe_is_a_bug() -> None:
    def program() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(program)
