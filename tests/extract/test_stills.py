"""Videos that show a still or a slideshow are found, and moving ones are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sop.dataset.index import build_index
from sop.extract.extraction import extract_video
from tests.support import index as indexes
from tests.support.extraction import PARAMS, Folders

FIRST = "loop=loop=-1:size=1"
# Filters of the pictures, and how they are encoded.
STILLS = {
    "one picture": (FIRST, ("-crf", "28")),
    "coarse, with key frames": (FIRST, ("-b:v", "60k", "-g", "20")),
    "old codec": (FIRST, ("-c:v", "mpeg4", "-b:v", "150k")),
    "grain": (f"{FIRST},noise=alls=12:allf=t", ("-crf", "30")),
    "slides of two seconds": ("fps=1/2,fps=25", ("-crf", "28")),
}
MOVING = {
    "everything": ("null", ("-crf", "28")),
    "a small thing": (f"{FIRST}[s];color=white:s=12x12:r=25[b];[s][b]overlay=x=9+20*t:y=60", ()),
    "a slow thing": (f"{FIRST}[s];color=white:s=16x16:r=25[b];[s][b]overlay=x=9+12*t:y=60", ()),
}


def draw(run: Callable[..., None], path: Path, filters: str, codec: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    run(
        *("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25", "-f", "lavfi", "-i", "sine=r=11025"),
        *("-filter_complex", f"[0:v]{filters},format=yuv420p[v]", "-map", "[v]", "-map", "1:a"),
        *("-preset", "ultrafast", "-t", "6", "-r", "25", *codec, path),
    )
    return path


@pytest.mark.parametrize("name", [*STILLS, *MOVING])
def test_stills_are_told_from_motion(
    name: str, tmp_path: Path, ffmpeg_run: Callable[..., None]
) -> None:
    video = draw(ffmpeg_run, tmp_path / "a.mp4", *(STILLS | MOVING)[name])
    found = extract_video(video, None, tmp_path / "a.zip", PARAMS)
    if name in STILLS:
        assert found.still > 0.9
    else:
        assert found.still == 0


def test_real_slideshows(music_clips: list[Path], tmp_path: Path) -> None:
    # They show three pictures for two seconds each.
    for video in music_clips[::9]:
        found = extract_video(video, None, tmp_path / "a.zip", PARAMS)
        assert found.still == pytest.approx(0.957, abs=0.01)


def test_stills_are_reported_and_left_out_of_the_index_if_asked_to(
    tmp_path: Path,
    ffmpeg_run: Callable[..., None],
    make_video: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = Folders(tmp_path)
    draw(ffmpeg_run, folders.videos / "flute" / "still.mp4", *STILLS["one picture"])
    for name in ("flute/a", "flute/b", "tuba/c"):
        make_video(folders.videos / f"{name}.mp4")
    with caplog.at_level("INFO", "sop"):
        summary = folders.extract()
    assert "stills or slideshows: 1 of 4 videos, for example flute/still: 100%" in caplog.text
    assert "index.stills says whether they are used" in caplog.text
    assert "index.stills: false" not in caplog.text, "it may be false already"
    reasons = {"flute/still": "100% of its pictures equal the one before"}
    assert summary["stills"] == {"count": 1, "reasons": reasons}
    rows = json.loads((folders.frames / "manifest.json").read_text())
    assert {name for name, row in rows.items() if "still" in row} == {"flute/still"}
    # What is known of the pictures stays when only the sounds are made again.
    assert folders.extract(sample_rate=8000)["stills"] == summary["stills"]

    def index(**changes: bool) -> dict[str, str]:
        params = indexes.PARAMS.model_copy(update=changes)
        found = build_index(folders.audio, folders.frames, params, PARAMS.frame_rate)
        assert len(found.train) + len(found.validation) == 4 - len(found.left_out)
        return found.left_out

    assert index() == {}
    reason = "a still or slideshow, 100% of its pictures equal the one before, and index.stills"
    assert index(stills=False) == {"flute/still": f"{reason} is false"}
    (folders.frames / "manifest.json").unlink()
    with caplog.at_level("INFO", "sop"):
        assert index(stills=False) == {}
    assert "manifest.json not found, which says what is a still; all are kept" in caplog.text
