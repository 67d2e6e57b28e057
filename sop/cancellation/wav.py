"""32-bit float WAV files of any number of channels and any length, written block by block.

The header is written here, because soundfile can neither set the channel mask nor choose between
RIFF and RF64 by the length of the finished file, and it stores the current time in float files.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sop.runtime.files import remove_abandoned_partials, replacing

Samples = NDArray[np.float32]

SAMPLE_BYTES = 4

# Largest size of a RIFF file, by the width of its fields; longer files are RF64.
RIFF_BYTES = 2**32 - 1

# WAVE_FORMAT_IEEE_FLOAT; WAVE_FORMAT_EXTENSIBLE refers to it by a GUID.
FLOAT = 3
EXTENSIBLE = 0xFFFE
GUID_REST = bytes.fromhex("000000001000800000aa00389b71")

# Channel masks of mono and stereo; without WAVE_FORMAT_EXTENSIBLE more programs read the file.
PLAIN_MASKS = {1: (0, 0x4), 2: (0, 0x3)}

DS64_BYTES = 28


class WavWriter:
    """A WAV file that is being written; created by `writing_wav`."""

    def __init__(self, file: IO[bytes], sample_rate: int, channels: int, channel_mask: int) -> None:
        self.samples = 0
        """Number of samples of each channel written so far."""
        self._file = file
        self._channels = channels
        # The content of the chunk `fmt `.
        size, bits = channels * SAMPLE_BYTES, 8 * SAMPLE_BYTES
        plain = channel_mask in PLAIN_MASKS.get(channels, ())
        kind = FLOAT if plain else EXTENSIBLE
        rates = sample_rate, sample_rate * size
        self._format = struct.pack("<HHIIHH", kind, channels, *rates, size, bits)
        if not plain:
            self._format += struct.pack("<HHIH", 22, bits, channel_mask, FLOAT) + GUID_REST
        self.write_header()

    def write(self, block: Samples) -> None:
        """Append a block.

        Args:
            block: (s, channels), full scale being 1.

        Raises:
            OSError: the disk is full; `writing_wav` reports it.
            ValueError: the block has a different number of channels.
        """
        if block.ndim != 2 or block.shape[1] != self._channels:
            raise ValueError(f"a block of shape {block.shape}, expected (s, {self._channels})")
        self.samples += len(block)
        self._write(block.astype("<f4").tobytes())

    def write_header(self) -> None:
        """Write all bytes before the samples, with the lengths so far.

        The header is as long as that of an RF64 file in any case.
        """
        data = self.samples * self._channels * SAMPLE_BYTES
        fact = struct.pack("<I", min(self.samples, RIFF_BYTES))
        chunks = _chunk(b"fmt ", self._format) + _chunk(b"fact", fact)
        # "WAVE", the chunk JUNK or ds64, the other chunks, and the header of the samples.
        length = 4 + 8 + DS64_BYTES + len(chunks) + 8 + data
        kind, size, first = b"RIFF", length, _chunk(b"JUNK", bytes(DS64_BYTES))
        if length > RIFF_BYTES:
            first = _chunk(b"ds64", struct.pack("<QQQI", length, data, self.samples, 0))
            kind, size, data = b"RF64", 2**32 - 1, 2**32 - 1
        begin = struct.pack("<4sI4s", kind, size, b"WAVE")
        self._file.seek(0)
        self._write(begin + first + chunks + struct.pack("<4sI", b"data", data))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


@contextmanager
def writing_wav(
    path: Path, sample_rate: int, channels: int, channel_mask: int = 0
) -> Iterator[WavWriter]:
    """Write a WAV file block by block; it appears, complete, when the block ends without an error.

    A file over 4 GiB is an RF64 file (EBU Tech 3306), which soundfile, ffmpeg and audio editors
    read.

    Args:
        path: the file; its folder is created if missing.
        sample_rate: Hz.
        channels: number of channels.
        channel_mask: loudspeakers of the channels, as in WAVEFORMATEXTENSIBLE; 0 for unknown.

    Raises:
        UserError: the file cannot be written.
    """
    remove_abandoned_partials(path)
    with replacing(path) as partial, partial.open("wb") as file:
        writer = WavWriter(file, sample_rate, channels, channel_mask)
        yield writer
        writer.write_header()


def read_header(stream: IO[bytes]) -> tuple[int, int, int] | None:
    """Read a WAV stream up to its first sample.

    Returns:
        Sample rate in Hz, number of channels, and the loudspeakers of the channels as in
        WAVEFORMATEXTENSIBLE, 0 for unknown; None if the stream ends before.
    """
    header = None
    stream.read(12)
    while len(chunk := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return header
        content = stream.read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            kind, channels, sample_rate = struct.unpack_from("<HHI", content)
            extended = kind == EXTENSIBLE and len(content) >= 40
            mask = struct.unpack_from("<I", content, 20)[0] if extended else 0
            header = sample_rate, channels, mask
    return None


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content
