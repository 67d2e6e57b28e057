import io
import wave
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sop.download.container import to_mp4
from sop.media import ffmpeg
from sop.media.binary import binary, version
from sop.media.decoding import PictureOutput, Probe, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits
from sop.runtime.errors import LeftOut

PICTURES = PictureOutput(frame_rate=8, height=72, quality=3)


def pictures_of(video: Path, output: PictureOutput = PICTURES) -> list[np.ndarray]:
    jpegs = decode(video, probe(video, Limits()), None, output, Limits())
    return [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]


def sound_of(video: Path, sample_rate: int = 11025) -> np.ndarray:
    place = video.with_suffix(".wav")
    assert (
        list(decode(video, probe(video, Limits()), SoundOutput(place, sample_rate), None, Limits()))
        == []
    )
    with wave.open(str(place)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert file.getframerate() == sample_rate
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_the_binary_is_there_and_names_its_version() -> None:
    assert Path(binary()).is_file()
    assert version()


@pytest.mark.parametrize("rate", ["12", "16", "24", "25", "30000/1001", "30"])
@pytest.mark.parametrize("wanted", [8, 3.5])
def test_a_frame_shows_the_middle_of_its_time(
    rate: str, wanted: float, tmp_path: Path, clock_video: Callable, read_clock: Callable
) -> None:
    video = clock_video(tmp_path / "clock.mp4", rate, 3.0)
    frames = pictures_of(video, PictureOutput(wanted, 72, 2))
    assert abs(len(frames) - 3 * wanted) <= 1
    source_rate = float(Fraction(rate))
    for number, frame in enumerate(frames, start=1):
        seconds = (number - 0.5) / wanted
        shown = (read_clock(frame) + 0.5) / source_rate
        assert abs(shown - seconds) <= 0.5 / source_rate + 1e-6


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "ts"])
@pytest.mark.parametrize("late", ["sound", "pictures", "neither"])
def test_sound_and_frames_stay_in_step(
    ending: str,
    late: str,
    tmp_path: Path,
    clock_video: Callable,
    read_clock: Callable,
    ffmpeg_run: Callable,
) -> None:
    offset = {"sound": 0.5, "pictures": -0.5, "neither": 0.0}[late]
    together = clock_video(tmp_path / "together.mp4", "24", 3.0)
    video = tmp_path / f"clock.{ending}"
    ffmpeg_run(
        *("-itsoffset", max(-offset, 0), "-i", together),
        *("-itsoffset", max(offset, 0), "-i", together),
        *("-map", "0:v", "-map", "1:a", "-c", "copy", video),
    )
    mp4 = tmp_path / "clock-as-kept.mp4"
    to_mp4(video, mp4, Limits())
    sound, frames = sound_of(mp4), pictures_of(mp4)
    assert abs(len(sound) / 11025 - len(frames) / 8) <= 1 / 8
    # The click is at second 1 of its stream, as picture 24 is of the other.
    click = np.abs(sound).argmax() / 11025
    numbers = [read_clock(frame) for frame in frames]
    begin = next(n for n, number in enumerate(numbers) if number >= 24) / 8
    assert click - begin == pytest.approx(offset, abs=0.5 / 8 + 0.5 / 24)


def test_equal_length_whichever_stream_is_longer(tmp_path: Path, make_video: Callable) -> None:
    for filters in (("-af", "atrim=end=1.3"), ("-vf", "trim=end=1.3")):
        video = make_video(tmp_path / "a.mp4", *filters)
        # AAC comes in packets of 1024 samples.
        assert probe(video, Limits()).seconds == pytest.approx(1.3, abs=1024 / 22050 + 1 / 24)
        assert len(pictures_of(video)) / 8 == pytest.approx(len(sound_of(video)) / 11025, abs=1 / 8)


def test_the_width_follows_the_picture_as_displayed(
    tmp_path: Path, make_video: Callable, ffmpeg_run: Callable
) -> None:
    output = PictureOutput(8, 48, 3)
    plain = make_video(tmp_path / "plain.mp4")
    assert pictures_of(plain, output)[0].shape == (48, 64, 3)
    wide = make_video(tmp_path / "wide.mp4", "-vf", "setsar=2")
    assert pictures_of(wide, output)[0].shape == (48, 128, 3)
    turned = tmp_path / "turned.mp4"
    ffmpeg_run("-display_rotation", "90", "-i", plain, "-c", "copy", turned)
    assert pictures_of(turned, output)[0].shape == (48, 36, 3)
    odd = make_video(tmp_path / "odd.mkv", "-vf", "crop=95:71", "-pix_fmt", "yuv444p")
    assert pictures_of(odd, output)[0].shape == (48, 64, 3)


def changing(tmp_path: Path, ffmpeg_run: Callable, sound_rates: tuple[int, int]) -> Path:
    """A video of 4 s whose pictures, and perhaps sound, are of another format after second 2."""
    joined = {"v.ts": b"", "a.ts": b""}
    for offset, size, rate in ((0, "96x72", sound_rates[0]), (2, "160x120", sound_rates[1])):
        for name, graph in (
            ("v.ts", f"testsrc2=s={size}:r=24:d=2"),
            ("a.ts", f"sine=440:r={rate}:d=2"),
        ):
            codec = ("-c:v", "libx264") if name == "v.ts" else ("-c:a", "mp2", "-ar", rate)
            part = tmp_path / "part.ts"
            ffmpeg_run("-f", "lavfi", "-i", graph, *codec, "-output_ts_offset", offset, part)
            joined[name] += part.read_bytes()
    for name, data in joined.items():
        (tmp_path / name).write_bytes(data)
    inputs = ("-i", tmp_path / "v.ts", "-i", tmp_path / "a.ts")
    ffmpeg_run(*inputs, "-c", "copy", "-f", "matroska", tmp_path / "changing.mkv")
    return tmp_path / "changing.mkv"


def test_pictures_that_change_size_go_on(tmp_path: Path, ffmpeg_run: Callable) -> None:
    pictures = pictures_of(changing(tmp_path, ffmpeg_run, (22050, 22050)))
    assert len(pictures) in (31, 32, 33)
    assert {picture.shape for picture in pictures} == {(72, 96, 3)}
    # The clock that the pictures show begins again at second 2, and only there.
    steps = [float(np.abs(a - b * 1.0).mean()) for a, b in pairwise(pictures)]
    assert int(np.argmax(steps)) in (14, 15, 16)


def test_sound_that_changes_its_rate_is_left_out(tmp_path: Path, ffmpeg_run: Callable) -> None:
    with pytest.raises(LeftOut, match="changes rate"):
        sound_of(changing(tmp_path, ffmpeg_run, (22050, 48000)))


@pytest.mark.parametrize(
    ("ending", "codecs"),
    [
        ("mkv", ("-c", "copy")),
        ("ts", ("-c", "copy")),
        ("webm", ("-c:v", "libvpx", "-c:a", "libopus")),
        ("avi", ("-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame")),
        ("mov", ("-c:v", "mjpeg", "-c:a", "pcm_s16le", "-ar", "48000", "-ac", "2")),
        ("mp4", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-ac", "6", "-ar", "8000")),
    ],
)
def test_containers_and_codecs(
    ending: str, codecs: tuple[str, ...], tmp_path: Path, make_video: Callable
) -> None:
    video = make_video(tmp_path / f"a.{ending}", *codecs)
    sound = sound_of(video)
    assert len(sound) / 11025 == pytest.approx(2.5, abs=0.1)
    assert np.abs(sound).max() > 500
    assert len(pictures_of(video)) in (19, 20, 21)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "<?xml version='1.0'?><MPD><BaseURL>{}</BaseURL></MPD>",
        "{}\n",
        "",
    ],
)
def test_no_file_is_read_through_a_playlist(
    text: str, tmp_path: Path, make_video: Callable
) -> None:
    secret = make_video(tmp_path / "secret.mp4")
    for ending in ("mp4", "m3u8", "ts"):
        playlist = tmp_path / f"list.{ending}"
        playlist.write_text(text.format(secret))
        with pytest.raises(LeftOut, match="not a video"):
            probe(playlist, Limits())


def test_leaving_a_decode_early_ends_ffmpeg(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4")
    jpegs = decode(video, Probe(2.5), None, PictureOutput(100, 720, 2), Limits())
    assert next(jpegs).startswith(b"\xff\xd8")
    jpegs.close()


def test_a_rate_is_passed_without_loss() -> None:
    assert ffmpeg.exact_rate(8.0) == "8"
    assert ffmpeg.exact_rate(29.97) == "2997/100"
