"""Which ffmpeg is run: `SOP_FFMPEG`, one on PATH or the bundled one, and only one that works."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from sop.download.container import to_mp4
from sop.media import binary
from sop.media.ffmpeg import Limits
from sop.runtime.errors import UserError

BUNDLED = imageio_ffmpeg.get_ffmpeg_exe()

# Reports an old version, and otherwise works.
OLD = """case "$*" in *"-f mpegts -protocol"*)
    echo "ffmpeg version 4.2.2 Copyright" >&2; echo "libavcodec     58. 54.100 / 58" >&2; exit 0
esac
"""
# Has no encoder of that name.
WITHOUT_X264 = """case "$*" in *libx264*) echo "Unknown encoder 'libx264'" >&2; exit 1; esac
"""
CRASHES = """case "$*" in *"-i pipe:0"*)
    {ffmpeg} -version >&2; kill -SEGV $$
esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Puts a script in place of ffmpeg: on PATH, or as `SOP_FFMPEG`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(binary.OVERRIDE, raising=False)

        def put(script: str, variable: str = "PATH") -> Path:
            path = tmp_path / "bin" / "ffmpeg"
            path.parent.mkdir(exist_ok=True)
            quoted = shlex.quote(BUNDLED)
            script = script.format(ffmpeg=quoted)
            path.write_text(f'#!/bin/sh\necho run >> {tmp_path}/runs\n{script}exec {quoted} "$@"\n')
            path.chmod(0o755)
            patch.setenv(variable, str(path.parent if variable == "PATH" else path))
            binary.forget()
            return path

        put.patch = patch  # type: ignore[attr-defined]
        yield put
    binary.forget()


def test_ffmpeg_on_path_is_used(place: Callable) -> None:
    path = place("")
    assert binary.binary() == str(path)
    assert binary.version() == subprocess.check_output([BUNDLED, "-version"], text=True).split()[2]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (OLD, "version 4.2.2 is older than 7.0"),
        (WITHOUT_X264, "(Unknown encoder 'libx264')"),
        (CRASHES, "(crashes when it should decode: SIGSEGV)"),
        ("exit 0\n", "is no ffmpeg"),
        ("exit 1\n", "is no ffmpeg"),
    ],
    ids=["old", "without libx264", "crashes", "another program", "fails"],
)
def test_fall_back_to_the_bundled_one(
    script: str, reason: str, place: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    path = place(script)
    with caplog.at_level(logging.WARNING):
        assert binary.binary() == BUNDLED
        assert binary.binary() == BUNDLED
    (line,) = caplog.messages
    assert line.startswith(f"{path}: ")
    assert reason in line
    assert f"{BUNDLED} is used instead (SOP_FFMPEG chooses another)" in line


def test_variable_chooses(place: Callable) -> None:
    place(OLD)
    place.patch.setenv(binary.OVERRIDE, BUNDLED)
    binary.forget()
    assert binary.binary() == BUNDLED


@pytest.mark.parametrize(
    ("script", "reason"),
    [(OLD, "version 4.2.2 is older than 7.0"), (WITHOUT_X264, "Unknown encoder 'libx264'")],
    ids=["old", "without libx264"],
)
def test_variable_is_never_ignored(script: str, reason: str, place: Callable) -> None:
    path = place(script, binary.OVERRIDE)
    with pytest.raises(UserError) as caught:
        binary.binary()
    assert str(caught.value).startswith(f"SOP_FFMPEG: {path}: version ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; name another ffmpeg, or unset it")


def test_variable_that_names_nothing(place: Callable, tmp_path: Path) -> None:
    place("")
    place.patch.setenv(binary.OVERRIDE, str(tmp_path / "missing"))
    binary.forget()
    with pytest.raises(UserError, match=r"^SOP_FFMPEG: .*/missing: no such program; name"):
        binary.binary()


@pytest.mark.parametrize("script", [OLD, None], ids=["old", "absent"])
def test_no_ffmpeg_that_works(
    script: str | None, place: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = place(script or "")
    if script is None:
        path.unlink()
        binary.forget()

    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    # As on a platform without a bundled one.
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    found = "not found" if script is None else f"{path}: version 4.2.2 is older than 7.0"
    with pytest.raises(UserError) as caught:
        binary.binary()
    assert str(caught.value) == (
        f"ffmpeg: {found}; install version 7.0 or later, or "
        "`pip install --upgrade --force-reinstall imageio-ffmpeg`"
    )


def test_tried_once_for_all_processes(place: Callable, tmp_path: Path) -> None:
    place(WITHOUT_X264)
    assert binary.binary() == BUNDLED
    before = (tmp_path / "runs").read_text()
    code = "from sop.media.binary import binary, version; print(binary(), version())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [BUNDLED, binary.version()]
    assert run.stderr == ""
    assert (tmp_path / "runs").read_text() == before
    # Another file is tried again.
    place("")
    os.environ["SOP_FFMPEG_TRIED"] = json.dumps({"another": {"version": "1", "problem": "old"}})
    assert binary.binary() != BUNDLED


def test_lack_that_shows_later_is_not_told_as_the_videos(
    place: Callable, tmp_path: Path, make_video: Callable
) -> None:
    video = make_video(tmp_path / "a.webm", "-c:v", "libvpx", "-c:a", "libvorbis")
    path = place(
        'case "$*" in *libx264*file:*) echo "[a @ 0x1] [error] Unknown encoder" >&2; exit 8; esac\n'
    )
    with pytest.raises(UserError, match="this ffmpeg cannot be used") as caught:
        to_mp4(video, tmp_path / "b.mp4", Limits())
    assert str(caught.value).startswith(f"{path}: ")


def test_trial_uses_all_that_the_code_uses() -> None:
    root = Path(binary.__file__).parents[1]
    folders = ("media", "separate", "player", "download", "report")
    code = "".join(p.read_text() for name in folders for p in (root / name).rglob("*.py"))
    trial = " ".join(binary._ENCODE)
    filters = set(re.findall(r"(?:\.|ffmpeg\.)filter\(\s*(?:\w+,\s*)?\"(\w+)\"", code))
    assert {"fps", "trim", "scale", "apad", "atrim", "aresample", "hstack", "aeval"} <= filters
    for name in filters:
        assert re.search(rf"\b{name}\b", trial), name
    encoders = set(re.findall(r"(?:vcodec|acodec)\"?[=:] ?\"(\w+)\"", code)) - {"copy"}
    assert {"libx264", "aac", "mjpeg", "pcm_s16le"} <= encoders
    for name in encoders:
        assert name.startswith("pcm_") or name in trial, name
