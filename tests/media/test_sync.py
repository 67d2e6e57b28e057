"""Flashes and bursts of sound that begin together are found together, whatever the container."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sop.download.container import to_mp4
from sop.extract.extraction import extract_video
from sop.media.ffmpeg import Limits
from tests.support.flashes import FORMS, PARAMS, Form, check_in_step, edges, onsets_of, render


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


CASES = [
    # Every fourth also in the quick tests.
    pytest.param(form, id=name, marks=() if number % 4 == 0 else pytest.mark.slow)
    for number, (name, form) in enumerate(FORMS.items())
]


@pytest.mark.parametrize("form", CASES)
def test_sound_and_pictures_in_step(form: Form, tmp_path: Path, ffmpeg_run: Callable) -> None:
    check_form(form, tmp_path, ffmpeg_run)


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
