import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sop.cancellation.wav import writing_wav
from sop.download.container import to_mp4
from sop.extract.extraction import extract_video
from sop.media.decoding import PictureOutput, Probe, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits, binary
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.separate.video import open_sound, read_pictures, write_remix, write_video
from tests.support.flashes import FORMS, LATE, check_in_step, edges, onsets_of, render
from tests.support.flashes import PARAMS as EXTRACT
from tests.support.video_checks import (
    LIMITS,
    ODD_NAME,
    ffmpeg_report,
    is_fast_start,
    make_video_with,
    noise,
    pictures_of,
    sound_of,
)
from tests.support.videos import run_ffmpeg

FIVE_ONE, FIVE_ONE_SIDE = 0x3F, 0x60F


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6), (96000, 2)])
def test_lossless_sound(rate: int, channels: int, tmp_path: Path) -> None:
    stored = noise(rate, channels)
    soundfile.write(tmp_path / "a.wav", stored, rate)
    video = make_video_with(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with open_sound(video, Probe(1.0), LIMITS) as sound:
        assert (sound.sample_rate, sound.channels, sound.samples) == (rate, channels, rate)
        read = np.concatenate(list(sound.blocks))
    np.testing.assert_array_equal(read * 2**15, stored)


def test_channel_mask(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 6), 48000)
    for layout, mask in (("5.1", FIVE_ONE), ("5.1(side)", FIVE_ONE_SIDE)):
        video = make_video_with(
            *(tmp_path / "a.mkv", tmp_path / "a.wav"),
            *("-af", f"channelmap=0|1|2|3|4|5:{layout}", "-c:a", "flac"),
        )
        with open_sound(video, Probe(0.1), LIMITS) as sound:
            assert (sound.channels, sound.channel_mask) == (6, mask)
            with writing_wav(tmp_path / "b.wav", 48000, 6, sound.channel_mask) as file:
                for block in sound.blocks:
                    file.write(block)
        assert f" {layout}, " in ffmpeg_report(tmp_path / "b.wav")


@pytest.mark.parametrize(
    "form",
    [
        "sound begins late, TS",
        "pictures begin late, TS",
        "sound with a gap",
        "sound ends early",
        "cut without decoding",
    ],
)
def test_sound_is_synchronised_with_decode(form: str, tmp_path: Path) -> None:
    video = render(tmp_path / f"video.{FORMS[form].ending}", FORMS[form], run_ffmpeg)
    found = probe(video, LIMITS)
    small = SoundOutput(tmp_path / "decoded.wav", 11025)
    for _ in decode(video, found, small, PictureOutput(8, 48, 3), LIMITS):
        pass
    sound, rate = sound_of(video, tmp_path / "read.wav")
    assert soundfile.info(small.path).frames == round(found.seconds * 11025)
    assert len(sound) == round(found.seconds * rate)
    loud = np.flatnonzero(np.abs(sound).max(axis=1) > 0.25 * np.abs(sound).max())
    onsets = loud[np.diff(loud, prepend=-rate) > 0.1 * rate] / rate
    assert onsets.tolist() == pytest.approx(onsets_of(small.path), abs=0.002)


def test_invalid_samples(tmp_path: Path) -> None:
    stored = np.full((8000, 1), 0.5, np.float32)
    stored[:3, 0] = np.nan, np.inf, 1e30
    soundfile.write(tmp_path / "a.wav", stored, 8000, subtype="FLOAT")
    read, _ = sound_of(make_video_with(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:a", "pcm_f32le"))
    assert read[:4, 0].tolist() == [0, 0, 16, 0.5]


def test_incomplete_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(16000, 1), 8000)
    video = make_video_with(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with pytest.raises(LeftOut, match=r"only 2\.1 of 5\.0 s of sound could be decoded"):
        sound_with_length(video, 5.0)
    (tmp_path / "b.mp4").write_bytes(video.read_bytes()[:200])
    with pytest.raises(LeftOut, match="damaged: "):
        sound_with_length(tmp_path / "b.mp4", 2.0)


def sound_with_length(video: Path, seconds: float) -> None:
    with open_sound(video, Probe(seconds), LIMITS) as sound:
        list(sound.blocks)


def test_too_many_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 40), 8000)
    video = make_video_with(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with pytest.raises(LeftOut, match="the sound has 40 channels at 8000 Hz"):
        sound_with_length(video, 1.0)


def test_reader_that_stops_early(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(480000, 6), 48000)
    video = make_video_with(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with open_sound(video, Probe(10.0), LIMITS) as sound:
        assert len(next(sound.blocks))


def test_slow_reader(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(480000, 6), 48000)
    video = make_video_with(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with (
        pytest.raises(LeftOutForNow, match="took longer than"),
        open_sound(video, Probe(10.0), Limits(0.5)) as sound,
    ):
        for _ in sound.blocks:
            time.sleep(0.2)


REMIXED = {
    "pictures begin late, TS": ".mkv",
    "cut without decoding": ".mp4",
    "rotated by 90": ".mp4",
    "MOV": ".mov",
    "WebM, VP9": ".webm",
    "AVI, MPEG-4": ".mkv",
    "5.1, AC-3": ".mkv",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ending"), REMIXED.items(), ids=REMIXED.keys())
def test_remix_is_synchronised(name: str, ending: str, tmp_path: Path) -> None:
    form = FORMS[name]
    video = render(tmp_path / f"video.{form.ending}", form, run_ffmpeg)
    original, rate = sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(
        video, probe(video, LIMITS), tmp_path / "sound.wav", tmp_path / ODD_NAME, LIMITS
    )
    assert remix == tmp_path / (ODD_NAME + ending)
    mp4 = tmp_path / "stored.mp4"
    to_mp4(remix, mp4, LIMITS)
    extract_video(mp4, tmp_path / "small.wav", tmp_path / "frames.zip", EXTRACT)
    assert form.begin is not None
    flashes = [(begin - form.begin, end - form.begin) for begin, end in edges(form.rate)]
    check_in_step(tmp_path / "small.wav", tmp_path / "frames.zip", flashes)
    again, new_rate = sound_of(remix)
    assert again.shape[1] == original.shape[1]
    assert new_rate == (48000 if ending == ".webm" else rate)


def test_remix_copies_the_pictures(tmp_path: Path) -> None:
    video = render(tmp_path / "video.mp4", FORMS["pictures begin late"], run_ffmpeg)
    sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(
        video, probe(video, LIMITS), tmp_path / "sound.wav", tmp_path / "remix", LIMITS
    )

    def packets(path: Path) -> list[tuple[float, str]]:
        run = subprocess.run(
            [
                *(binary(), "-v", "error", "-i", path, "-map", "0", "-c", "copy"),
                *("-f", "framehash", "-hash", "md5", "-"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line.split(",") for line in run.stdout.splitlines() if line.startswith("0,")]
        base = next(s for s in run.stdout.splitlines() if s.startswith("#tb 0:")).split()[-1]
        numerator, denominator = map(int, base.split("/"))
        return [(int(row[2]) * numerator / denominator, row[-1].strip()) for row in rows]

    copied = packets(remix)
    assert copied[0][0] == pytest.approx(LATE)
    assert copied == packets(video)
    assert is_fast_start(remix)


def test_remix_keeps_rotation(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    upright = make_video_with(tmp_path / "upright.mp4", tmp_path / "a.wav", "-c:a", "aac")
    for ending in ("mp4", "mov"):
        turned = tmp_path / f"turned.{ending}"
        run_ffmpeg("-display_rotation", "90", "-i", upright, "-c", "copy", turned)
        remix = write_remix(turned, Probe(1.0), tmp_path / "a.wav", tmp_path / "remix", LIMITS)
        assert "rotation of 90.00 degrees" in ffmpeg_report(turned)
        assert "rotation of 90.00 degrees" in ffmpeg_report(remix)


def test_remix_falls_back_to_mkv(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    # H.264 in a Matroska file, which here is called a WebM.
    video = make_video_with(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:v", "libx264")
    video = video.rename(tmp_path / "a.webm")
    remix = write_remix(video, Probe(1.0), tmp_path / "a.wav", tmp_path / "remix", LIMITS)
    assert remix.suffix == ".mkv"
    assert sorted(p.name for p in tmp_path.glob("*remix*")) == ["remix.mkv"]


def test_remix_of_no_video(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    (tmp_path / "a.mp4").write_text("#EXTM3U\nhttp://example.org")
    with pytest.raises(LeftOut, match="not a video"):
        write_remix(tmp_path / "a.mp4", Probe(1.0), tmp_path / "a.wav", tmp_path / "remix", LIMITS)
    assert not list(tmp_path.glob("*remix*"))


def flat(height: int, width: int, levels: list[int]) -> list[NDArray[np.uint8]]:
    """Pictures of one colour each: orange, so that the channels differ."""
    colour = np.array([1, 0.6, 0.2])
    return [np.full((height, width, 3), level * colour).astype(np.uint8) for level in levels]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 1 s with sound."""
    folder = tmp_path_factory.mktemp("source")
    soundfile.write(folder / "a.wav", noise(11025, 1) / 2**16, 11025)
    return make_video_with(folder / "a.mp4", folder / "a.wav", "-c:a", "aac")


@pytest.mark.parametrize(("height", "width"), [(72, 96), (71, 95), (1, 1)])
def test_written_pictures(height: int, width: int, source: Path, tmp_path: Path) -> None:
    levels = [40, 80, 120, 160, 200, 240, 40, 240]
    place = tmp_path / ODD_NAME / "new.mp4"
    write_video(flat(height, width, levels), 8, source, Probe(1.0), place, LIMITS)
    assert is_fast_start(place)
    report = ffmpeg_report(place)
    assert "Video: h264" in report
    assert "yuv420p(tv, bt709" in report
    assert "Audio: aac (LC)" in report
    found = pictures_of(place, 8, height + height % 2)
    assert len(found) == 8
    wanted = np.stack(flat(height, width, levels))[:, 0, 0].astype(int)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), wanted, atol=6)
    assert [p.name for p in place.parent.iterdir()] == ["new.mp4"]


def test_written_video_is_synchronised(tmp_path: Path) -> None:
    form = FORMS["sound begins late, TS"]
    video = render(tmp_path / "video.ts", form, run_ffmpeg)
    found = probe(video, LIMITS)
    frames = pictures_of(video, 25, 128)
    write_video(iter(frames), 25, video, found, tmp_path / "new.mp4", LIMITS)
    extract_video(tmp_path / "new.mp4", tmp_path / "a.wav", tmp_path / "a.zip", EXTRACT)
    check_in_step(tmp_path / "a.wav", tmp_path / "a.zip", edges(form.rate))
    assert probe(tmp_path / "new.mp4", LIMITS).seconds == pytest.approx(found.seconds, abs=0.08)


def test_error_in_the_pictures(source: Path, tmp_path: Path) -> None:
    def frames() -> Iterator[NDArray[np.uint8]]:
        yield from flat(72, 96, [100] * 3)
        raise LeftOut("the frames are damaged")

    with pytest.raises(LeftOut, match="the frames are damaged"):
        write_video(frames(), 8, source, Probe(1.0), tmp_path / "new.mp4", LIMITS)
    with pytest.raises(ValueError, match="expected"):
        mixed = [*flat(72, 96, [1]), *flat(70, 96, [1])]
        write_video(mixed, 8, source, Probe(1.0), tmp_path / "new.mp4", LIMITS)
    with pytest.raises(LeftOut, match="no pictures"):
        write_video([], 8, source, Probe(1.0), tmp_path / "new.mp4", LIMITS)
    assert not list(tmp_path.iterdir())


def test_unreadable_sound(tmp_path: Path) -> None:
    for name in ("missing.mp4", "text.mp4"):
        if name.startswith("text"):
            (tmp_path / name).write_text("no sound")
        frames = flat(720, 960, [100] * 30)
        with pytest.raises(LeftOut, match=r"^damaged: .+$"):
            write_video(frames, 8, tmp_path / name, Probe(1.0), tmp_path / "new.mp4", LIMITS)
        assert not list(tmp_path.glob("*new*"))


def test_place_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    place = tmp_path / "a.wav" / "new.mp4"
    refused = pytest.raises(UserError, match=r"new\.mp4: cannot be written \(.+\); ")
    with refused:
        write_remix(source, Probe(1.0), tmp_path / "a.wav", place.with_suffix(""), LIMITS)
    with refused:
        write_video(flat(72, 96, [100]), 8, source, Probe(1.0), place, LIMITS)


def test_read_pictures(tmp_path: Path) -> None:
    video = tmp_path / f"{ODD_NAME}.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=119x60:r=10:d=2,setsar=2"]
    command += ["-f", "lavfi", "-i", "sine=d=2", "-c:v", "libx264", "-pix_fmt", "yuv444p"]
    subprocess.run([*command, f"file:{video}"], check=True, stdin=subprocess.DEVNULL)
    whole = list(read_pictures(video, Probe(2.0), 10.0, None, LIMITS))
    assert [picture.shape for picture in whole] == [(60, 238, 3)] * 20
    small = list(read_pictures(video, Probe(2.0), 5.0, 30, LIMITS))
    assert [picture.shape for picture in small] == [(30, 119, 3)] * 10
    (first,) = read_pictures(video, Probe(0.05), 5.0, 90, LIMITS)
    assert first.shape == (60, 238, 3)


def test_pictures_are_not_read_to_the_end(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=320x240:r=25:d=5"]
    command += ["-f", "lavfi", "-i", "sine=d=5", "-preset", "ultrafast", str(video)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    pictures = read_pictures(video, Probe(5.0), 25.0, None, LIMITS)
    assert next(pictures).shape == (240, 320, 3)
    pictures.close()
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(LeftOut, match="damaged"):
        list(read_pictures(tmp_path / "text.mp4", Probe(1.0), 25.0, None, LIMITS))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_time_limit(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=32x32:r=5:d=1"]
    command += ["-f", "lavfi", "-i", "sine=d=1", str(video)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert probe(video, Limits(float("inf"))).seconds == pytest.approx(1, abs=0.05)
