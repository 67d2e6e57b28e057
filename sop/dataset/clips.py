"""Clips on disk: sound read from the middle of a file, frames from a zip or a folder of JPEGs."""

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sop.errors import LeftOut

Audio = NDArray[np.float32]
Frames = NDArray[np.uint8]

FRAME_NAME = "{:06d}.jpg"

# What zipfile raises on damaged bytes, depending on which they are.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError),
)

_PICTURE_ERRORS = (Image.DecompressionBombError, OSError, SyntaxError, ValueError)

# After a seek an MP3 stays mute until the decoder has what frames store in earlier ones: at most
# 511 bytes, and the smallest frames hold 30 of them in 1152 samples.
_MP3_RUN_UP = 20 * 1152

# libsndfile takes a WAV that was cut off for a shorter one, and only its log tells. A WAV that was
# written to a pipe does not know its length, and says the largest there is.
_CUT_OFF = re.compile(r"^data : (?!4294967295\b)\d+ \(should be", re.MULTILINE)


class Crop(NamedTuple):
    """Where a square is cut from a frame: as shares of what is left over on either axis."""

    zoom: float
    """Shorter side over the side of the square, >= 1."""
    left: float
    """0 cuts at the left edge, 1 at the right."""
    top: float
    """0 cuts at the upper edge, 1 at the lower."""
    mirrored: bool


CENTRE = Crop(zoom=1.0, left=0.5, top=0.5, mirrored=False)


def read_audio(path: Path, centre_seconds: float, samples: int, sample_rate: int) -> Audio:
    """Read a window of sound around a moment, mono, without reading the rest of the file.

    A window that would reach over an end of the file is moved inside; a file shorter than the
    window is repeated around its moment.

    Args:
        path: any file that libsndfile reads (WAV, FLAC, MP3, ...).
        centre_seconds: the moment in the middle of the window.
        samples: L, length of the window at `sample_rate`.
        sample_rate: of the result, Hz; a file of another rate is resampled.

    Returns:
        (L,) in the file's own scale, nominally [-1, 1].

    Raises:
        LeftOut: the file is missing, damaged, empty, or ends before its header says.
    """
    with _opened_sound(path) as file:
        ratio = file.samplerate / sample_rate
        length, wanted = file.frames, round(samples * ratio)
        start = int(centre_seconds * file.samplerate) - wanted // 2
        if length >= wanted:
            start = min(max(start, 0), length - wanted)
            run_up = min(start, _MP3_RUN_UP) if file.format == "MP3" else 0
            file.seek(start - run_up)
            audio = _read_exactly(file, run_up + wanted)[run_up:]
        else:
            whole = _read_exactly(file, length)
            audio = whole[np.arange(start, start + wanted) % length]
    if not np.isfinite(audio).all():
        raise LeftOut(f"{path}: holds samples that are not finite")
    if ratio == 1:
        return audio
    resampled = librosa.resample(audio, orig_sr=ratio * sample_rate, target_sr=sample_rate)
    return librosa.util.fix_length(resampled, size=samples)


def sound_seconds(path: Path) -> float:
    """Length of a sound file.

    Raises:
        LeftOut: as for `read_audio`, as far as the header tells.
    """
    with _opened_sound(path) as file:
        return float(file.frames / file.samplerate)


def read_frames(path: Path, numbers: Sequence[int], size: int, crop: Crop = CENTRE) -> Frames:
    """Read frames of one video, all cut and scaled alike (bicubic).

    Args:
        path: a zip of `000001.jpg`, ..., or a folder of such files.
        numbers: T frame numbers, from 1.
        size: height and width of the result, pixels.
        crop: what is cut out.

    Returns:
        (T, size, size, 3) RGB.

    Raises:
        LeftOut: a frame is missing or damaged.
    """
    with _opened(path) as read:
        return np.stack([_square(*read(number), size, crop) for number in numbers])


class _Reader:
    """Bytes and name of one frame."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None) -> None:
        self.path = path
        self.archive = archive

    def __call__(self, number: int) -> tuple[bytes, Path]:
        name = FRAME_NAME.format(number)
        place = self.path / name
        try:
            return (self.archive.read(name) if self.archive else place.read_bytes()), place
        except (KeyError, FileNotFoundError):
            raise LeftOut(f"{place}: no such frame") from None
        except ZIP_ERRORS as error:
            raise LeftOut(f"{place}: not readable ({_reason(error)})") from None


@contextmanager
def _opened(path: Path) -> Iterator[_Reader]:
    if path.is_dir():
        yield _Reader(path, None)
        return
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise LeftOut(f"{path}: not readable as frames ({_reason(error)})") from None
    with archive:
        yield _Reader(path, archive)


@contextmanager
def _opened_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(path) as file:
            if _CUT_OFF.search(file.extra_info):
                raise LeftOut(f"{path}: ends before the length that its header says")
            if file.frames == 0:
                raise LeftOut(f"{path}: holds no sound")
            yield file
    except (soundfile.LibsndfileError, OSError) as error:
        raise LeftOut(f"{path}: not readable as sound ({_reason(error)})") from None


def _read_exactly(file: soundfile.SoundFile, samples: int) -> Audio:
    audio: Audio = file.read(samples, dtype="float32", always_2d=True).mean(axis=1)
    if len(audio) < samples:
        raise LeftOut(f"{file.name}: ends before the length that its header says")
    return audio


def _square(jpeg: bytes, place: Path, size: int, crop: Crop) -> Frames:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            shorter = min(image.size)
            side = shorter / crop.zoom
            left = crop.left * (image.width - side)
            top = crop.top * (image.height - side)
            box = (left, top, left + side, top + side)
            square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box)
    except UnidentifiedImageError:
        raise LeftOut(f"{place}: not readable as a picture (no JPEG)") from None
    except _PICTURE_ERRORS as error:
        raise LeftOut(f"{place}: not readable as a picture ({_reason(error)})") from None
    pixels = np.asarray(square)
    return pixels[:, ::-1] if crop.mirrored else pixels


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__
