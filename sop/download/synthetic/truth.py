"""Ground truth of a rendered video: sound, place and onsets of each instrument."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sop.runtime.files import replacing


@dataclass(frozen=True)
class Truth:
    """Ground truth of one video with N instruments, F frames and L samples."""

    instruments: tuple[str, ...]
    """Names of the instruments, N."""
    stems: NDArray[np.int16]
    """Sound of each instrument, (N, L); their sum is the sound of the video before AAC."""
    sample_rate: int
    """Sample rate, Hz."""
    frame_rate: int
    """Frames per second."""
    width: int
    """Width of the pictures, pixels."""
    height: int
    """Height of the pictures, pixels."""
    boxes: NDArray[np.float32]
    """Box of each player, (N, F, 4): left, top, right, bottom in pixels."""
    onsets_seconds: NDArray[np.float64]
    """Onsets of all notes, sorted."""
    onset_instruments: NDArray[np.int64]
    """Index in `instruments` of the instrument of each onset."""


def write_truth(path: Path, truth: Truth) -> None:
    """Write an .npz file that NumPy reads without pickles."""
    with replacing(path) as partial:
        np.savez(
            partial,
            instruments=np.array(truth.instruments),
            stems=truth.stems,
            sample_rate=np.int64(truth.sample_rate),
            frame_rate=np.int64(truth.frame_rate),
            width=np.int64(truth.width),
            height=np.int64(truth.height),
            boxes=truth.boxes,
            onsets_seconds=truth.onsets_seconds,
            onset_instruments=truth.onset_instruments,
        )


def read_truth(path: Path) -> Truth:
    """Read a file of `write_truth`."""
    with np.load(path, allow_pickle=False) as file:
        return Truth(
            instruments=tuple(str(name) for name in file["instruments"]),
            stems=file["stems"],
            sample_rate=int(file["sample_rate"]),
            frame_rate=int(file["frame_rate"]),
            width=int(file["width"]),
            height=int(file["height"]),
            boxes=file["boxes"],
            onsets_seconds=file["onsets_seconds"],
            onset_instruments=file["onset_instruments"],
        )
