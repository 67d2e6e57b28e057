"""Records of the evaluated mixtures: one file each, with the mixed sounds and the predicted masks.

Everything else follows from these: the mixture, the spectrograms, the separated sounds.

Shapes: N sources, L samples, F x M frequency bins x spectrogram frames, R rows of the masks.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.evaluate.measures import Sounds, finite_or_silent
from sop.model.spectrogram import MaskRule, separate, stft, to_linear_frequency
from sop.params import Params
from sop.runtime.errors import UserError
from sop.runtime.files import is_litter, replacing

FOLDER = "records"
UNCHANGED = MaskRule()


def evaluation_rule(params: Params) -> MaskRule:
    """Return how evaluation makes gains of the predicted masks."""
    settings = params.evaluate
    return MaskRule.of(params.model.mask, settings.mask_threshold, settings.mask_power)


class Record(NamedTuple):
    """One evaluated mixture."""

    number: int
    videos: tuple[str, ...]
    """Names of the videos, `<category>/<id>`."""
    sources: Sounds
    """The mixed sounds, (N, samples of the clip)."""
    masks: NDArray[np.float32]
    """The predicted masks, before any threshold or power, (N, R, M)."""
    centres: tuple[int, ...] = ()
    """Frame in the middle of each clip, from 1; empty if they are the middles of the videos."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the videos."""
        return tuple(name.partition("/")[0] for name in self.videos)

    def spectrum(self, params: Params) -> Tensor:
        """Return the complex spectrogram of the mixture, (F, M)."""
        return stft(torch.from_numpy(self.sources).sum(dim=0), params.spectrogram)

    def linear_masks(self, params: Params) -> Tensor:
        """Return the masks on the linear frequency axis, (N, F, M)."""
        masks = torch.from_numpy(self.masks)
        if not params.spectrogram.log_frequency:
            return masks
        return to_linear_frequency(masks, params.spectrogram.stft_frame // 2 + 1)

    def estimates(self, params: Params) -> Sounds:
        """Return the separated sounds as they were evaluated, (N, L)."""
        return self.masked(self.masks, params, evaluation_rule(params))

    def masked(
        self, masks: NDArray[np.float32], params: Params, rule: MaskRule = UNCHANGED
    ) -> Sounds:
        """Return the sounds that masks (N, R, M) separate from the mixture, (N, L).

        Args:
            masks: any masks of this mixture.
            params: settings of the spectrogram.
            rule: how the masks become the gains of the sources.
        """
        spectrum, batch = self.spectrum(params)[None], torch.from_numpy(masks)[None]
        sounds = separate(spectrum, batch, params.spectrogram, rule)[0].numpy()
        return finite_or_silent(sounds)

    def truth(self, params: Params) -> Sounds:
        """Return the true sounds, cut to the length of the estimates, (N, L)."""
        hop = params.spectrogram.stft_hop
        return self.sources[:, : self.sources.shape[1] // hop * hop]


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a mixture as `<folder>/records/<number>.npz`."""
    path = folder / FOLDER / f"{record.number:04d}.npz"
    with replacing(path) as partial:
        values = record._asdict()
        if not record.centres:
            del values["centres"]
        arrays: dict[str, Any] = {name: np.array(value) for name, value in values.items()}
        np.savez(partial, **arrays)


def record_paths(folder: Path) -> list[Path]:
    """Return the files of all records below a folder, ordered by number.

    Raises:
        UserError: there are none.
    """
    found = (path for path in (folder / FOLDER).glob("*.npz") if not is_litter(path))
    paths = sorted(found, key=lambda path: (len(path.name), path.name))
    if not paths:
        raise UserError(f"{folder / FOLDER}: contains no mixtures; run `dvc repro evaluate`")
    return paths


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            videos = tuple(map(str, arrays["videos"]))
            centres = tuple(map(int, arrays["centres"])) if "centres" in arrays else ()
            sounds = (arrays["sources"], arrays["masks"])
            return Record(int(arrays["number"]), videos, *sounds, centres)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not readable ({error}); run `dvc repro --force evaluate`"
        ) from None


def write_sound(path: Path, audio: NDArray[np.floating[Any]], sample_rate: int) -> None:
    """Write a sound with 16 bits per sample; values beyond full scale are clipped.

    Args:
        path: the file; its ending, `.wav` or `.flac`, chooses the format.
        audio: (L,), full scale being 1.
        sample_rate: Hz.
    """
    # Encoded in memory: libsndfile does not say why it cannot write a file.
    encoded = io.BytesIO()
    samples, kind = np.clip(audio, -1, 1), path.suffix[1:]
    soundfile.write(encoded, samples, sample_rate, subtype="PCM_16", format=kind)
    with replacing(path) as partial:
        partial.write_bytes(encoded.getbuffer())
