"""Flashes and bursts of sound that begin together are found together, whatever the container."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sop.dataset.clips import pack
from sop.download.container import to_mp4
from sop.extract.extraction import extract_video
from sop.media.decoding import CutOff, PictureOutput, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits
from tests.support.flashes import (
    AT_2,
    B_FRAMES,
    BEFORE_0,
    BURST_SECONDS,
    FORMS,
    PARAMS,
    SECONDS,
    Form,
    check_in_step,
    edges,
    onsets_of,
    render,
)
from tests.support.video_checks import LIMITS, sound_of


def check_form(form: Form, folder: Path, ffmpeg_run: Callable) -> None:
    """Render, store as the download stage does, extract and check."""
    video, mp4 = folder / f"video.{form.ending}", folder / "stored.mp4"
    to_mp4(render(video, form, ffmpeg_run), mp4, Limits())
    sound, frames = folder / "sound.wav", folder / "frames.zip"
    extract_video(mp4, sound, frames, PARAMS)
    end = min(form.sound_seconds, form.pictures_seconds)
    flashes = [flash for flash in edges(form.rate) if flash[1] < end]
    shift = flashes[0][0] - onsets_of(sound)[0] if form.begin is None else form.begin
    check_in_step(sound, frames, [(begin - shift, end - shift) for begin, end in flashes])


def check_separation(form: Form, folder: Path, ffmpeg_run: Callable) -> None:
    """Render, decode as `sop separate` does, and check the model's input and the full sound."""
    video, sound = folder / f"video.{form.ending}", folder / "sound.wav"
    found = probe(render(video, form, ffmpeg_run), LIMITS)
    pictures = PictureOutput(PARAMS.frame_rate, PARAMS.frame_height, PARAMS.jpeg_quality)
    jpegs = decode(video, found, SoundOutput(sound, PARAMS.sample_rate), pictures, LIMITS)
    pack(jpegs, folder / "frames.zip")
    assert form.begin is not None
    flashes = [(begin - form.begin, end - form.begin) for begin, end in edges(form.rate)]
    check_in_step(sound, folder / "frames.zip", flashes)
    full, rate = sound_of(video)
    assert len(full) == round(found.seconds * rate)
    loud = np.flatnonzero(np.abs(full).max(axis=1) > 0.25 * np.abs(full).max())
    onsets = loud[np.diff(loud, prepend=-rate) > BURST_SECONDS * rate] / rate
    assert onsets.tolist() == pytest.approx(onsets_of(sound), abs=0.003)


CASES = [
    # Every fourth also in the quick tests.
    pytest.param(form, id=name, marks=() if number % 4 == 0 else pytest.mark.slow)
    for number, (name, form) in enumerate(FORMS.items())
]


@pytest.mark.parametrize("form", CASES)
def test_sound_and_pictures_in_step(form: Form, tmp_path: Path, ffmpeg_run: Callable) -> None:
    check_form(form, tmp_path, ffmpeg_run)


STARTS = [
    pytest.param(form, id=name, marks=() if "MKV" in name else pytest.mark.slow)
    for name, form in FORMS.items()
    # The pictures of a WMV are a picture late, wherever it starts; `to_mp4` corrects that.
    if name.startswith("starts at") and form.ending != "wmv"
]


@pytest.mark.parametrize("form", STARTS)
def test_separation_in_step(form: Form, tmp_path: Path, ffmpeg_run: Callable) -> None:
    check_separation(form, tmp_path, ffmpeg_run)


@pytest.mark.parametrize("options", [AT_2, BEFORE_0], ids=["2 s", "-0.5 s"])
def test_cut_off_wherever_the_time_starts(
    options: tuple[str, ...], tmp_path: Path, ffmpeg_run: Callable
) -> None:
    form = Form("mkv", codecs=(*B_FRAMES, "-c:a", "aac", *options))
    video = render(tmp_path / "video.mkv", form, ffmpeg_run)
    assert probe(video, LIMITS).seconds == pytest.approx(SECONDS, abs=0.05)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    with pytest.raises(CutOff, match="cut off"):
        probe(video, LIMITS)


@pytest.mark.parametrize("delay", [0.1, -0.1, 0.07, -0.07])
def test_late_sound_is_detected(delay: float, tmp_path: Path, ffmpeg_run: Callable) -> None:
    with pytest.raises(AssertionError, match="sound is late by"):
        check_form(replace(FORMS["plain"], delay=delay), tmp_path, ffmpeg_run)


@pytest.mark.parametrize("delay", [0.1, -0.1])
def test_late_pictures_are_detected(delay: float, tmp_path: Path, ffmpeg_run: Callable) -> None:
    video = render(tmp_path / "video.mp4", FORMS["plain"], ffmpeg_run)
    extract_video(video, tmp_path / "sound.wav", tmp_path / "frames.zip", PARAMS)
    flashes = [(begin + delay, end + delay) for begin, end in edges("25")]
    with pytest.raises(AssertionError, match="pictures are late by"):
        check_in_step(tmp_path / "sound.wav", tmp_path / "frames.zip", flashes)
