"""Adaptive noise cancellation of recordings, block by block, in constant memory.

Each channel of the target has its own filter, whose references are all channels of all reference
recordings.

Shapes: C channels of the target, R channels of all references together, s samples of a block.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from sop.cancellation.filter_bank import FilterBank
from sop.cancellation.wav import Samples, writing_wav
from sop.denoise.adaptive import FilterError, check_lms_rate, largest_lms_rate
from sop.denoise.guard import Kept
from sop.denoise.settings import FilterSettings, LmsSettings
from sop.runtime.errors import UserError
from sop.runtime.files import require_file
from sop.runtime.progress import progress

BLOCK_SECONDS = 1.0

# Larger than any sample of an integer format that was stored as a float without scaling.
MAX_SAMPLE = 2.0**31


@dataclass(frozen=True)
class Cancelled:
    """Result of a noise cancellation."""

    energy_before: float
    """Sum of the squared samples of the target, full scale being 1."""
    energy_after: float
    """Sum of the squared samples of the result."""
    notes: tuple[str, ...]
    """Recordings that were ignored or copied unchanged, wholly or in part, and why."""
    kept: Kept
    """Where the target was kept, because the filter would have made it louder."""

    @property
    def decibels(self) -> float:
        """Reduction of the energy; infinite if only the result is silent."""
        if not self.energy_after:
            return math.inf if self.energy_before else 0.0
        if not self.energy_before:
            return -math.inf
        return 10 * math.log10(self.energy_before / self.energy_after)


def cancel(
    target: Path, references: Sequence[Path], out: Path, settings: FilterSettings
) -> Cancelled:
    """Remove from a recording what other recordings, made at the same time, predict of it.

    All files are read once before filtering, so that an unusable file is found early and the levels
    of the references are known. Where the filter would make the target much louder, the target is
    kept (`sop.denoise.guard`).

    Args:
        target: any sound file that libsndfile reads.
        references: one or more files with the target's sample rate and length, and any number of
            channels.
        out: file for the result, a WAV file of 32-bit floats with the target's sample rate, length
            and channels. It appears when it is complete.
        settings: settings of the filters.

    Raises:
        UserError: a file cannot be used, the files do not match, the filter is impossible or would
            diverge, or the result cannot be written.
    """
    _check_output(out, (target, *references))
    sounds = []
    for path in (target, *references):
        with _opened(path) as file:
            if not file.frames:
                raise UserError(f"{path}: contains no audio")
            sounds.append(_Sound(path, file.samplerate, file.channels, file.frames))
    wanted, *others = sounds
    for other in others:
        _check_match(wanted, other)
    too_short = settings.taps > wanted.samples
    levels = _levels(wanted, others, None if too_short else settings)
    silent = [other.path for other, level in zip(others, levels, strict=True) if not any(level)]
    notes = [f"{path}: silent, so it predicts nothing" for path in silent]
    reason = "all references are silent" if len(silent) == len(others) else ""
    if too_short:
        notes, reason = [], f"{settings.taps} taps are more than its {wanted.samples} samples"
    if reason:
        notes.append(f"{target}: copied unchanged, {reason}")
    filters = 0 if reason else wanted.channels
    channels = list(chain.from_iterable(levels))
    bank = FilterBank(settings, [len(channels)] * filters, wanted.sample_rate, channels)
    before = after = 0.0
    with writing_wav(out, wanted.sample_rate, wanted.channels) as file:
        for block, reference in _aligned(wanted, others, f"cancel ({settings.method})"):
            clean = bank.clean(block, [reference] * filters) if filters else block
            before += float(np.square(block, dtype=np.float64).sum())
            after += float(np.square(clean, dtype=np.float64).sum())
            file.write(clean.T)
        if filters:
            clean = bank.finish()
            after += float(np.square(clean, dtype=np.float64).sum())
            file.write(clean.T)
    if bank.kept:
        notes.append(f"{target}: {bank.kept}")
    return Cancelled(before, after, tuple(notes), bank.kept)


@dataclass(frozen=True)
class _Sound:
    path: Path
    sample_rate: int
    """Hz."""
    channels: int
    samples: int
    """Number of samples of each channel."""

    @property
    def length(self) -> str:
        return f"{self.samples} samples, {self.samples / self.sample_rate:.3f} s"

    @property
    def block_samples(self) -> int:
        return max(1, int(BLOCK_SECONDS * self.sample_rate))


def _check_output(out: Path, inputs: Sequence[Path]) -> None:
    if out.suffix.lower() != ".wav":
        raise UserError(f"{out}: the result is a WAV file; choose a name that ends in .wav")
    for path in inputs:
        is_same = out.exists() and path.exists() and out.samefile(path)
        if is_same or out.resolve() == path.resolve():
            raise UserError(f"{out}: is also an input; choose another name for the result")


def _check_match(target: _Sound, reference: _Sound) -> None:
    if reference.sample_rate != target.sample_rate:
        raise UserError(
            f"{reference.path}: has {reference.sample_rate} Hz, but {target.path} has "
            f"{target.sample_rate} Hz; resample one of them"
        )
    if reference.samples != target.samples:
        raise UserError(
            f"{reference.path}: differs in length ({reference.length}) from {target.path} "
            f"({target.length}); trim them to the same time span"
        )


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    # Opening anything but a regular file, such as a pipe, could block forever.
    require_file(path)
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(path.open("rb"))
            file = stack.enter_context(soundfile.SoundFile(stream))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        # A TypeError means a file without a header, such as text.raw.
        except (soundfile.SoundFileError, TypeError):
            raise UserError(
                f"{path}: not a sound file that libsndfile reads; convert it to WAV or FLAC"
            ) from None
        yield file


def _blocks(sound: _Sound) -> Iterator[Samples]:
    """Read consecutive blocks, (channels, s).

    Raises:
        UserError: the file is damaged, or contains a sample that is not finite or too large.
    """
    with _opened(sound.path) as file:
        for begin in range(0, sound.samples, sound.block_samples):
            count = min(sound.block_samples, sound.samples - begin)
            try:
                block = file.read(count, dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                block = np.zeros((0, sound.channels), np.float32)
            if len(block) < count:
                seconds = (begin + len(block)) / sound.sample_rate
                raise UserError(
                    f"{sound.path}: damaged, cannot be read beyond second {seconds:.3f} of "
                    f"{sound.samples / sound.sample_rate:.3f}; create it again, or trim it there"
                )
            # Written so that NaN is bad, too.
            bad = np.flatnonzero(~(np.abs(block) <= MAX_SAMPLE).all(axis=1))
            if len(bad):
                seconds = (begin + int(bad[0])) / sound.sample_rate
                values = block[bad[0]]
                what = "NaN or infinity"
                if np.isfinite(values).all():
                    largest = np.abs(values).max()
                    what = f"a sample of {largest:.2g}, beyond the limit of {MAX_SAMPLE:.2g},"
                raise UserError(
                    f"{sound.path}: contains {what} at second {seconds:.3f}; "
                    "repair the file, or cut that part out of all files"
                )
            yield np.ascontiguousarray(block.T)


def _aligned(
    target: _Sound, references: Sequence[_Sound], action: str
) -> Iterator[tuple[Samples, Samples]]:
    """Read consecutive blocks of the target, (C, s), and of all references, (R, s)."""
    blocks = zip(_blocks(target), *map(_blocks, references), strict=True)
    total = math.ceil(target.samples / target.block_samples)
    for block, *others in progress(blocks, action, total, "second"):
        yield block, np.concatenate(others)


def _levels(
    target: _Sound, references: Sequence[_Sound], settings: FilterSettings | None
) -> list[list[float]]:
    """Read all files once, check the rate of LMS, and return the levels of the references.

    Returns:
        Mean power of each channel of each reference.

    Raises:
        UserError: a file is damaged, or the filter would diverge.
    """
    channels = [reference.channels for reference in references]
    energy = np.zeros(sum(channels))
    limit = math.inf
    past: Samples = np.zeros((len(energy), 0), np.float32)
    for _, reference in _aligned(target, references, "scan"):
        energy += np.square(reference, dtype=np.float64).sum(axis=1)
        if isinstance(settings, LmsSettings):
            history = np.concatenate([past, reference], axis=1)
            limit = min(limit, largest_lms_rate(history, settings.taps))
            past = history[:, max(0, history.shape[1] - settings.taps + 1) :]
    if isinstance(settings, LmsSettings):
        try:
            check_lms_rate(settings.rate, limit)
        except FilterError as error:
            raise UserError(f"{settings.method}: {error}") from None
    levels = np.split(energy / target.samples, np.cumsum(channels)[:-1])
    return [level.tolist() for level in levels]
