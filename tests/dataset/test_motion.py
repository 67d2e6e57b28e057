import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sop.dataset.clips import (
    CENTRE,
    Crop,
    motion_count,
    pack_motion,
    read_frames,
    read_motion,
    read_whole_motion,
)
from sop.runtime.errors import LeftOut

RATE = 16.0
FRAMES = 40


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """A track whose frame n has the value n everywhere."""
    path = tmp_path / "numbered.npy"
    numbers = np.arange(FRAMES, dtype=np.uint8)
    np.save(path, np.broadcast_to(numbers[:, None, None], (FRAMES, 44, 58)).copy())
    return path


def shown(path: Path, begin: float, count: int) -> list[int]:
    frames = read_motion(path, begin, count, RATE, 40)
    assert frames.shape == (count, 40, 40)
    assert frames.dtype == np.uint8
    assert (frames == frames[:, :1, :1]).all()
    return frames[:, 0, 0].tolist()


def test_frames_are_those_of_the_middles_of_their_intervals(numbered: Path) -> None:
    assert shown(numbered, 0.0, 4) == [0, 1, 2, 3]
    assert shown(numbered, 1.0, 24) == list(range(16, 40))
    assert shown(numbered, 1.0 + 0.4 / RATE, 2) == [16, 17]
    assert shown(numbered, 1.0 + 0.6 / RATE, 2) == [17, 18]


def test_first_and_last_frame_are_repeated_outside_the_video(numbered: Path) -> None:
    assert shown(numbered, -3 / RATE, 6) == [0, 0, 0, 0, 1, 2]
    assert shown(numbered, 37 / RATE, 6) == [37, 38, 39, 39, 39, 39]
    assert shown(numbered, 100.0, 2) == [39, 39]
    assert shown(numbered, -100.0, 2) == [0, 0]


def test_number_of_frames_of_a_clip() -> None:
    assert motion_count(16383, 11025, 16.0) == 24
    assert motion_count(65535, 11025, 8.0) == 48


@pytest.fixture
def pictured(tmp_path: Path) -> tuple[Path, Path]:
    """Frames of 232 x 176 pixels, and a track of the same picture in half of the size."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (11, 14), np.uint8))
    picture = coarse.resize((232, 176), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=98)
    frames, track = tmp_path / "frames.zip", tmp_path / "track.npy"
    with zipfile.ZipFile(frames, "w") as archive:
        archive.writestr("000001.jpg", content.getvalue())
    half = np.asarray(picture.resize((116, 88), Image.Resampling.BOX))
    np.save(track, np.broadcast_to(half, (3, 88, 116)).copy())
    return frames, track


@pytest.mark.parametrize(
    "crop",
    [
        CENTRE,
        CENTRE._replace(mirrored=True),
        CENTRE._replace(left=0.1, top=0.9),
        Crop(1.1, 0.0, 0.99, mirrored=False),
        Crop(1.1, 0.7, 0.2, mirrored=True),
        Crop(1.6, 0.7, 0.2, mirrored=False),
    ],
)
def test_square_is_that_of_the_frames(pictured: tuple[Path, Path], crop: Crop) -> None:
    frames, track = pictured
    seen = read_frames(frames, [1], 160, crop)[0].mean(axis=2)
    moving = read_motion(track, 0.0, 2, RATE, 80, crop)
    # Whole pixels of a random crop differ by one pixel of the track at most.
    expected = seen.reshape(80, 2, 80, 2).mean(axis=(1, 3))
    tolerance = 2 if crop.zoom == 1 else 12
    assert np.abs(moving[1] - expected)[2:-2, 2:-2].mean() < tolerance
    np.testing.assert_array_equal(moving[0], moving[1])
    assert np.abs(moving[1] - expected[:, ::-1])[2:-2, 2:-2].mean() > 30


def test_random_crop_is_cut_in_whole_pixels(pictured: tuple[Path, Path]) -> None:
    track = np.load(pictured[1])
    cut = read_motion(pictured[1], 0.0, 1, RATE, 80, Crop(1.1, 0.999, 0.0, mirrored=True))
    np.testing.assert_array_equal(cut[0], track[0, :80, 36:][:, ::-1])


def test_whole_frames_are_scaled_by_one_factor(pictured: tuple[Path, Path]) -> None:
    _, track = pictured
    assert read_whole_motion(track, 0.0, 5, RATE, 40).shape == (5, 40, 53)
    whole = read_whole_motion(track, 0.0, 1, RATE, 88)
    np.testing.assert_array_equal(whole, np.load(track)[:1])


def damage(path: Path, kind: str) -> None:
    whole = np.load(path)
    match kind:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not an array\n" * 100)
        case "cut off":
            path.write_bytes(path.read_bytes()[:-1000])
        case "cut in the header":
            path.write_bytes(path.read_bytes()[:50])
        case "longer":
            path.write_bytes(path.read_bytes() + b"x")
        case "floats":
            np.save(path, whole.astype(np.float32))
        case "four dimensions":
            np.save(path, whole[..., None])
        case "Fortran":
            np.save(path, np.asfortranarray(whole))
        case "no frames":
            np.save(path, whole[:0])
        case "objects":
            np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        case "huge":
            data = path.read_bytes().replace(b"(40, 44, 58)", b"(-9, 44, 58)")
            path.write_bytes(data)


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "empty", "text", "cut off", "cut in the header", "longer", "floats"),
        *("four dimensions", "Fortran", "no frames", "objects", "huge"),
    ],
)
def test_damaged_track_is_left_out(numbered: Path, kind: str) -> None:
    damage(numbered, kind)
    with pytest.raises(LeftOut) as caught:
        read_motion(numbered, 0.0, 4, RATE, 40)
    assert str(caught.value).startswith(f"{numbered}: ")
    assert "\n" not in str(caught.value)
    assert ("such motion track" in str(caught.value)) == (kind == "missing")


def test_a_track_is_what_ffmpeg_wrote(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 6, 8), np.uint8)
    video, track = tmp_path / "a.y4m", tmp_path / "a.npy"
    parts = b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)
    video.write_bytes(b"YUV4MPEG2 W8 H6 F16:1 Ip A1:1 Cmono\n" + parts)
    assert pack_motion(video, track) == 5
    np.testing.assert_array_equal(np.load(track), frames)
    assert track.stat().st_size == 128 + frames.size


@pytest.mark.parametrize("content", [b"", b"YUV4MPEG2 W8 H6 F16:1 Cmono\n"])
def test_a_video_without_pictures_has_no_track(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.y4m").write_bytes(content)
    assert pack_motion(tmp_path / "a.y4m", tmp_path / "a.npy") == 0
    assert not (tmp_path / "a.npy").exists()
