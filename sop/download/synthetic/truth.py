"""Ground truth of a rendered video: sound, place and onsets of each instrument."""

from dataclasses import dataclass, fields
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
        np.savez(partial, **vars(truth))


def read_truth(path: Path) -> Truth:
    """Read a file of `write_truth`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {field.name: file[field.name] for field in fields(Truth)}
    values = {name: array if array.ndim else int(array) for name, array in arrays.items()}
    return Truth(**values | {"instruments": tuple(arrays["instruments"].tolist())})
