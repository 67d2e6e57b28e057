"""Adaptive noise cancellation of whole recordings, block by block; memory does not grow with them.

Every channel of the target has a filter of its own, whose references are all channels of all
reference recordings.

Shapes: C channels of the target, R channels of all references together, N signals, s consecutive
samples.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sop.cancellation.filter_bank import Samples, filter_bank
from sop.cancellation.wav import writing_wav
from sop.denoise.adaptive import largest_lms_rate
from sop.denoise.settings import FilterSettings, LmsSettings
from sop.runtime.errors import UserError
from sop.runtime.files import require_file
from sop.runtime.progress import progress

BLOCK_SECONDS = 1.0


@dataclass(frozen=True)
class Cancelled:
    """What was made of a recording."""

    energy_before: float
    """Of the target: the sum of its squared samples, full scale being 1."""
    energy_after: float
    """Of the result."""
    notes: tuple[str, ...]
    """What was passed through as it is, and why."""

    @property
    def decibels(self) -> float:
        """How much quieter the result is; infinite if it is silent and the target is not."""
        if not self.energy_after:
            return math.inf if self.energy_before else 0.0
        if not self.energy_before:
            return -math.inf
        return 10 * math.log10(self.energy_before / self.energy_after)


def cancel(
    target: Path, references: Sequence[Path], out: Path, settings: FilterSettings
) -> Cancelled:
    """Take out of a recording what others, made at the same time, can predict of it.

    All files are read once beforehand, so that what cannot be used is known before the work.

    Args:
        target: any sound file that libsndfile reads.
        references: one or more of the target's rate and length, of any number of channels.
        out: gets the result, a WAV of 32-bit floats of the target's rate, length and channels;
            it is there, whole, at the end.
        settings: the filter.

    Raises:
        UserError: a file cannot be used, they do not fit each other, the filter is impossible or
            would diverge, or the result cannot be written.
    """
    _check_place(out, (target, *references))
    wanted, *heard = [_described(path) for path in (target, *references)]
    for sound in heard:
        _check_alike(wanted, sound)
    notes = []
    too_short = settings.taps > wanted.samples
    if too_short:
        notes.append(
            f"{target}: copied as it is, {settings.taps} taps are more than its {wanted.samples} "
            "samples"
        )
    loud = _listen(wanted, heard, None if too_short else settings)
    if not too_short:
        silent = [sound.path for sound, sounds in zip(heard, loud, strict=True) if not sounds]
        notes += [f"{path}: silent, nothing can be learned from it" for path in silent]
        if not any(loud):
            notes.append(f"{target}: copied as it is, there is no reference that sounds")
    filters = 0 if too_short or not any(loud) else wanted.channels
    before = after = 0.0
    with (
        filter_bank(settings, [sum(sound.channels for sound in heard)] * filters) as bank,
        writing_wav(out, wanted.sample_rate, wanted.channels) as file,
    ):
        for block, reference in _side_by_side(wanted, heard, f"cancelling ({settings.method})"):
            clean = bank.clean(block, [reference] * filters) if filters else block
            before += float(np.square(block, dtype=np.float64).sum())
            after += float(np.square(clean, dtype=np.float64).sum())
            file.write(clean.T)
    return Cancelled(before, after, tuple(notes))


@dataclass(frozen=True)
class _Sound:
    path: Path
    sample_rate: int
    """Hz."""
    channels: int
    samples: int
    """Of each channel."""

    @property
    def length(self) -> str:
        return f"{self.samples} samples, {self.samples / self.sample_rate:.3f} s"


def _check_place(out: Path, inputs: Sequence[Path]) -> None:
    if out.suffix.lower() != ".wav":
        raise UserError(f"{out}: the result is a WAV; choose a name that ends in .wav")
    for path in inputs:
        if out.resolve() == path.resolve() or (
            out.exists() and path.exists() and out.samefile(path)
        ):
            raise UserError(f"{out}: would be written over, it is an input; choose another name")


def _check_alike(target: _Sound, reference: _Sound) -> None:
    if reference.sample_rate != target.sample_rate:
        raise UserError(
            f"{reference.path}: has {reference.sample_rate} Hz, {target.path} has "
            f"{target.sample_rate} Hz; resample one of them"
        )
    if reference.samples != target.samples:
        raise UserError(
            f"{reference.path}: differs in length ({reference.length}) from {target.path} "
            f"({target.length}); cut them to the same stretch of time"
        )


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    # Opening anything else, such as a named pipe, may block forever.
    require_file(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    with stream:
        try:
            file = soundfile.SoundFile(stream)
        # A file without a header, by its name, wants to be told what it holds.
        except (soundfile.SoundFileError, TypeError):
            raise UserError(
                f"{path}: not a sound file that libsndfile reads; convert it to WAV or FLAC"
            ) from None
        with file:
            yield file


def _described(path: Path) -> _Sound:
    with _opened(path) as file:
        if not file.frames:
            raise UserError(f"{path}: holds no samples; record it again")
        return _Sound(path, file.samplerate, file.channels, file.frames)


def _blocks(sound: _Sound) -> Iterator[Samples]:
    """Read consecutive blocks, (channels, s).

    Raises:
        UserError: it is damaged, or holds what is no number.
    """
    size = _block_samples(sound)
    with _opened(sound.path) as file:
        for begin in range(0, sound.samples, size):
            count = min(size, sound.samples - begin)
            try:
                block = file.read(count, dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                block = np.zeros((0, sound.channels), np.float32)
            if len(block) < count:
                seconds = (begin + len(block)) / sound.sample_rate
                raise UserError(
                    f"{sound.path}: damaged, cannot be read beyond second {seconds:.3f} of "
                    f"{sound.samples / sound.sample_rate:.3f}; make it anew, or cut it there"
                )
            bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
            if len(bad):
                seconds = (begin + int(bad[0])) / sound.sample_rate
                raise UserError(
                    f"{sound.path}: a sample is not a finite number at second {seconds:.3f}; "
                    "mend the file, or cut that stretch out of all of them"
                )
            yield np.ascontiguousarray(block.T)


def _block_samples(sound: _Sound) -> int:
    return max(1, int(BLOCK_SECONDS * sound.sample_rate))


def _side_by_side(
    target: _Sound, references: Sequence[_Sound], what: str
) -> Iterator[tuple[Samples, Samples]]:
    """Consecutive blocks of the target, (C, s), and of all references, (R, s)."""
    blocks = zip(_blocks(target), *map(_blocks, references), strict=True)
    total = math.ceil(target.samples / _block_samples(target))
    for block, *heard in progress(blocks, what, total, "second"):
        yield block, np.concatenate(heard)


def _listen(
    target: _Sound, references: Sequence[_Sound], settings: FilterSettings | None
) -> list[bool]:
    """Read everything once.

    Returns:
        Whether each of the references sounds.

    Raises:
        UserError: a file is damaged, or the filter would diverge.
    """
    owners = np.repeat(np.arange(len(references)), [sound.channels for sound in references])
    loud = np.zeros(len(owners), bool)
    largest = math.inf
    past: Samples = np.zeros((len(owners), 0), np.float32)
    for _, reference in _side_by_side(target, references, "listening"):
        loud |= reference.any(axis=1)
        if isinstance(settings, LmsSettings):
            heard = np.concatenate([past, reference], axis=1)
            largest = min(largest, largest_lms_rate(heard, settings.taps))
            past = heard[:, max(0, heard.shape[1] - settings.taps + 1) :]
    if isinstance(settings, LmsSettings) and settings.rate >= largest:
        raise UserError(
            f"lms: rate {settings.rate:g} diverges with these references; it must be below "
            f"{_rounded_down(largest):.3g}, or take nlms, which suits any loudness"
        )
    return [bool(loud[owners == owner].any()) for owner in range(len(references))]


def _rounded_down(value: float) -> float:
    """To three digits, so that what is below the printed number is below the number."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.floor(value / step) * step
