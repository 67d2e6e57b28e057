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
from sop.media.decoding import PictureOutput, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits, binary, probe_header
from sop.params import ExtractParams
from sop.player.video import (
    limits_of,
    reading_pictures,
    reading_sound,
    write_clip,
    write_remix,
    write_video,
)
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from tests.support.flashes import FORMS, LATE, check_in_step, edges, onsets_of, render
from tests.support.videos import run_ffmpeg

LIMITS = Limits(60.0)
ODD_NAME = '-x "it\'s" 50%d & <script>;$(a):b'
FIVE_ONE, FIVE_ONE_SIDE = 0x3F, 0x60F

EXTRACT = ExtractParams(
    frame_rate=8.0,
    frame_height=48,
    jpeg_quality=3,
    sample_rate=11025,
    timeout_seconds=60.0,
    memory_limit_mib=512,
)


def sound_of(video: Path, place: Path | None = None) -> tuple[NDArray[np.float32], int]:
    """The whole sound, (L, channels), and its rate; written to a place too."""
    with reading_sound(video, probe(video, LIMITS).seconds, LIMITS) as sound:
        read = np.concatenate(list(sound.blocks))
        assert read.shape == (sound.samples, sound.channels)
        assert read.dtype == np.float32
        if place is not None:
            with writing_wav(place, sound.sample_rate, sound.channels, sound.channel_mask) as file:
                file.write(read)
    return read, sound.sample_rate


def pictures_of(video: Path, rate: float, height: int) -> NDArray[np.uint8]:
    """All pictures as ffmpeg decodes them, (T, H, W, 3)."""
    run = subprocess.run(
        [
            *(binary(), "-v", "error", "-i", video, "-vf", f"fps={rate}:start_time=0:round=near"),
            *("-an", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return np.frombuffer(run.stdout, np.uint8).reshape(-1, height, run_width(video, height), 3)


def run_width(video: Path, height: int) -> int:
    size = probe_header(video, LIMITS).format.split()[1].rstrip(",")
    width, _, found = size.partition("x")
    assert int(found) == height
    return int(width)


def said_of(video: Path) -> str:
    """What ffmpeg says of a file."""
    run = subprocess.run([binary(), "-hide_banner", "-i", video], capture_output=True, text=True)
    return run.stderr


def begins_fast(mp4: Path) -> bool:
    """Whether a browser can play it before it has all of it."""
    content = mp4.read_bytes()
    return 0 < content.find(b"moov") < content.find(b"mdat")


def noise(samples: int, channels: int) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-(2**15), 2**15, (samples, channels), np.int16)


def video_of(
    place: Path, sound: Path, *codecs: str, pictures: str = "testsrc2=s=96x72:r=25"
) -> Path:
    """Pictures with a given sound, as long as it is."""
    seconds = soundfile.info(sound).duration
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"{pictures}:d={seconds}", "-i", f"file:{sound}"),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", *codecs, f"file:{place}"),
    )
    return place


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6), (96000, 2)])
def test_sound_that_is_stored_without_loss_is_read_without_loss(
    rate: int, channels: int, tmp_path: Path
) -> None:
    stored = noise(rate, channels)
    soundfile.write(tmp_path / "a.wav", stored, rate)
    video = video_of(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with reading_sound(video, 1.0, LIMITS) as sound:
        assert (sound.sample_rate, sound.channels, sound.samples) == (rate, channels, rate)
        read = np.concatenate(list(sound.blocks))
    np.testing.assert_array_equal(read * 2**15, stored)


def test_which_loudspeakers_channels_are_for_is_kept(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 6), 48000)
    for layout, mask in (("5.1", FIVE_ONE), ("5.1(side)", FIVE_ONE_SIDE)):
        video = video_of(
            *(tmp_path / "a.mkv", tmp_path / "a.wav"),
            *("-af", f"channelmap=0|1|2|3|4|5:{layout}", "-c:a", "flac"),
        )
        with reading_sound(video, 0.1, LIMITS) as sound:
            assert (sound.channels, sound.channel_mask) == (6, mask)
            with writing_wav(tmp_path / "b.wav", 48000, 6, sound.channel_mask) as file:
                for block in sound.blocks:
                    file.write(block)
        assert f" {layout}, " in said_of(tmp_path / "b.wav")


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
def test_sound_is_in_step_with_what_decode_makes(form: str, tmp_path: Path) -> None:
    video = render(tmp_path / f"video.{FORMS[form].ending}", FORMS[form], run_ffmpeg)
    seconds = probe(video, LIMITS).seconds
    small = SoundOutput(tmp_path / "decoded.wav", 11025)
    for _ in decode(video, seconds, small, PictureOutput(8, 48, 3), LIMITS):
        pass
    sound, rate = sound_of(video, tmp_path / "read.wav")
    assert soundfile.info(small.path).frames == round(seconds * 11025)
    assert len(sound) == round(seconds * rate)
    loud = np.flatnonzero(np.abs(sound).max(axis=1) > 0.25 * np.abs(sound).max())
    onsets = loud[np.diff(loud, prepend=-rate) > 0.1 * rate] / rate
    assert onsets.tolist() == pytest.approx(onsets_of(small.path), abs=0.002)


def test_numbers_that_are_no_sound_are_silence(tmp_path: Path) -> None:
    stored = np.full((8000, 1), 0.5, np.float32)
    stored[:3, 0] = np.nan, np.inf, 1e30
    soundfile.write(tmp_path / "a.wav", stored, 8000, subtype="FLOAT")
    read, _ = sound_of(video_of(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:a", "pcm_f32le"))
    assert read[:4, 0].tolist() == [0, 0, 16, 0.5]


def test_sound_that_is_not_all_there_is_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(16000, 1), 8000)
    video = video_of(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with pytest.raises(LeftOut, match=r"sound of only 2\.1 of 5\.0 s could be decoded"):
        sound_with_length(video, 5.0)
    (tmp_path / "b.mp4").write_bytes(video.read_bytes()[:200])
    with pytest.raises(LeftOut, match="damaged: "):
        sound_with_length(tmp_path / "b.mp4", 2.0)


def sound_with_length(video: Path, seconds: float) -> None:
    with reading_sound(video, seconds, LIMITS) as sound:
        list(sound.blocks)


def test_more_channels_than_music_has_are_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 40), 8000)
    video = video_of(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with pytest.raises(LeftOut, match="its sound has 40 channels at 8000 Hz"):
        sound_with_length(video, 1.0)


def test_whoever_stops_listening_in_the_middle_is_not_told_of_damage(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(480000, 6), 48000)
    video = video_of(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with reading_sound(video, 10.0, LIMITS) as sound:
        assert len(next(sound.blocks))


def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(480000, 6), 48000)
    video = video_of(tmp_path / "a.mov", tmp_path / "a.wav", "-c:a", "pcm_s16le")
    with (
        pytest.raises(LeftOutForNow, match="took longer than"),
        reading_sound(video, 10.0, Limits(0.5)) as sound,
    ):
        for _ in sound.blocks:
            time.sleep(0.2)


def test_limits_allow_for_long_videos() -> None:
    assert limits_of(10).seconds == 3600
    assert limits_of(7200).seconds == 72000


REMIXED = {
    "pictures begin late": ".mp4",
    "pictures begin late, TS": ".mkv",
    "sound begins late": ".mp4",
    "cut without decoding": ".mp4",
    "rotated by 90": ".mp4",
    "MOV": ".mov",
    "WebM, VP9": ".webm",
    "AVI, MPEG-4": ".mkv",
    "5.1, AC-3": ".mkv",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ending"), REMIXED.items(), ids=REMIXED.keys())
def test_a_remix_is_in_step_in_the_container_of_its_video(
    name: str, ending: str, tmp_path: Path
) -> None:
    form = FORMS[name]
    video = render(tmp_path / f"video.{form.ending}", form, run_ffmpeg)
    heard, rate = sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(video, tmp_path / "sound.wav", tmp_path / ODD_NAME, LIMITS)
    assert remix == tmp_path / (ODD_NAME + ending)
    mp4 = tmp_path / "stored.mp4"
    to_mp4(remix, mp4, LIMITS)
    extract_video(mp4, tmp_path / "small.wav", tmp_path / "frames.zip", EXTRACT)
    assert form.begin is not None
    flashes = [(begin - form.begin, end - form.begin) for begin, end in edges(form.rate)]
    check_in_step(tmp_path / "small.wav", tmp_path / "frames.zip", flashes)
    again, new_rate = sound_of(remix)
    assert again.shape[1] == heard.shape[1]
    assert new_rate == (48000 if ending == ".webm" else rate)


def test_pictures_of_a_remix_are_the_original_ones_and_begin_as_late(tmp_path: Path) -> None:
    video = render(tmp_path / "video.mp4", FORMS["pictures begin late"], run_ffmpeg)
    sound_of(video, tmp_path / "sound.wav")
    remix = write_remix(video, tmp_path / "sound.wav", tmp_path / "remix", LIMITS)

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
    assert begins_fast(remix)


def test_rotation_is_kept_in_a_remix(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    upright = video_of(tmp_path / "upright.mp4", tmp_path / "a.wav", "-c:a", "aac")
    for ending in ("mp4", "mov"):
        turned = tmp_path / f"turned.{ending}"
        run_ffmpeg("-display_rotation", "90", "-i", upright, "-c", "copy", turned)
        remix = write_remix(turned, tmp_path / "a.wav", tmp_path / "remix", LIMITS)
        assert "rotation of 90.00 degrees" in said_of(turned)
        assert "rotation of 90.00 degrees" in said_of(remix)


def test_what_its_container_cannot_hold_becomes_an_mkv(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    # H.264 in a Matroska file, which here is called a WebM.
    video = video_of(tmp_path / "a.mkv", tmp_path / "a.wav", "-c:v", "libx264")
    video = video.rename(tmp_path / "a.webm")
    remix = write_remix(video, tmp_path / "a.wav", tmp_path / "remix", LIMITS)
    assert remix.suffix == ".mkv"
    assert sorted(p.name for p in tmp_path.glob("*remix*")) == ["remix.mkv"]


def test_a_remix_of_what_is_no_video_leaves_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    (tmp_path / "a.mp4").write_text("#EXTM3U\nhttp://example.org")
    with pytest.raises(LeftOut, match="not a video"):
        write_remix(tmp_path / "a.mp4", tmp_path / "a.wav", tmp_path / "remix", LIMITS)
    assert not list(tmp_path.glob("*remix*"))


def flat(height: int, width: int, levels: list[int]) -> list[NDArray[np.uint8]]:
    """Frames of one colour each: orange, so that no two channels are alike."""
    colour = np.array([1, 0.6, 0.2])
    return [np.full((height, width, 3), level * colour).astype(np.uint8) for level in levels]


@pytest.mark.parametrize(("height", "width"), [(72, 96), (71, 95), (1, 1)])
def test_a_written_video_shows_its_frames_in_browsers(
    height: int, width: int, tmp_path: Path
) -> None:
    with writing_wav(tmp_path / "a.wav", 11025, 1) as file:
        file.write(noise(11025, 1) / np.float32(2**16))
    levels = [40, 80, 120, 160, 200, 240, 40, 240]
    place = tmp_path / ODD_NAME / "new.mp4"
    write_video(flat(height, width, levels), 8, tmp_path / "a.wav", 1.0, place, LIMITS)
    assert begins_fast(place)
    said = said_of(place)
    assert "Video: h264" in said
    assert "yuv420p(tv, bt709" in said
    assert "Audio: aac (LC)" in said
    found = pictures_of(place, 8, height + height % 2)
    assert len(found) == 8
    wanted = np.stack(flat(height, width, levels))[:, 0, 0].astype(int)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), wanted, atol=6)
    assert [p.name for p in place.parent.iterdir()] == ["new.mp4"]


def test_a_written_video_is_in_step_with_the_sound_of_the_one_it_shows(tmp_path: Path) -> None:
    form = FORMS["sound begins late, TS"]
    video = render(tmp_path / "video.ts", form, run_ffmpeg)
    seconds = probe(video, LIMITS).seconds
    frames = pictures_of(video, 25, 128)
    write_video(iter(frames), 25, video, seconds, tmp_path / "new.mp4", LIMITS)
    extract_video(tmp_path / "new.mp4", tmp_path / "a.wav", tmp_path / "a.zip", EXTRACT)
    check_in_step(tmp_path / "a.wav", tmp_path / "a.zip", edges(form.rate))
    assert probe(tmp_path / "new.mp4", LIMITS).seconds == pytest.approx(seconds, abs=0.08)


def test_an_error_in_the_frames_is_not_lost_and_leaves_no_video(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(11025, 1), 11025)

    def frames() -> Iterator[NDArray[np.uint8]]:
        yield from flat(72, 96, [100] * 3)
        raise LeftOut("the frames are damaged")

    with pytest.raises(LeftOut, match="the frames are damaged"):
        write_video(frames(), 8, tmp_path / "a.wav", 1.0, tmp_path / "new.mp4", LIMITS)
    with pytest.raises(ValueError, match="expected"):
        mixed = [*flat(72, 96, [1]), *flat(70, 96, [1])]
        write_video(mixed, 8, tmp_path / "a.wav", 1.0, tmp_path / "new.mp4", LIMITS)
    with pytest.raises(LeftOut, match="no pictures"):
        write_video([], 8, tmp_path / "a.wav", 1.0, tmp_path / "new.mp4", LIMITS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_a_sound_that_ffmpeg_cannot_read_ends_a_written_video_in_one_line(tmp_path: Path) -> None:
    for name in ("missing.wav", "missing.mp4", "text.wav", "text.mp4"):
        if name.startswith("text"):
            (tmp_path / name).write_text("no sound")
        frames = flat(720, 960, [100] * 30)
        with pytest.raises(LeftOut, match=r"^damaged: .+$"):
            write_video(frames, 8, tmp_path / name, 1.0, tmp_path / "new.mp4", LIMITS)
        assert not list(tmp_path.glob("*new*"))


@pytest.fixture(scope="module")
def counting_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s whose every second has another grey and another tone; large, and lying on its side."""
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


@pytest.mark.parametrize(("begin", "seconds"), [(0.0, 2.0), (1.48, 2.0), (7.0, 3.0), (9.52, 9.0)])
def test_a_clip_is_exactly_its_stretch(
    begin: float, seconds: float, counting_video: Path, tmp_path: Path
) -> None:
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
        heard = np.abs(np.fft.rfft(sound[cut - rate // 8 : cut + rate // 8, 0]))
        assert 4 * heard.argmax() == 200 + 100 * int(middle)


def test_a_clip_is_small_and_plays_in_browsers(counting_video: Path, tmp_path: Path) -> None:
    place = tmp_path / ODD_NAME / "clip.mp4"
    write_clip(counting_video, 3.0, 6.0, place, LIMITS)
    said = said_of(place)
    assert begins_fast(place)
    assert "Video: h264" in said
    assert "yuv420p" in said
    assert "360x480" in said
    assert "rotation" not in said
    assert "Audio: aac (LC)" in said
    assert place.stat().st_size < 500_000


def test_a_clip_of_a_late_picture_is_in_step(tmp_path: Path) -> None:
    form = FORMS["pictures begin late, TS"]
    video = render(tmp_path / "video.ts", form, run_ffmpeg)
    begin = 0.5
    write_clip(video, begin, 4.0, tmp_path / "clip.mp4", LIMITS)
    extract_video(tmp_path / "clip.mp4", tmp_path / "a.wav", tmp_path / "a.zip", EXTRACT)
    flashes = [(a - begin, b - begin) for a, b in edges(form.rate)]
    check_in_step(tmp_path / "a.wav", tmp_path / "a.zip", flashes)


def test_a_clip_of_pictures_that_stay_for_long_is_exactly_its_stretch(tmp_path: Path) -> None:
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
    # At most where one picture follows the other.
    assert wrong.sum() <= 2


def test_a_clip_from_after_the_end_is_left_out(counting_video: Path, tmp_path: Path) -> None:
    with pytest.raises(LeftOut, match="ends before second 20"):
        write_clip(counting_video, 20.0, 2.0, tmp_path / "clip.mp4", LIMITS)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named_in_one_line(
    counting_video: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(8000, 2), 8000)
    place = tmp_path / "a.wav" / "new.mp4"
    refused = pytest.raises(UserError, match=r"new\.mp4: cannot be written \(.+\)$")
    with refused:
        write_clip(counting_video, 0.0, 2.0, place, LIMITS)
    with refused:
        write_remix(counting_video, tmp_path / "a.wav", place.with_suffix(""), LIMITS)
    with refused:
        write_video(flat(72, 96, [100]), 8, tmp_path / "a.wav", 1.0, place, LIMITS)


def test_pictures_are_as_on_display_and_in_time(tmp_path: Path) -> None:
    video = tmp_path / f"{ODD_NAME}.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=121x60:r=10:d=2,setsar=2"]
    command += ["-f", "lavfi", "-i", "sine=d=2", "-c:v", "libx264", "-pix_fmt", "yuv444p"]
    subprocess.run([*command, f"file:{video}"], check=True, stdin=subprocess.DEVNULL)
    whole = list(reading_pictures(video, 2.0, 10.0, None, LIMITS))
    assert [picture.shape for picture in whole] == [(60, 242, 3)] * 20
    small = list(reading_pictures(video, 2.0, 5.0, 30, LIMITS))
    assert [picture.shape for picture in small] == [(30, 121, 3)] * 10
    (first,) = reading_pictures(video, 0.05, 5.0, 90, LIMITS)
    assert first.shape == (60, 242, 3)


def test_pictures_may_be_left_in_the_middle(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=320x240:r=25:d=20"]
    command += ["-f", "lavfi", "-i", "sine=d=20", "-preset", "ultrafast", str(video)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    pictures = reading_pictures(video, 20.0, 25.0, None, LIMITS)
    assert next(pictures).shape == (240, 320, 3)
    pictures.close()
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(LeftOut, match="damaged"):
        list(reading_pictures(tmp_path / "text.mp4", 1.0, 25.0, None, LIMITS))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_time_may_have_no_limit(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    command = [binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=s=32x32:r=5:d=1"]
    command += ["-f", "lavfi", "-i", "sine=d=1", str(video)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert probe(video, Limits(float("inf"))).seconds == pytest.approx(1, abs=0.05)
