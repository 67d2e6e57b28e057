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
    rests: NDArray[np.bool_]
    """Whether each player rests for long in each frame, (N, F); short rests of a melody are not
    marked."""

    @property
    def resting(self) -> tuple[bool, ...]:
        """For each player, whether it rests all through."""
        return tuple(bool(own.all()) for own in self.rests)


def write_truth(path: Path, truth: Truth) -> None:
    """Write an .npz file that NumPy reads without pickles; it names rests only if there are any."""
    arrays = dict(vars(truth))
    if not truth.rests.any():
        del arrays["rests"]
    with replacing(path) as partial:
        np.savez(partial, **arrays)


def read_truth(path: Path) -> Truth:
    """Read a file of `write_truth`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays.setdefault("rests", np.zeros(arrays["boxes"].shape[:2], dtype=np.bool_))
    values = {name: array if array.ndim else int(array) for name, array in arrays.items()}
    return Truth(**values | {"instruments": tuple(arrays["instruments"].tolist())})
