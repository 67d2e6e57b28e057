"""An ffmpeg that hangs, crashes or takes all memory costs the video that it works on, no other."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sop.media.binary import binary, forget
from tests.support.extraction import Folders, from_nothing

LIMITS = {"timeout_seconds": 2.0, "memory_limit_mib": 512}
GOOD = ("flute/a", "tuba/b", "tuba/c")
BAD = {
    "flute/hang": "ffmpeg took longer than 2 s and was stopped",
    "flute/hang later": "ffmpeg took longer than 2 s and was stopped",
    "flute/crash": "ffmpeg crashed (SIGSEGV)",
    "tuba/crash later": "ffmpeg crashed (SIGSEGV)",
    "tuba/greedy": "ffmpeg needs more memory than 512 MiB (extract.memory_limit_mib)",
}

# Behaves badly on videos of these names, "later" when or after they are decoded; else it is ffmpeg.
SCRIPT = """#!/bin/sh
case "$*" in
*/"hang.mp4"* | */"hang later.mp4"*mpjpeg*) trap '' TERM INT; exec sleep 60 ;;
*/"crash.mp4"*) kill -SEGV $$ ;;
*/"crash later.mp4"*mpjpeg*) {ffmpeg} "$@"; kill -SEGV $$ ;;
*/"greedy.mp4"*) exec {python} -c {greedy} ;;
esac
exec {ffmpeg} "$@"
"""
GREEDY = """
import sys
held = []
try:
    while True:
        held.append(bytearray(1 << 24))
except MemoryError:
    del held
    sys.exit("[in#0 @ 0x1] [error] Error opening input: Cannot allocate memory")
"""


@pytest.fixture
def bad_ffmpeg(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The script in place of ffmpeg, until undone."""
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    quoted = {"python": sys.executable, "greedy": GREEDY, "ffmpeg": binary()}
    script.write_text(SCRIPT.format(**{name: shlex.quote(text) for name, text in quoted.items()}))
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(script.parent), prepend=":")
        forget()
        yield patch
    forget()


@pytest.fixture
def folders(tmp_path: Path, make_video: Callable) -> Folders:
    """Good videos, and those of bad names."""
    folders = Folders(tmp_path / "data")
    for name in (*GOOD, *BAD):
        make_video(folders.videos / f"{name}.mp4")
    return folders


def made(folders: Folders) -> set[str]:
    return {str(p.relative_to(folders.audio).with_suffix("")) for p in folders.audio.glob("*/*")}


@pytest.mark.slow
def test_ffmpeg_that_hangs_or_crashes(
    folders: Folders, bad_ffmpeg: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = psutil.Process().children(recursive=True)
    began = time.monotonic()
    summary = folders.extract(**LIMITS)
    # Two that hang, two at a time.
    assert time.monotonic() - began < 10
    assert psutil.Process().children(recursive=True) == before
    assert summary["left_out"] == {"count": len(BAD), "reasons": BAD}
    assert summary["videos"] == len(GOOD)
    assert made(folders) == set(GOOD)
    for folder in (folders.audio, folders.frames):
        assert list(json.loads((folder / "manifest.json").read_text())) == sorted(GOOD)
        assert not list(folder.rglob(".part-*"))
    times = folders.times()
    bad_ffmpeg.undo()
    forget()
    summary = folders.extract(memory_limit_mib=512)
    assert summary["left_out"] == {"count": 0, "reasons": {}}
    assert made(folders) == {*GOOD, *BAD}
    assert {name: folders.times()[name] for name in times} == times
    assert folders.tree() == from_nothing(folders, tmp_path / "again")


@pytest.mark.parametrize(
    "times",
    [
        ("-bsf:v", "setts=ts=TS+N*1e8", "-c:a", "copy"),
        ("-bsf:a", "setts=ts=if(gte(N\\,50)\\,TS+1e9\\,TS)", "-c:v", "copy"),
    ],
    ids=["pictures", "sound"],
)
def test_one_stream_of_several_days(
    times: tuple[str, ...], folders: Folders, make_video: Callable
) -> None:
    make_video(folders.videos / "flute" / "days.mp4", "-c", "copy", *times)
    summary = folders.extract(**LIMITS)
    assert summary["left_out"] == {"count": 0, "reasons": {}}
    assert summary["frames"] == 20 * summary["videos"]


@pytest.mark.slow
def test_both_streams_of_several_days(folders: Folders, make_video: Callable) -> None:
    days = ("-bsf:v", "setts=ts=TS+N*1e8", "-bsf:a", "setts=ts=TS+N*1e8")
    make_video(folders.videos / "flute" / "days.mp4", "-c", "copy", *days)
    began = time.monotonic()
    assert folders.extract(**LIMITS)["left_out"]["reasons"].keys() == {"flute/days"}
    assert time.monotonic() - began < 10
