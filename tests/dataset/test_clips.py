import io
import os
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from sop.dataset import clips
from sop.dataset.clips import CENTRE, Crop, read_audio, read_frames, sound_seconds
from sop.media.ffmpeg import binary
from sop.runtime.errors import LeftOut

RATE = 11025
HALF_LEVEL = 0.5 / 2**15


def noise(seconds: float, rate: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    shape = (round(seconds * rate), channels)
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def tone(seconds: float, rate: int) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype("f4")


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Three seconds of noise, each sample of it known."""
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(3), RATE, subtype="FLOAT")
    return path


def picture(number: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth colour picture, of another pattern for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95, subsampling=0)
    return content.getvalue()


def decoded(number: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(picture(number))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five loose JPEGs in the published layout."""
    place = tmp_path / "sound.mp4"
    place.mkdir()
    for number in range(1, 6):
        (place / f"{number:06d}.jpg").write_bytes(jpeg(picture(number)))
    return place


def zipped(folder: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def test_window_from_the_middle_equals_the_whole_file_there(wav: Path) -> None:
    whole = noise(3)
    for seconds, samples in ((1.5, 4000), (1.0, 4001), (2.0004, 11025)):
        first = int(seconds * RATE) - samples // 2
        np.testing.assert_array_equal(
            read_audio(wav, seconds, samples, RATE), whole[first : first + samples]
        )


def test_window_over_an_end_is_moved_inside(wav: Path) -> None:
    whole = noise(3)
    for seconds in (0.0, 0.1, -5.0):
        np.testing.assert_array_equal(read_audio(wav, seconds, 4000, RATE), whole[:4000])
    for seconds in (3.0, 2.9, 60.0):
        np.testing.assert_array_equal(read_audio(wav, seconds, 4000, RATE), whole[-4000:])
    np.testing.assert_array_equal(read_audio(wav, 1.0, len(whole), RATE), whole)


def test_short_sound_is_repeated_around_its_moment(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    whole = noise(0.1)
    soundfile.write(path, whole, RATE, subtype="FLOAT")
    audio = read_audio(path, 0.05, 5 * len(whole), RATE)
    middle = len(audio) // 2
    np.testing.assert_array_equal(
        audio[middle : middle + 200], np.roll(whole, -int(0.05 * RATE))[:200]
    )
    np.testing.assert_array_equal(audio[len(whole) :], audio[: -len(whole)])
    np.testing.assert_array_equal(np.sort(audio[: len(whole)]), np.sort(whole))


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "many.wav"
    whole = noise(1, channels=channels)
    soundfile.write(path, whole, RATE, subtype="FLOAT")
    audio = read_audio(path, 0.5, 2000, RATE)
    first = int(0.5 * RATE) - 1000
    expected = sum(whole[first : first + 2000, n] for n in range(channels)) / channels
    np.testing.assert_allclose(audio, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "fast.wav"
    soundfile.write(path, tone(3, rate), rate, subtype="FLOAT")
    audio = read_audio(path, 1.5, 16384, RATE)
    assert audio.shape == (16384,)
    assert audio.dtype == np.float32
    first = int(1.5 * RATE) - 16384 // 2
    expected = tone(3, RATE)[first : first + 16384]
    # Off by less than a sample of either rate, and the resampler's edges apart.
    lags = [np.dot(audio[100:-100], np.roll(expected, lag)[100:-100]) for lag in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(lags)) in (1, 2, 3)
    level = np.sqrt(np.mean(audio[100:-100] ** 2))
    assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("ending", ["flac", "mp3"])
def test_compressed_sound_is_read_from_the_middle(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sound.{ending}"
    soundfile.write(path, tone(8, RATE), RATE)
    whole, _ = soundfile.read(path, dtype="float32")
    for seconds in (1.0, 5.0, 6.2):
        audio = read_audio(path, seconds, 8000, RATE)
        first = int(seconds * RATE) - 4000
        np.testing.assert_allclose(audio, whole[first : first + 8000], atol=1e-4)
    assert sound_seconds(path) == pytest.approx(8, abs=0.2)


def test_mp3_seek_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sound.mp3"
    soundfile.write(path, noise(20), RATE)
    for seconds in np.linspace(3, 17, 30):
        read_audio(path, float(seconds), 8000, RATE)
    assert capfd.readouterr().err == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LeftOut):
        read_audio(path, 19.0, 8000, RATE)
    os.write(2, b"heard")
    assert capfd.readouterr().err.endswith("heard")


def test_quiet_sound_is_not_made_louder(tmp_path: Path) -> None:
    path = tmp_path / "quiet.wav"
    soundfile.write(path, 0.01 * noise(1), RATE, subtype="PCM_16")
    audio = read_audio(path, 0.5, RATE, RATE)
    np.testing.assert_allclose(audio, 0.01 * noise(1), atol=2 * HALF_LEVEL)


def test_wav_of_a_pipe_which_does_not_know_its_length_is_whole(tmp_path: Path, wav: Path) -> None:
    path = tmp_path / "piped.wav"
    command = [binary(), "-v", "error", "-i", str(wav), "-f", "wav", "pipe:1"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    assert sound_seconds(path) == pytest.approx(3, abs=1e-3)
    audio = read_audio(path, 1.5, 4000, RATE)
    expected = read_audio(wav, 1.5, 4000, RATE)
    np.testing.assert_allclose(audio, expected, atol=2 * HALF_LEVEL)


def damaged_sounds() -> dict[str, bytes]:
    content = io.BytesIO()
    soundfile.write(content, noise(3), RATE, format="WAV", subtype="PCM_16")
    whole = content.getvalue()
    broken = noise(3).copy()
    broken[RATE] = np.nan
    content = io.BytesIO()
    soundfile.write(content, broken, RATE, format="WAV", subtype="FLOAT")
    no_sound = io.BytesIO()
    soundfile.write(no_sound, noise(0), RATE, format="WAV", subtype="PCM_16")
    return {
        "cut in the middle": whole[: len(whole) // 2],
        "cut by a sample": whole[:-2],
        "cut in its header": whole[:30],
        "garbage": bytes(range(256)) * 40,
        "text": b"<html>not found</html>",
        "empty": b"",
        "no samples": no_sound.getvalue(),
        "not finite": content.getvalue(),
    }


@pytest.mark.parametrize("damage", damaged_sounds())
def test_damaged_sound_is_left_out_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "naïve, 'quoted'.wav"
    path.write_bytes(damaged_sounds()[damage])
    with pytest.raises(LeftOut, match=f"^{re.escape(str(path))}: .+") as reason:
        read_audio(path, 1.0, 4000, RATE)
    assert "\n" not in str(reason.value)


def test_sound_that_is_not_there_is_left_out_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(LeftOut, match=f"^{re.escape(str(path))}: not readable as sound"):
            read_audio(path, 1.0, 4000, RATE)
        with pytest.raises(LeftOut, match=f"^{re.escape(str(path))}: not readable as sound"):
            sound_seconds(path)


def test_flac_damaged_in_its_middle_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sound.flac"
    soundfile.write(path, noise(3), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LeftOut, match=r"sound\.flac"):
        read_audio(path, 2.9, 4000, RATE)


def test_zip_and_folder_of_jpegs_give_the_same_frames(folder: Path) -> None:
    numbers = [4, 1, 4]
    loose = read_frames(folder, numbers, 32)
    assert loose.shape == (3, 32, 32, 3)
    assert loose.dtype == np.uint8
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        np.testing.assert_array_equal(read_frames(zipped(folder, compression), numbers, 32), loose)
    np.testing.assert_array_equal(loose[0], loose[2])
    assert np.abs(loose[0].astype(int) - loose[1]).mean() > 20


def test_centre_crop_equals_resize_then_crop(folder: Path) -> None:
    # 96 x 72 to 48 x 36, of which the published code cuts the middle 36 x 36.
    expected = decoded(2).resize((48, 36), Image.Resampling.BICUBIC).crop((6, 0, 42, 36))
    [frame] = read_frames(folder, [2], 36, CENTRE)
    np.testing.assert_allclose(frame.astype(int), np.asarray(expected, int), atol=1)


@pytest.mark.parametrize(
    ("left", "top", "box"),
    [
        (0.0, 0.0, (0, 0, 40, 40)),
        (1.0, 1.0, (24, 8, 64, 48)),
        (0.5, 0.0, (12, 0, 52, 40)),
        (0.25, 0.75, (6, 6, 46, 46)),
    ],
)
def test_zoomed_crop_equals_resize_then_crop(
    folder: Path, left: float, top: float, box: tuple[int, int, int, int]
) -> None:
    # 96 x 72 to 64 x 48, of which 40 x 40 are cut: the shorter side is 1.2 times the crop.
    expected = decoded(3).resize((64, 48), Image.Resampling.BICUBIC).crop(box)
    [frame] = read_frames(folder, [3], 40, Crop(1.2, left, top, mirrored=False))
    np.testing.assert_allclose(frame.astype(int), np.asarray(expected, int), atol=2)
    [mirrored] = read_frames(folder, [3], 40, Crop(1.2, left, top, mirrored=True))
    np.testing.assert_array_equal(mirrored, frame[:, ::-1])


def test_crop_without_scaling_is_a_plain_cut(folder: Path) -> None:
    cut = np.asarray(decoded(1))[12:72, 18:78]
    [frame] = read_frames(folder, [1], 60, Crop(1.2, left=0.5, top=1.0, mirrored=False))
    np.testing.assert_array_equal(frame, cut)


def test_centre_crop_is_what_it_has_always_been(folder: Path) -> None:
    for size in (36, 64, 72, 90):
        expected = decoded(2).resize((size, size), Image.Resampling.BICUBIC, box=(12, 0, 84, 72))
        [frame] = read_frames(folder, [2], size, CENTRE)
        np.testing.assert_array_equal(frame, np.asarray(expected))


@pytest.mark.parametrize("size", [63, 65, 68])
def test_crop_of_a_frame_of_about_the_right_size_is_a_plain_cut(folder: Path, size: int) -> None:
    # 72 pixels are 1.04 to 1.14 times the crop.
    pixels = np.asarray(decoded(1))
    for left, top in ((0.0, 0.0), (0.3, 0.8), (1.0, 1.0)):
        right = min(int(left * (97 - size)), 96 - size)
        down = min(int(top * (73 - size)), 72 - size)
        cut = pixels[down : down + size, right : right + size]
        [frame] = read_frames(folder, [1], size, Crop(1.1, left, top, mirrored=False))
        np.testing.assert_array_equal(frame, cut)
        [frame] = read_frames(folder, [1], size, Crop(1.1, left, top, mirrored=True))
        np.testing.assert_array_equal(frame, cut[:, ::-1])


def test_every_place_of_a_plain_cut_is_equally_likely(folder: Path) -> None:
    pixels = np.asarray(decoded(1))
    shares = (np.arange(290) + 0.5) / 290
    crops = [Crop(1.1, 0.5, share, mirrored=False) for share in shares]
    rows = [pixels[top, 16:80].tobytes() for top in range(9)]
    found = [rows.index(read_frames(folder, [1], 64, crop)[0, 0].tobytes()) for crop in crops]
    assert set(np.bincount(found)) == {32, 33}


@pytest.mark.parametrize(("size", "side"), [(50, 65), (70, 65), (58, 65)])
def test_crop_of_a_frame_of_another_size_is_scaled(folder: Path, size: int, side: int) -> None:
    box = (6, 3, 6 + side, 3 + side)
    expected = decoded(1).crop(box).resize((size, size), Image.Resampling.BICUBIC)
    [frame] = read_frames(folder, [1], size, Crop(1.1, 0.2, 0.4, mirrored=False))
    np.testing.assert_allclose(frame.astype(int), np.asarray(expected, int), atol=1)


@pytest.mark.parametrize(
    ("shorter", "scale"), [(246, 1), (360, 1), (493, 1), (494, 2), (720, 2), (1080, 4), (2160, 8)]
)
def test_large_frames_are_decoded_at_a_fraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shorter: int, scale: int
) -> None:
    image = picture(1, (shorter * 4 // 3, shorter))
    (tmp_path / "000001.jpg").write_bytes(jpeg(image))
    sizes: list[int] = []
    crop = Image.Image.crop

    def remember(image: Image.Image, *arguments: Any) -> Image.Image:
        sizes.append(min(image.size))
        return crop(image, *arguments)

    monkeypatch.setattr(Image.Image, "crop", remember)
    [frame] = read_frames(tmp_path, [1], 224, Crop(1.1, 0.5, 0.5, mirrored=False))
    monkeypatch.undo()
    assert sizes == [-(-shorter // scale)]
    # At 246 and 247 pixels it is cut as it is.
    side = 224 * scale if sizes[0] < 260 else shorter / 1.1
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    expected = image.resize((224, 224), Image.Resampling.BICUBIC, box=box)
    assert np.abs(frame.astype(int) - np.asarray(expected, int)).mean() < 1.5


def test_large_frames_of_evaluation_are_decoded_whole(tmp_path: Path) -> None:
    (tmp_path / "000001.jpg").write_bytes(jpeg(picture(1, (400, 300))))
    with Image.open(tmp_path / "000001.jpg") as image:
        expected = image.resize((32, 32), Image.Resampling.BICUBIC, box=(50, 0, 350, 300))
    np.testing.assert_array_equal(read_frames(tmp_path, [1], 32)[0], np.asarray(expected))


def test_any_random_crop_lies_within_its_frame(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        zoom = float(rng.uniform(1, 3))
        left, top = (float(v) for v in rng.choice([0.0, 1.0, rng.random(), 1 - 1e-16], 2))
        assert read_frames(folder, [1], 7, Crop(zoom, left, top, False)).shape == (1, 7, 7, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_frames_become_rgb(tmp_path: Path, mode: str) -> None:
    (tmp_path / "000001.jpg").write_bytes(jpeg(picture(1).convert(mode)))
    [frame] = read_frames(tmp_path, [1], 72)
    expected = picture(1).convert(mode).convert("RGB").crop((12, 0, 84, 72))
    np.testing.assert_allclose(frame.astype(int), np.asarray(expected, int), atol=12)


def test_portrait_frames_are_cut_as_well(tmp_path: Path) -> None:
    (tmp_path / "000001.jpg").write_bytes(jpeg(picture(1, (40, 100))))
    image = Image.open(tmp_path / "000001.jpg")
    [frame] = read_frames(tmp_path, [1], 40, Crop(1.0, 0.3, 1.0, mirrored=False))
    np.testing.assert_array_equal(frame, np.asarray(image)[60:])


def left_out_frame(path: Path, numbers: list[int]) -> str:
    with pytest.raises(LeftOut) as reason:
        read_frames(path, numbers, 32)
    assert "\n" not in str(reason.value)
    assert "object at 0x" not in str(reason.value)
    return str(reason.value)


def test_missing_frame_is_left_out_by_name(folder: Path) -> None:
    assert left_out_frame(folder, [1, 6]) == f"{folder}/000006.jpg: no such frame"
    archive = zipped(folder)
    assert left_out_frame(archive, [0]) == f"{archive}/000000.jpg: no such frame"


def test_damaged_frame_is_left_out_by_name(folder: Path) -> None:
    good = (folder / "000003.jpg").read_bytes()
    png = io.BytesIO()
    picture(1).save(png, "PNG")
    huge = bytearray(good)
    size_at = good.index(b"\xff\xc0") + 5
    huge[size_at : size_at + 4] = b"\xff\xff\xff\xff"
    for content in (good[: len(good) // 2], b"", b"\xff\xd8garbage", png.getvalue(), bytes(huge)):
        (folder / "000003.jpg").write_bytes(content)
        for path in (folder, zipped(folder)):
            assert left_out_frame(path, [1, 3]).startswith(f"{path}/000003.jpg: not readable as a ")
            assert read_frames(path, [1, 2], 32).shape == (2, 32, 32, 3)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_is_left_out_whatever_byte_is_wrong(folder: Path, compression: int) -> None:
    archive = zipped(folder, compression)
    good = archive.read_bytes()
    rng = np.random.default_rng(0)
    reasons = set()
    for _ in range(400):
        damaged = bytearray(good)
        # Half of the hits go to the list of contents at the end.
        first = len(good) - 400 if rng.random() < 0.5 else 0
        for place in rng.integers(first, len(good), rng.integers(1, 12)):
            damaged[place] = rng.integers(256)
        archive.write_bytes(bytes(damaged[: rng.integers(1, len(good))] if first else damaged))
        try:
            read_frames(archive, [1, 2, 3, 4, 5], 8)
        except LeftOut as reason:
            assert str(reason).startswith(str(archive))
            reasons.add(str(reason).partition("not readable")[2])
    assert len(reasons) > 5


def test_what_is_no_zip_is_left_out_by_name(tmp_path: Path) -> None:
    path = tmp_path / "frames.zip"
    assert left_out_frame(path, [1]).startswith(f"{path}: not readable as frames")
    for content in (b"", b"garbage" * 100, b"PK\x05\x06"):
        path.write_bytes(content)
        assert left_out_frame(path, [1]).startswith(f"{path}: not readable as frames")


def test_zip_of_our_extract_is_read_without_its_whole_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(folder)
    expected = read_frames(folder, [5, 2], 32)
    monkeypatch.setattr(clips.zipfile, "ZipFile", None)
    np.testing.assert_array_equal(read_frames(archive, [5, 2], 32), expected)


class Pipe:
    """What cannot seek: sizes and checksums of a zip come behind the bytes."""

    def __init__(self, content: io.BytesIO) -> None:
        self.write = content.write
        self.flush = content.flush


def foreign_zips(folder: Path) -> dict[str, bytes]:
    """Zips of the same frames that are not written as ours are."""
    files = sorted(folder.iterdir())
    zips = {}
    for name in ("reversed", "commented", "other entries", "after other bytes", "streamed"):
        content = io.BytesIO()
        if name == "after other bytes":
            content.write(b"other bytes")
        with zipfile.ZipFile(Pipe(content) if name == "streamed" else content, "w") as archive:
            if name == "other entries":
                archive.writestr("readme.txt", "read me")
            if name == "commented":
                archive.comment = b"a comment"
            for file in reversed(files) if name == "reversed" else files:
                archive.write(file, file.name)
        zips[name] = content.getvalue()
    return zips


def test_zip_of_another_make_gives_the_same_frames(folder: Path, tmp_path: Path) -> None:
    expected = read_frames(folder, [4, 1], 32)
    for name, content in foreign_zips(folder).items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        np.testing.assert_array_equal(read_frames(path, [4, 1], 32), expected)
        assert left_out_frame(path, [1, 6]) == f"{path}/000006.jpg: no such frame"


def test_zip_that_was_replaced_is_read_anew(folder: Path) -> None:
    archive = zipped(folder)
    before = read_frames(archive, [1], 32)
    (folder / "000001.jpg").write_bytes(jpeg(picture(7)))
    expected = read_frames(folder, [1], 32)
    zipped(folder)
    np.testing.assert_array_equal(read_frames(archive, [1], 32), expected)
    assert not np.array_equal(before, expected)


def test_byte_that_was_changed_is_noticed_by_its_checksum(folder: Path) -> None:
    archive = zipped(folder)
    content = bytearray(archive.read_bytes())
    content[content.index(b"000002.jpg") + 400] ^= 1
    archive.write_bytes(bytes(content))
    reason = left_out_frame(archive, [2])
    assert reason == f"{archive}/000002.jpg: not readable (Bad CRC-32 for file '000002.jpg')"
    assert read_frames(archive, [1, 3], 32).shape == (2, 32, 32, 3)
