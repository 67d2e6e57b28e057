"""What `evaluate` hands on: one file for each mixture, with what was mixed and the model's masks.

All else follows from these: the mixture, the spectrograms, the separated sounds.

Shapes: N sources, R x M rows x frames of the masks.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.model.spectrogram import separate, stft, to_linear_frequency
from sop.params import Params
from sop.runtime.errors import UserError
from sop.runtime.files import replacing

FOLDER = "records"

Sounds = NDArray[np.float32]


class Record(NamedTuple):
    """One evaluated mixture."""

    number: int
    videos: tuple[str, ...]
    """Their names, `<category>/<id>`."""
    sources: NDArray[np.float32]
    """What was mixed, (N, samples of the clip)."""
    masks: NDArray[np.float32]
    """What the model predicted, before any threshold, (N, R, M)."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Of the videos."""
        return tuple(name.partition("/")[0] for name in self.videos)

    def spectrum(self, params: Params) -> Tensor:
        """Complex spectrogram of the mixture, (F, M)."""
        return stft(torch.from_numpy(self.sources).sum(dim=0), params.spectrogram)

    def linear_masks(self, params: Params) -> Tensor:
        """The masks on the linear frequency axis, (N, F, M)."""
        masks = torch.from_numpy(self.masks)
        if not params.spectrogram.log_frequency:
            return masks
        return to_linear_frequency(masks, params.spectrogram.stft_frame // 2 + 1)

    def estimates(self, params: Params) -> NDArray[np.float32]:
        """The separated sounds, as they were evaluated, (N, L)."""
        binary = params.model.mask == "binary"
        return self.masked(self.masks, params, params.evaluate.mask_threshold if binary else None)

    def masked(
        self, masks: NDArray[np.float32], params: Params, threshold: float | None = None
    ) -> NDArray[np.float32]:
        """The sounds that masks (N, R, M) make of the mixture, (N, L); see `separate`."""
        spectrum, given = self.spectrum(params)[None], torch.from_numpy(masks)[None]
        sounds: NDArray[np.float32] = separate(spectrum, given, params.spectrogram, threshold)[
            0
        ].numpy()
        return sounds

    def truth(self, params: Params) -> NDArray[np.float32]:
        """The true sounds, as long as the estimates, (N, L)."""
        hop = params.spectrogram.stft_hop
        return self.sources[:, : self.sources.shape[1] // hop * hop]


def write_record(folder: Path, record: Record) -> None:
    """Write a mixture's record below a folder, as `records/<number>.npz`."""
    path = folder / FOLDER / f"{record.number:04d}.npz"
    with replacing(path) as partial:
        np.savez(
            partial,
            number=np.array(record.number),
            videos=np.array(record.videos),
            sources=record.sources,
            masks=record.masks,
        )


def record_paths(folder: Path) -> list[Path]:
    """The files of all records below a folder, in the order of their numbers.

    Raises:
        UserError: there is none.
    """
    paths = sorted((folder / FOLDER).glob("*.npz"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise UserError(f"{folder / FOLDER}: no mixtures there; `dvc repro evaluate` makes them")
    return paths


def read_record(path: Path) -> Record:
    """Read one.

    Raises:
        UserError: it is damaged.
    """
    with _reading(path) as arrays:
        return Record(
            int(arrays["number"]),
            tuple(map(str, arrays["videos"])),
            arrays["sources"],
            arrays["masks"],
        )


def read_videos(path: Path) -> tuple[str, ...]:
    """Read no more than the names of its videos.

    Raises:
        UserError: it is damaged.
    """
    with _reading(path) as arrays:
        return tuple(map(str, arrays["videos"]))


def write_sound(path: Path, audio: NDArray[np.floating[Any]], sample_rate: int) -> None:
    """Write a sound with 16 bits per sample; values beyond full scale are clipped.

    Args:
        path: the file; its ending, `.wav` or `.flac`, chooses the format.
        audio: (L,), full scale being 1.
        sample_rate: Hz.
    """
    with replacing(path) as partial:
        soundfile.write(partial, np.clip(audio, -1, 1), sample_rate, subtype="PCM_16")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not readable ({error}); `dvc repro --force evaluate` makes it again"
        ) from None
