"""Read clips from disk: a window of a sound file, frames of a zip or of a folder of JPEGs.

A motion track is a NumPy file of small luminance pictures, (T, H, W) uint8: picture n, from 0,
covers second (n + 0.5) / `extract.motion_rate`.
"""

import io
import lzma
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sop.runtime.errors import LeftOut

Audio = NDArray[np.float32]
Frames = NDArray[np.uint8]
Motion = NDArray[np.uint8]

FRAME_NAME = "{:06d}.jpg"

# What the stage `extract` says about each video, in the folders of its files.
MANIFEST_NAME = "manifest.json"

# Fixed, the earliest time of a zip entry: the bytes must not depend on the current time.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)

# Exceptions of zipfile on damaged files.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError),
)

# Of what ffmpeg writes as YUV4MPEG2.
_Y4M_FRAME = b"FRAME\n"
_Y4M_HEADER_BYTES = 1024

_PICTURE_ERRORS = (Image.DecompressionBombError, OSError, SyntaxError, ValueError)

# After a seek an MP3 decodes to silence until the decoder has the data that frames store in earlier
# ones: at most 511 bytes; the smallest frames have 30 of them in 1152 samples.
_MP3_RUN_UP = 20 * 1152

# libsndfile reads a truncated WAV as a shorter one; only its log reports it. A WAV that was written
# to a pipe has the largest possible length in its header.
_CUT_OFF = re.compile(r"^data : (?!4294967295\b)\d+ \(should be", re.MULTILINE)


# A frame whose shorter side is this close to the requested size is not scaled: that would take
# longer than decoding it.
_NEAR = 0.05

# Fixed parts of a zip: the end of its directory, an entry of it, and the header of a file.
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP_ENTRY = struct.Struct("<4s6H3L5H2L")
_ZIP_HEADER = struct.Struct("<4s5H3L2H")


class Crop(NamedTuple):
    """Square cut from a frame; its place is a fraction of the remaining width and height."""

    zoom: float
    """Ratio of the frame's shorter side to the side of the square, >= 1."""
    left: float
    """Horizontal place: 0 is the left edge, 1 the right."""
    top: float
    """Vertical place: 0 is the upper edge, 1 the lower."""
    mirrored: bool
    """True if the square is mirrored horizontally."""


CENTRE = Crop(zoom=1.0, left=0.5, top=0.5, mirrored=False)


class SoundWindow(NamedTuple):
    """Window of a sound file."""

    audio: Audio
    """(L,) in the scale of the file, nominally [-1, 1]."""
    begin: float
    """Second of the file at which it begins; negative if the file is shorter and is repeated."""


def read_audio(path: Path, centre_seconds: float, samples: int, sample_rate: int) -> Audio:
    """Read a window of sound as `read_window` does, and return its samples alone, (L,)."""
    return read_window(path, centre_seconds, samples, sample_rate).audio


def read_window(path: Path, centre_seconds: float, samples: int, sample_rate: int) -> SoundWindow:
    """Read a window of sound around a moment as mono, without reading the rest of the file.

    A window that exceeds the file is moved inside; a file shorter than the window is repeated.

    Args:
        path: any file that libsndfile reads (WAV, FLAC, MP3, ...).
        centre_seconds: middle of the window.
        samples: L, length of the window at `sample_rate`.
        sample_rate: sample rate of the result, Hz; a file of another rate is resampled.

    Raises:
        LeftOut: the file is missing, damaged, empty or truncated.
    """
    with _opened_sound(path) as file:
        ratio = file.samplerate / sample_rate
        length, wanted = file.frames, round(samples * ratio)
        centre = int(centre_seconds * file.samplerate)
        if length >= wanted:
            start = window_start(centre, wanted, length)
            run_up = min(start, _MP3_RUN_UP) if file.format == "MP3" else 0
            with _muted() if run_up else nullcontext():
                file.seek(start - run_up)
                audio = _read_exactly(file, run_up + wanted)[run_up:]
        else:
            whole = _read_exactly(file, length)
            start = centre - wanted // 2
            audio = whole[(np.arange(wanted) + start) % length]
        begin = start / file.samplerate
    if not np.isfinite(audio).all():
        raise LeftOut(f"{path}: contains samples that are not finite")
    if ratio != 1:
        resampled = librosa.resample(audio, orig_sr=ratio * sample_rate, target_sr=sample_rate)
        audio = librosa.util.fix_length(resampled, size=samples)
    return SoundWindow(audio, begin)


def window_start(centre: int, samples: int, length: int) -> int:
    """Return the first sample of a window around a sample, moved inside the sound.

    Args:
        centre: sample in the middle of the window.
        samples: length of the window.
        length: length of the sound; if it is shorter than the window, the window starts at 0.
    """
    return min(max(centre - samples // 2, 0), max(length - samples, 0))


def sound_seconds(path: Path) -> float:
    """Return the length of a sound file.

    Raises:
        LeftOut: as for `read_audio`, as far as the header shows.
    """
    with _opened_sound(path) as file:
        return float(file.frames / file.samplerate)


def read_frames(path: Path, numbers: Sequence[int], size: int, crop: Crop = CENTRE) -> Frames:
    """Read frames of one video, all with the same crop.

    A crop with zoom above 1 is aligned to whole pixels. It is not scaled if the frame's shorter
    side is within 5 % of `zoom * size`, as extraction makes it; otherwise it is (bicubic).

    Args:
        path: a zip of `000001.jpg`, ..., or a folder of such files.
        numbers: T frame numbers, from 1.
        size: height and width of the result, pixels.
        crop: square to cut out.

    Returns:
        (T, size, size, 3) RGB.

    Raises:
        LeftOut: a frame is missing or damaged.
    """
    frames = np.empty((len(numbers), size, size, 3), np.uint8)
    for frame, number, jpeg in zip(frames, numbers, _jpegs(path, numbers), strict=True):
        with _opened_picture(jpeg, _place(path, number)) as image:
            # Evaluation uses exact scaling; only training uses the faster approximation.
            frame[...] = (_zoomed if crop.zoom > 1 else _scaled)(image, size, crop)
    return frames


def read_pictures(path: Path, numbers: Sequence[int], shorter: int) -> Frames:
    """Read whole frames of one video, all scaled by the same factor (bicubic).

    Args:
        path: as in `read_frames`.
        numbers: T frame numbers, from 1.
        shorter: the smaller of height and width of the result, pixels.

    Returns:
        (T, H, W, 3) RGB.

    Raises:
        LeftOut: a frame is missing or damaged.
    """
    pictures = []
    for number, jpeg in zip(numbers, _jpegs(path, numbers), strict=True):
        with _opened_picture(jpeg, _place(path, number)) as image:
            scale = shorter / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            pictures.append(np.asarray(_rgb(image).resize(size, Image.Resampling.BICUBIC)))
    return np.stack(pictures)


def pack(jpegs: Iterable[bytes], archive: Path | None) -> int:
    """Write pictures to an uncompressed zip as they arrive, and count them.

    The bytes of the zip depend only on the pictures.

    Args:
        jpegs: pictures, in order.
        archive: zip to write, or None to count only.
    """
    if archive is None:
        return sum(1 for _ in jpegs)
    count = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for count, jpeg in enumerate(jpegs, start=1):
            entry = zipfile.ZipInfo(FRAME_NAME.format(count), ZIP_DATE)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, jpeg)
    return count


def pack_motion(video: Path, track: Path) -> int:
    """Make a motion track of a YUV4MPEG2 file of luminance pictures, and count them.

    The pictures are copied one by one: a long video needs no more memory than a short one.

    Args:
        video: what ffmpeg wrote; it is empty if there was no picture.
        track: NumPy file to write, unless there is no picture.
    """
    with video.open("rb") as source:
        fields = source.readline(_Y4M_HEADER_BYTES).split()
        sizes = {chr(field[0]): int(field[1:]) for field in fields if field[:1] in (b"W", b"H")}
        if sizes.keys() != {"W", "H"}:
            return 0
        area, begin = sizes["W"] * sizes["H"], source.tell()
        count = (source.seek(0, os.SEEK_END) - begin) // (len(_Y4M_FRAME) + area)
        if not count:
            return 0
        source.seek(begin)
        shape = (count, sizes["H"], sizes["W"])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with track.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
            for _ in range(count):
                file.write(source.read(len(_Y4M_FRAME) + area)[len(_Y4M_FRAME) :])
    return count


def motion_count(samples: int, sample_rate: int, motion_rate: float) -> int:
    """Return the number of motion frames of a clip of a number of samples."""
    return round(samples / sample_rate * motion_rate)


def read_motion(
    path: Path, begin: float, count: int, rate: float, size: int, crop: Crop = CENTRE
) -> Motion:
    """Read motion frames of one video, all with the same crop.

    The square is that of `read_frames` for the same crop: with zoom above 1 it is aligned to whole
    pixels and not scaled if the track's height is within 5 % of `zoom * size`; the centre is scaled
    exactly. Outside of the video its first and last frame are repeated.

    Args:
        path: the motion track.
        begin: second at which the clip begins: frame i shows second begin + (i + 0.5) / rate.
        count: T, number of frames.
        rate: frames per second of the track.
        size: height and width of the result, pixels.
        crop: square to cut out.

    Returns:
        (T, size, size).

    Raises:
        LeftOut: the track is missing or damaged.
    """
    track = _motion_frames(path, begin, count, rate)
    if crop.zoom == 1:
        left, top, side = _exact_square(track.shape[2], track.shape[1], crop)
        squares = _resized(track, (size, size), (left, top, left + side, top + side))
    else:
        squares = _zoomed_motion(track, size, crop)
    return squares[:, :, ::-1] if crop.mirrored else squares


def read_whole_motion(path: Path, begin: float, count: int, rate: float, shorter: int) -> Motion:
    """Read whole motion frames of one video, all scaled by the same factor (bicubic).

    Args:
        path: the motion track.
        begin: as in `read_motion`.
        count: T, number of frames.
        rate: frames per second of the track.
        shorter: the smaller of height and width of the result, pixels.

    Returns:
        (T, H, W).

    Raises:
        LeftOut: the track is missing or damaged.
    """
    track = _motion_frames(path, begin, count, rate)
    _, height, width = track.shape
    scale = shorter / min(height, width)
    return _resized(track, (round(width * scale), round(height * scale)), (0, 0, width, height))


def _motion_frames(path: Path, begin: float, count: int, rate: float) -> Motion:
    """Read whole frames of a track; only these are read from disk."""
    try:
        with path.open("rb") as file:
            npy = np.lib.format
            npy.read_magic(file)  # type: ignore[no-untyped-call]
            shape, is_fortran, dtype = npy.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            if dtype != np.uint8 or len(shape) != 3 or is_fortran or min(shape) < 1:
                raise ValueError("it contains another kind of array")
            first, area = file.tell(), math.prod(shape[1:])
            # Of the picture that covers the middle of each frame's interval.
            numbers = math.floor(begin * rate + 0.5) + np.arange(count)
            numbers = np.clip(numbers, 0, shape[0] - 1)
            low, high = int(numbers[0]), int(numbers[-1]) + 1
            is_whole = file.seek(0, os.SEEK_END) == first + shape[0] * area
            file.seek(first + low * area)
            data = file.read((high - low) * area)
    except FileNotFoundError:
        raise LeftOut(
            f"{path}: no such motion track; set extract.motion_rate, then run `dvc repro extract`"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise LeftOut(f"{path}: not readable as a motion track ({_reason(error)})") from None
    if not is_whole or len(data) < (high - low) * area:
        raise LeftOut(f"{path}: not as long as its header says")
    frames: Motion = np.frombuffer(data, np.uint8).reshape(high - low, *shape[1:])[numbers - low]
    return frames


def _resized(
    track: Motion, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Motion:
    """Scale a part of each frame, (T, H, W), exactly (bicubic); `size` is width and height."""
    images = (Image.fromarray(frame) for frame in track)
    scaled = (image.resize(size, Image.Resampling.BICUBIC, box=box) for image in images)
    return np.stack([np.asarray(image) for image in scaled])


def _zoomed_motion(track: Motion, size: int, crop: Crop) -> Motion:
    _, height, width = track.shape
    left, top, side = _whole_square(width, height, size, crop)
    squares = track[:, top : top + side, left : left + side]
    return squares if side == size else _interpolated(squares[:, None], size)[:, 0]


def _place(path: Path, number: int) -> Path:
    return path / FRAME_NAME.format(number)


def _jpegs(path: Path, numbers: Sequence[int]) -> list[bytes]:
    places = [_place(path, number) for number in numbers]
    if path.is_dir():
        return [_frame(place.read_bytes, place) for place in places]
    if stored := _stored(path, numbers):
        return stored
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise LeftOut(f"{path}: not readable as frames ({_reason(error)})") from None
    with archive:
        return [_frame(partial(archive.read, place.name), place) for place in places]


def _frame(read: Callable[[], bytes], place: Path) -> bytes:
    try:
        return read()
    except (FileNotFoundError, KeyError):
        raise LeftOut(f"{place}: no such frame") from None
    except ZIP_ERRORS as error:
        raise LeftOut(f"{place}: not readable ({_reason(error)})") from None


def _stored(path: Path, numbers: Sequence[int]) -> list[bytes] | None:
    """Read frames from a zip that `pack` wrote; None if it has another layout or is damaged.

    Entries of its directory are sorted and have equal lengths, so that one is found without reading
    the others, which would take longer than decoding the frames of a clip.
    """
    try:
        with path.open("rb", buffering=0) as file:
            end = file.seek(-_ZIP_END.size, os.SEEK_END)
            mark, *_, length, directory, comment = _ZIP_END.unpack(file.read(_ZIP_END.size))
            if (mark, directory + length, comment) != (b"PK\5\6", end, 0):
                return None
            return [_stored_frame(file, directory, number) for number in numbers]
    except (OSError, struct.error, ValueError):
        return None


def _stored_frame(file: io.FileIO, directory: int, number: int) -> bytes:
    """Read one frame; raise ValueError if it is not as `pack` writes it."""
    name = FRAME_NAME.format(number).encode()
    file.seek(directory + (number - 1) * (_ZIP_ENTRY.size + len(name)))
    entry = file.read(_ZIP_ENTRY.size + len(name))
    mark, _, *fields, comment, _, _, _, start = _ZIP_ENTRY.unpack(entry[: _ZIP_ENTRY.size])
    _, flags, method, _, _, checksum, size, _, _, _ = fields
    header = _ZIP_HEADER.pack(b"PK\3\4", *fields) + name
    expected = (b"PK\1\2", name, 0, 0, 0)
    is_packed = (mark, entry[_ZIP_ENTRY.size :], flags, method, comment) == expected
    if not is_packed or start + len(header) + size > directory:
        raise ValueError("another layout")
    file.seek(start)
    content = file.read(len(header) + size)
    jpeg = content[len(header) :]
    if not content.startswith(header) or zlib.crc32(jpeg) != checksum:
        raise ValueError("damaged")
    return jpeg


@contextmanager
def _opened_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(path) as file:
            if _CUT_OFF.search(file.extra_info):
                raise LeftOut(f"{path}: shorter than its header says")
            if file.frames == 0:
                raise LeftOut(f"{path}: contains no sound")
            yield file
    except (soundfile.LibsndfileError, OSError) as error:
        raise LeftOut(f"{path}: not readable as sound ({_reason(error)})") from None


@contextmanager
def _muted() -> Iterator[None]:
    """Discard standard error, including that of C libraries.

    After a seek libmpg123 prints a line for each of the first frames, which are read only for the
    data of later ones, and it has no option against it. Damaged files still raise errors.
    """
    if sys.__stderr__ is None:
        # Standard error was closed at the start: descriptor 2 may be another file.
        yield
        return
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _read_exactly(file: soundfile.SoundFile, samples: int) -> Audio:
    channels = file.read(samples, dtype="float32", always_2d=True)
    audio: Audio = channels[:, 0] if file.channels == 1 else channels.mean(axis=1)
    if len(audio) < samples:
        raise LeftOut(f"{file.name}: shorter than its header says")
    return audio


@contextmanager
def _opened_picture(jpeg: bytes, place: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            yield image
    except _PICTURE_ERRORS as error:
        reason = "no JPEG" if isinstance(error, UnidentifiedImageError) else _reason(error)
        raise LeftOut(f"{place}: not readable as a picture ({reason})") from None


def _exact_square(width: int, height: int, crop: Crop) -> tuple[float, float, int]:
    """Return left, top and side of the largest square of a picture at the place of a crop."""
    side = min(width, height)
    return crop.left * (width - side), crop.top * (height - side), side


def _whole_square(width: int, height: int, size: int, crop: Crop) -> tuple[int, int, int]:
    """Return left, top and side of a crop in whole pixels; its side is `size` if that is near."""
    wanted, shorter = crop.zoom * size, min(width, height)
    is_near = shorter >= size and abs(shorter - wanted) <= _NEAR * wanted
    side = size if is_near else max(1, round(shorter / crop.zoom))
    left, top = (
        min(int(share * (length - side + 1)), length - side)
        for share, length in ((crop.left, width), (crop.top, height))
    )
    return left, top, side


def _interpolated(planes: Frames, size: int) -> Frames:
    """Scale square planes, (N, C, side, side), to (N, C, size, size).

    Equal to Pillow's filter up to rounding, in a fifth of the time.
    """
    # Imported here because extraction uses this module too and would need three times the memory.
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(planes)
    scaled: Frames = interpolate(tensor, size=(size, size), mode="bicubic", antialias=True).numpy()
    return scaled


def _scaled(image: Image.Image, size: int, crop: Crop) -> Frames:
    left, top, side = _exact_square(*image.size, crop)
    box = (left, top, left + side, top + side)
    square = _rgb(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(_turned(square, crop))


def _zoomed(image: Image.Image, size: int, crop: Crop) -> Frames:
    wanted = crop.zoom * size
    # Decode at a half, quarter or eighth of the size if that is enough.
    image.draft(None, (math.ceil(wanted), math.ceil(wanted)))
    left, top, side = _whole_square(*image.size, size, crop)
    square = _rgb(image).crop((left, top, left + side, top + side))
    pixels = np.array(_turned(square, crop))
    if side == size:
        return pixels
    scaled: Frames = _interpolated(pixels.transpose(2, 0, 1)[None], size)[0].transpose(1, 2, 0)
    return scaled


def _rgb(image: Image.Image) -> Image.Image:
    # Converting an RGB image would copy it.
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(square: Image.Image, crop: Crop) -> Image.Image:
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else square


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__
