from pathlib import Path

import numpy as np
import pytest
import soundfile

from sop.extract.extraction import extract_video
from sop.player.clip import limits_of, write_clip, write_side_by_side
from sop.runtime.errors import LeftOut, UserError
from tests.support.flashes import FORMS, check_in_step, edges, render
from tests.support.flashes import PARAMS as EXTRACT
from tests.support.video_checks import (
    LIMITS,
    ODD_NAME,
    ffmpeg_report,
    is_fast_start,
    noise,
    pictures_of,
    sound_of,
)
from tests.support.videos import run_ffmpeg


@pytest.fixture(scope="module")
def counting_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large, rotated video of 12 s; each second has a grey level and a tone of its own."""
    folder = tmp_path_factory.mktemp("counting")
    rate = 44100
    at = np.arange(12 * rate) / rate
    tones = 0.3 * np.sin(2 * np.pi * (200 + 100 * at.astype(int)) * at)
    soundfile.write(folder / "a.wav", tones, rate)
    levels = (40 + 15 * np.arange(12, dtype=np.uint8)).repeat(25)
    video = folder / "flat.mp4"
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "gray", "-s", "16x12", "-framerate", "25", "-i", "pipe:0"),
        *("-i", folder / "a.wav", "-vf", "scale=720:540", "-pix_fmt", "yuv420p"),
        *("-preset", "ultrafast", "-bf", "2", "-g", "90", "-c:a", "aac", video),
        stdin=levels.repeat(16 * 12).tobytes(),
    )
    run_ffmpeg("-display_rotation", "90", "-i", video, "-c", "copy", folder / "counting.mp4")
    return folder / "counting.mp4"


@pytest.mark.parametrize(("begin", "seconds"), [(0.0, 2.0), (7.48, 2.0), (9.52, 9.0)])
def test_clip_is_exact(begin: float, seconds: float, counting_video: Path, tmp_path: Path) -> None:
    place = tmp_path / "clip.mp4"
    write_clip(counting_video, begin, seconds, place, LIMITS)
    length = min(seconds, 12 - begin)
    pictures = pictures_of(place, 25, 480)
    assert pictures.shape[2] == 360
    assert len(pictures) == round(25 * length)
    at = begin + (np.arange(len(pictures)) + 0.5) / 25
    grey = 40 + 15 * np.floor(at)
    np.testing.assert_allclose(pictures.mean(axis=(1, 2, 3)), grey, atol=4)
    sound, rate = sound_of(place)
    assert len(sound) / rate == pytest.approx(length, abs=0.03)
    for middle in np.arange(np.ceil(begin), np.floor(begin + length)) + 0.5:
        cut = round((middle - begin) * rate)
        spectrum = np.abs(np.fft.rfft(sound[cut - rate // 8 : cut + rate // 8, 0]))
        assert 4 * spectrum.argmax() == 200 + 100 * int(middle)


def test_clip_plays_in_browsers(counting_video: Path, tmp_path: Path) -> None:
    place = tmp_path / ODD_NAME / "clip.mp4"
    write_clip(counting_video, 3.0, 6.0, place, LIMITS)
    report = ffmpeg_report(place)
    assert is_fast_start(place)
    assert "Video: h264" in report
    assert "yuv420p" in report
    assert "360x480" in report
    assert "rotation" not in report
    assert "Audio: aac (LC)" in report
    assert place.stat().st_size < 500_000


def test_clip_of_late_pictures(tmp_path: Path) -> None:
    form = FORMS["pictures begin late, TS"]
    video = render(tmp_path / "video.ts", form, run_ffmpeg)
    begin = 0.5
    write_clip(video, begin, 4.0, tmp_path / "clip.mp4", LIMITS)
    extract_video(tmp_path / "clip.mp4", tmp_path / "a.wav", tmp_path / "a.zip", EXTRACT)
    flashes = [(a - begin, b - begin) for a, b in edges(form.rate)]
    check_in_step(tmp_path / "a.wav", tmp_path / "a.zip", flashes)


def test_clip_of_slow_pictures(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(6 * 8000, 1), 8000)
    levels = 40 + 15 * np.arange(6, dtype=np.uint8)
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "gray", "-s", "16x12", "-framerate", "1", "-i", "pipe:0"),
        *("-i", tmp_path / "a.wav", "-pix_fmt", "yuv420p", tmp_path / "slow.mp4"),
        stdin=levels.repeat(16 * 12).tobytes(),
    )
    write_clip(tmp_path / "slow.mp4", 1.48, 2.0, tmp_path / "clip.mp4", LIMITS)
    pictures = pictures_of(tmp_path / "clip.mp4", 25, 12)
    at = 1.48 + (np.arange(50) + 0.5) / 25
    wrong = np.abs(pictures.mean(axis=(1, 2, 3)) - (40 + 15 * np.floor(at))) > 4
    # Only at transitions between pictures.
    assert wrong.sum() <= 2


def test_clip_after_the_end(counting_video: Path, tmp_path: Path) -> None:
    with pytest.raises(LeftOut, match="ends before second 20"):
        write_clip(counting_video, 20.0, 2.0, tmp_path / "clip.mp4", LIMITS)
    assert not list(tmp_path.iterdir())


def test_limits_of() -> None:
    assert limits_of(10).seconds == 3600
    assert limits_of(7200).seconds == 72000


def test_clip_that_cannot_be_written(counting_video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"new\.mp4: cannot be written \(.+\); "):
        write_clip(counting_video, 0.0, 2.0, tmp_path / "file" / "new.mp4", LIMITS)


def test_side_by_side(counting_video: Path, tmp_path: Path) -> None:
    clips = [tmp_path / f"{n}.mp4" for n in range(2)]
    for begin, clip in enumerate(clips):
        write_clip(counting_video, 5.0 * begin, 1.0, clip, LIMITS)
    soundfile.write(tmp_path / "a.wav", noise(8000, 1), 8000)
    place = tmp_path / "both.mp4"
    write_side_by_side(clips, tmp_path / "a.wav", 64, place, LIMITS)
    pictures = pictures_of(place, 25, 64)
    assert pictures.shape[1:3] == (64, 128)
    left, right = pictures[12, :, :64].mean(), pictures[12, :, 64:].mean()
    assert left == pytest.approx(40, abs=4)
    assert right == pytest.approx(40 + 15 * 5, abs=4)
    assert is_fast_start(place)
    with pytest.raises(LeftOut):
        write_side_by_side([tmp_path / "a.wav"], tmp_path / "a.wav", 64, place, LIMITS)
