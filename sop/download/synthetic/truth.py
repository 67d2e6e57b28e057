"""What is true of a rendered video: the sound of every instrument, its place, its onsets."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sop.runtime.files import replacing


@dataclass(frozen=True)
class Truth:
    """The truth of one video of N instruments, F frames and L samples."""

    instruments: tuple[str, ...]
    """Their names, N."""
    stems: NDArray[np.int16]
    """The sound of each, (N, L); their sum is the sound of the video before AAC."""
    sample_rate: int
    frame_rate: int
    width: int
    """Of the picture, pixels."""
    height: int
    boxes: NDArray[np.float32]
    """Where each player is, (N, F, 4): left, top, right, bottom in pixels."""
    onsets_seconds: NDArray[np.float64]
    """When notes begin, by time."""
    onset_instruments: NDArray[np.int64]
    """Which instrument begins each of them: its index in `instruments`."""


def write_truth(path: Path, truth: Truth) -> None:
    """Write `truth` as an .npz file that NumPy reads without pickles."""
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
    """Read what `write_truth` wrote."""
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
