"""Sound files of several formats, written block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.cancellation.wav import writing_wav
from sop.runtime.errors import LeftOut
from sop.runtime.files import remove_abandoned_partials, replacing

SoundFormat = Literal["wav", "flac", "mp3"]

FORMATS: tuple[SoundFormat, ...] = ("wav", "flac", "mp3")

# Of FLAC, and of MPEG-1, 2 and 2.5 layer III.
MAX_FLAC_CHANNELS, MAX_FLAC_RATE = 8, 655_350
MAX_MP3_CHANNELS = 2
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

# libsndfile has no names for these: FLAC of 24 bits, MP3 of the highest quality.
_SETTINGS: dict[str, dict[str, Any]] = {
    "flac": {"format": "FLAC", "subtype": "PCM_24"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.0},
}


class SoundWriter(Protocol):
    """A sound file that is being written."""

    def write(self, block: NDArray[np.float32]) -> None:
        """Append a block, (s, channels)."""


def check_format(format_: SoundFormat, sample_rate: int, channels: int) -> None:
    """Check that a format can hold a sound.

    Raises:
        LeftOut: it cannot.
    """
    if format_ == "flac" and (channels > MAX_FLAC_CHANNELS or sample_rate > MAX_FLAC_RATE):
        raise LeftOut(
            f"FLAC holds at most {MAX_FLAC_CHANNELS} channels at {MAX_FLAC_RATE} Hz, the sound has "
            f"{channels} at {sample_rate} Hz; use --format wav"
        )
    if format_ == "mp3" and (channels > MAX_MP3_CHANNELS or sample_rate not in MP3_RATES):
        raise LeftOut(
            f"MP3 holds at most {MAX_MP3_CHANNELS} channels at {MP3_RATES[-1]} Hz, the sound has "
            f"{channels} at {sample_rate} Hz; use --format flac"
        )


@contextmanager
def writing_sound(
    path: Path, sample_rate: int, channels: int, channel_mask: int
) -> Iterator[SoundWriter]:
    """Write a sound file; it appears, complete, when the block ends without an error.

    Args:
        path: the file; its suffix names the format, one of `FORMATS`.
        sample_rate: Hz.
        channels: number of channels.
        channel_mask: loudspeakers of the channels, as in WAVEFORMATEXTENSIBLE, for WAV.

    Raises:
        UserError: the file cannot be written.
    """
    settings = _SETTINGS.get(path.suffix.removeprefix("."))
    if settings is None:
        with writing_wav(path, sample_rate, channels, channel_mask) as writer:
            yield writer
        return
    remove_abandoned_partials(path)
    with (
        replacing(path) as partial,
        soundfile.SoundFile(partial, "w", sample_rate, channels, **settings) as file,
    ):
        yield _Clipped(file)


class _Clipped:
    """Writes whole numbers, of which full scale is the largest."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, block: NDArray[np.float32]) -> None:
        self._file.write(block.clip(-1, 1))
