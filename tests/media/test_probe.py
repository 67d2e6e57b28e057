"""Which sound of a video is used, what is done with pictures and samples out of bounds."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sop.dataset.clips import pack
from sop.download.container import to_mp4
from sop.extract.extraction import extract_video
from sop.inference.recording import decoded_recording
from sop.media.decoding import MAX_AMPLITUDE, PictureOutput, SoundOutput, decode, probe
from sop.separate.video import read_pictures, write_remix, write_video
from tests.support.extraction import PARAMS
from tests.support.video_checks import LIMITS, make_video_with, sound_of

SILENT = "anullsrc=r=22050:cl=mono"
TONES = {330: "sine=330:r=22050", 660: "sine=660:r=22050"}


def make(place: Path, ffmpeg_run: Callable, sounds: list[str], dispositions: list[str]) -> Path:
    """Write a video of 2 s with several sounds."""
    inputs = [word for graph in sounds for word in ("-f", "lavfi", "-i", f"{graph}:d=2")]
    maps = [word for n in range(len(sounds)) for word in ("-map", f"{n + 1}:a")]
    flags = [w for n, d in enumerate(dispositions) for w in (f"-disposition:a:{n}", d)]
    ffmpeg_run(
        *("-f", "lavfi", "-i", "testsrc2=s=96x72:r=12:d=2", *inputs, "-map", "0:v", *maps),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", *flags, place),
    )
    return place


def pitch(sound: np.ndarray, rate: float) -> float:
    """Frequency of the loudest tone, Hz; 0 for silence."""
    samples = sound.reshape(len(sound), -1).mean(axis=1)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(power.argmax() * rate / len(samples)) if power.max() > 1 else 0.0


# The sounds in their order, which are flagged as default, the chosen one and what is said of it.
TRACKS = {
    "another is the default": (
        [TONES[330], TONES[660]],
        ["0", "default"],
        660,
        "its sound is track 2 of 2: the default one",
    ),
    "silent, and another is the default": (
        [SILENT, TONES[660], TONES[330]],
        ["0", "0", "default"],
        330,
        "its sound is track 3 of 3: the default one",
    ),
    "the default is silent": (
        [TONES[330], SILENT],
        ["0", "default"],
        330,
        "its sound is track 1 of 2: the first that sounds; track 2, which players take, is silent",
    ),
    "the first is silent, none is the default": (
        [SILENT, TONES[660]],
        ["0", "0"],
        660,
        "its sound is track 2 of 2: the first that sounds; track 1, which players take, is silent",
    ),
    "the first is the default": (
        [TONES[330], TONES[660]],
        ["default", "0"],
        330,
        "its sound is track 1 of 2: the default one",
    ),
}


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
@pytest.mark.parametrize("case", TRACKS.values(), ids=TRACKS.keys())
def test_same_sound_everywhere(
    case: tuple[list[str], list[str], int, str],
    ending: str,
    tmp_path: Path,
    ffmpeg_run: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sounds, dispositions, wanted, note = case
    video = make(tmp_path / f"a.{ending}", ffmpeg_run, sounds, dispositions)
    found = probe(video, LIMITS)
    if ending == "mp4" and "default" not in dispositions:
        # The writer of an MP4 marks the first one itself.
        note = note.replace("none is marked as the default", "the default one")
    assert found.sound_notes == (note,)
    assert found.format == "h264 96x72, " + ("aac" if ending == "mp4" else "vorbis") + (
        " 22050 Hz mono"
    )
    with caplog.at_level("INFO"):
        mp4 = tmp_path / "stored.mp4"
        to_mp4(video, mp4, LIMITS)
        extract_video(mp4, tmp_path / "a.wav", None, PARAMS)
        with decoded_recording(video, PARAMS) as recording:
            heard = recording.sound(0, recording.samples)
    assert note in caplog.text
    sound, rate = soundfile.read(tmp_path / "a.wav")
    assert pitch(sound, rate) == pytest.approx(wanted, abs=3)
    assert pitch(heard, 11025) == pytest.approx(wanted, abs=3)
    assert pitch(*sound_of(video)) == pytest.approx(wanted, abs=3)
    pictures = list(read_pictures(video, found, 4.0, None, LIMITS))
    write_video(iter(pictures), 4.0, video, found, tmp_path / "overlay.mp4", LIMITS)
    assert pitch(*sound_of(tmp_path / "overlay.mp4")) == pytest.approx(wanted, abs=3)


def test_all_sounds_silent(tmp_path: Path, ffmpeg_run: Callable) -> None:
    video = make(tmp_path / "a.mkv", ffmpeg_run, [SILENT, SILENT], ["0", "default"])
    assert probe(video, LIMITS).sound_notes == ("its sound is track 2 of 2: the default one",)


def test_one_sound_needs_no_word(tmp_path: Path, make_video: Callable) -> None:
    found = probe(make_video(tmp_path / "a.mp4"), LIMITS)
    assert (found.sound, found.notes, found.cleaned_samples) == ("a:0", (), 0)


@pytest.mark.parametrize(
    ("size", "extracted", "note"),
    [
        ("1000x16", (192, 48), "its pictures of 1000 x 16 pixels are longer than 4:1"),
        ("16x1000", (12, 48), "its pictures of 16 x 1000 pixels are longer than 4:1"),
        ("10000x16", (192, 48), "its pictures of 10000 x 16 pixels are longer than 4:1"),
        ("256x64", (192, 48), ""),
        ("64x256", (12, 48), ""),
        ("250x70", (172, 48), ""),
    ],
)
def test_long_pictures(
    size: str, extracted: tuple[int, int], note: str, tmp_path: Path, ffmpeg_run: Callable
) -> None:
    video = tmp_path / "a.mp4"
    ffmpeg_run(
        *("-f", "lavfi", "-i", f"testsrc2=s={size}:r=8:d=1", "-f", "lavfi", "-i", "sine=d=1"),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", video),
    )
    found = probe(video, LIMITS)
    assert [text.partition(";")[0] for text in found.picture_notes] == [note] * bool(note)
    with decoded_recording(video, PARAMS) as recording:
        height, width = recording.frames(0.5, 1, 1, 24).shape[1:3]
        assert (width, height) == (extracted[0] // 2, 24) or (width, height) == (24, 96)
    jpegs = list(decode(video, found, None, PictureOutput(8, 48, 3), LIMITS))
    archive = tmp_path / "frames.zip"
    pack(jpegs, archive)
    with zipfile.ZipFile(archive) as file, Image.open(file.open("000001.jpg")) as image:
        assert image.size == extracted
    (shown,) = read_pictures(video, found, 1.0, 48, LIMITS)
    assert shown.shape[1] <= 4 * 48
    assert shown.shape[0] <= 48


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    stored = (0.25 * np.sin(np.arange(16000) * 0.3)).astype(np.float32)[:, None]
    bad = stored.copy()
    bad[4000:4003, 0] = np.nan, np.inf, -1e30
    for name, samples in (("good", stored), ("bad", bad)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000, subtype="FLOAT")
        codecs = ("-c:a", "pcm_f32le")
        make_video_with(tmp_path / f"{name}.mkv", tmp_path / f"{name}.wav", *codecs)
    found = probe(tmp_path / "bad.mkv", LIMITS)
    assert found.cleaned_samples == 3
    assert found.notes == (
        "3 samples of its sound are no numbers, which become 0, or above 24 dB of full scale, "
        "which are clipped",
    )
    assert probe(tmp_path / "good.mkv", LIMITS).notes == ()
    read, _ = sound_of(tmp_path / "bad.mkv")
    assert read[4000:4003, 0].tolist() == [0, 0, -MAX_AMPLITUDE]
    np.testing.assert_array_equal(
        np.delete(read, range(4000, 4003), 0)[:15000],
        np.delete(stored, range(4000, 4003), 0)[:15000],
    )
    # For the model: no more than the clipped sample differs.
    heard = []
    for name in ("good", "bad"):
        output = SoundOutput(tmp_path / f"{name}-mono.wav", 8000)
        video = tmp_path / f"{name}.mkv"
        assert list(decode(video, probe(video, LIMITS), output, None, LIMITS)) == []
        heard.append(soundfile.read(output.path)[0])
    assert np.flatnonzero(heard[0] != heard[1]).tolist() == [4000, 4001, 4002]


def test_video_with_sound_that_is_no_number_can_be_written(tmp_path: Path) -> None:
    stored = np.full((16000, 2), 0.1, np.float32)
    stored[100:200] = np.nan
    stored[300] = 3e38
    soundfile.write(tmp_path / "a.wav", stored, 8000, subtype="FLOAT")
    video = make_video_with(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:a", "pcm_f32le")
    found = probe(video, LIMITS)
    pictures = read_pictures(video, found, 4.0, None, LIMITS)
    write_video(pictures, 4.0, video, found, tmp_path / "overlay.mp4", LIMITS)
    assert probe(tmp_path / "overlay.mp4", LIMITS).seconds == pytest.approx(2, abs=0.3)


def test_remix_of_another_track(tmp_path: Path, ffmpeg_run: Callable) -> None:
    video = make(tmp_path / "a.mkv", ffmpeg_run, [SILENT, TONES[660]], ["0", "0"])
    found = probe(video, LIMITS)
    sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(video, found, tmp_path / "sound.wav", tmp_path / "remix", LIMITS)
    assert pitch(*sound_of(remix)) == pytest.approx(660, abs=3)


@pytest.mark.parametrize("name", ["x.wav", "x.txt", "x.mp3", "x"])
def test_the_suffix_does_not_decide(name: str, tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4").rename(tmp_path / name)
    found = probe(video, LIMITS)
    assert found.format == "h264 96x72, aac 22050 Hz mono"
    sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(video, found, tmp_path / "sound.wav", tmp_path / "remix", LIMITS)
    assert remix.suffix == ".mp4"
