"""WAV files of any number of channels and any length, written as the sound comes."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from sop.runtime.errors import UserError
from sop.runtime.files import writable

Values = NDArray[np.float32]

Encoding = Literal["int16", "float32"]

FULL_SCALE = 2**15

# What a RIFF file can be long, by the width of its fields; a longer one is an RF64.
RIFF_BYTES = 2**32 - 1

# WAVE_FORMAT_PCM and WAVE_FORMAT_IEEE_FLOAT; WAVE_FORMAT_EXTENSIBLE leads to either by a GUID.
FORMATS = {"int16": 1, "float32": 3}
EXTENSIBLE = 0xFFFE
GUID_REST = bytes.fromhex("000000001000800000aa00389b71")

# Mono and stereo are understood without a mask, and by more readers.
PLAIN_MASKS = {1: (0, 0x4), 2: (0, 0x3)}

DS64_BYTES = 28


class WavWriter:
    """A WAV file that is being written; of `writing_wav`."""

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        sample_rate: int,
        channels: int,
        channel_mask: int,
        encoding: Encoding,
    ) -> None:
        self.samples = 0
        """Written so far, of each channel."""
        self.clipped = 0
        """Values that did not fit into 16 bits and became the largest that does."""
        self._file = file
        self._path = path
        self._channels = channels
        self._encoding = encoding
        self._format = _format(sample_rate, channels, channel_mask, encoding)
        self._write(self._header())

    def write(self, block: Values) -> None:
        """Append a block, (s, channels), full scale being 1.

        Raises:
            UserError: it cannot be written.
        """
        if block.ndim != 2 or block.shape[1] != self._channels:
            raise ValueError(f"a block of shape {block.shape}, expected (s, {self._channels})")
        self.samples += len(block)
        if self._encoding == "float32":
            self._write(block.astype("<f4").tobytes())
            return
        values = np.rint(block * np.float32(FULL_SCALE))
        self.clipped += int(((values < -FULL_SCALE) | (values >= FULL_SCALE)).sum())
        self._write(values.clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes())

    def finish(self) -> None:
        """Write the lengths, now that they are known."""
        self._write(self._header(), begin=True)

    @property
    def _data_bytes(self) -> int:
        return self.samples * self._channels * (2 if self._encoding == "int16" else 4)

    def _header(self) -> bytes:
        """All before the samples, always equally long: space for the lengths of an RF64 is kept."""
        data = self._data_bytes
        chunks = b"WAVE" + _chunk(b"JUNK", bytes(DS64_BYTES)) + _chunk(b"fmt ", self._format)
        if self._encoding == "float32":
            chunks += _chunk(b"fact", struct.pack("<I", min(self.samples, RIFF_BYTES)))
        length = len(chunks) + 8 + data
        if length <= RIFF_BYTES:
            return b"RIFF" + struct.pack("<I", length) + chunks + b"data" + struct.pack("<I", data)
        unknown = b"\xff\xff\xff\xff"
        ds64 = _chunk(b"ds64", struct.pack("<QQQI", length, data, self.samples, 0))
        chunks = b"WAVE" + ds64 + chunks[4 + len(ds64) :]
        return b"RF64" + unknown + chunks + b"data" + unknown

    def _write(self, data: bytes, begin: bool = False) -> None:
        try:
            if begin:
                self._file.seek(0)
            self._file.write(data)
            if begin:
                self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None


@contextmanager
def writing_wav(
    path: Path,
    sample_rate: int,
    channels: int,
    channel_mask: int = 0,
    encoding: Encoding = "float32",
) -> Iterator[WavWriter]:
    """Write a WAV as its sound comes; it is there, whole, when the block ends without an error.

    A file over 4 GiB is an RF64 (EBU Tech 3306), which soundfile, ffmpeg and editors read alike.

    Args:
        path: the file; its folder is made if missing.
        sample_rate: Hz.
        channels: how many.
        channel_mask: which loudspeakers they are for, as in WAVEFORMATEXTENSIBLE; 0 for unknown.
        encoding: float32 keeps all: components over full scale, and quiet ones, so that their sum
            is the sound at any level. int16 is half as large; it is rounded without dither, and
            what is over full scale is clipped and counted. Five components of a sound at -35 dB of
            full scale then sum to it to only about -60 dB.

    Raises:
        UserError: it cannot be written.
    """
    with writable(path) as partial, partial.open("wb") as file:
        writer = WavWriter(file, path, sample_rate, channels, channel_mask, encoding)
        yield writer
        writer.finish()


@dataclass(frozen=True)
class WavHeader:
    """What a WAV says of its samples."""

    sample_rate: int
    """Hz."""
    channels: int
    channel_mask: int
    """Which loudspeakers they are for, as in WAVEFORMATEXTENSIBLE; 0 if it does not say."""


def read_header(stream: IO[bytes]) -> WavHeader | None:
    """Read a WAV up to its first sample; None if it ends before."""
    found = None
    stream.read(12)
    while len(head := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return found
        content = stream.read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            kind, channels, sample_rate = struct.unpack_from("<HHI", content)
            extended = kind == EXTENSIBLE and len(content) >= 40
            mask = struct.unpack_from("<I", content, 20)[0] if extended else 0
            found = WavHeader(sample_rate, channels, mask)
    return None


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def _format(sample_rate: int, channels: int, channel_mask: int, encoding: Encoding) -> bytes:
    width = 2 if encoding == "int16" else 4
    plain = channel_mask in PLAIN_MASKS.get(channels, ())
    common = struct.pack(
        "<HHIIHH",
        FORMATS[encoding] if plain else EXTENSIBLE,
        channels,
        sample_rate,
        sample_rate * channels * width,
        channels * width,
        8 * width,
    )
    if plain:
        return common
    return common + struct.pack("<HHIH", 22, 8 * width, channel_mask, FORMATS[encoding]) + GUID_REST
