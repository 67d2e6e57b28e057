"""The sound of each region and of the rest as WAV files, and their remix.

Shapes: K regions, K + 1 components (the regions and the rest), s consecutive samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sop.cancellation.filter_bank import FilterBank
from sop.dataset.clips import Audio
from sop.denoise.guard import Kept
from sop.denoise.settings import FilterSettings
from sop.inference.embedding import Embedding
from sop.inference.localization import Region
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.separate.doubt import Likeness
from sop.separate.full_rate import components
from sop.separate.sound_files import writing_sound
from sop.separate.video import SoundStream


@dataclass(frozen=True)
class WrittenSounds:
    """Measurements of the sounds that were written."""

    energy: NDArray[np.float64]
    """Energy of each component, (K + 1,)."""
    levels: NDArray[np.float32]
    """Energy of each component before any filter at each spectrogram frame, (K + 1, M)."""
    likeness: Likeness
    """How much the components sound alike before any filter."""
    remix_peak: float
    """Largest sample of the remix, full scale 1; 0 without a remix."""
    peak: float
    """Largest sample of all components, full scale 1."""
    removed: float
    """Share of the regions' energy that the filter moved to the rest; 0 without a filter."""
    kept: Kept
    """Where regions were kept, because the filter would have made them louder."""


def write_sounds(
    separator: Separator,
    recording: Recording,
    sound: SoundStream,
    regions: tuple[Region, ...],
    files: Sequence[Path],
    denoise: FilterSettings | None = None,
    remix: tuple[Path, Sequence[float]] | None = None,
) -> WrittenSounds:
    """Separate a sound with the masks of the regions, and write each component as a file.

    Args:
        separator: the model.
        recording: input of the model.
        sound: the sound that is separated, of any sample rate and number of channels.
        regions: K regions.
        files: a path for each component, (K + 1,).
        denoise: filter that removes from each region's sound what the other regions' sounds
            predict of it; that is added to the rest.
        remix: path of a WAV with the weighted sum of the components, and the weights, (K + 1,).

    Raises:
        LeftOut: the sound is damaged.
        UserError: a file cannot be written, or the filter would diverge.
    """
    levels: list[NDArray[np.float32]] = []
    likeness = Likeness()
    segments = separator.segments(recording, "separating")
    masks = component_masks(separator, recording, segments, regions, levels, likeness)
    spectrogram = separator.params.spectrogram
    blocks = components(sound.blocks, sound.sample_rate, masks, recording.sample_rate, spectrogram)
    energy = np.zeros(len(files))
    peak = largest = before = removed = 0.0
    format_ = sound.sample_rate, sound.channels, sound.channel_mask
    paths = files if remix is None else (*files, remix[0])
    with ExitStack() as stack:
        writers = [stack.enter_context(writing_sound(path, *format_)) for path in paths]
        counts = [len(regions) - 1] * (len(regions) * sound.channels)
        bank = None if denoise is None else FilterBank(denoise, counts, sound.sample_rate)
        pairs = ((block, block) for block in blocks) if bank is None else _filtered(blocks, bank)
        for raw, block in pairs:
            before += _energy(raw[:-1])
            removed += _energy(raw[:-1] - block[:-1])
            largest = max(largest, float(np.abs(block).max(initial=0)))
            energy += np.einsum("ksc,ksc->k", block, block, dtype=np.float64)
            parts = [*block]
            if remix is not None:
                gains = np.array(remix[1], np.float32)[:, None, None]
                parts.append((gains * block).sum(axis=0))
                peak = max(peak, float(np.abs(parts[-1]).max(initial=0)))
            for file, part in zip(writers, parts, strict=True):
                file.write(part)
    # The last masks are for frames after the end of the sound; they count for the levels.
    for _ in masks:
        pass
    kept = Kept() if bank is None else bank.kept
    joined = np.concatenate(levels, axis=1)
    return WrittenSounds(energy, joined, likeness, peak, largest, removed / (before or 1.0), kept)


def component_masks(
    separator: Separator,
    recording: Recording,
    segments: Iterable[tuple[int, Embedding]],
    regions: tuple[Region, ...],
    levels: list[NDArray[np.float32]],
    likeness: Likeness,
) -> Iterator[NDArray[np.float32]]:
    """Yield the masks of the components, segment by segment, and append their energy to `levels`.

    The energy is that of each component at each spectrogram frame, (K + 1, M).

    Args:
        separator: the model.
        recording: its input.
        segments: the recording as `Separator.segments` embeds it.
        regions: K regions.
        levels: receives the energy of each segment, (K + 1, m).
        likeness: receives the inner products of the components.
    """
    for first, embedding in segments:
        masks = separator.region_masks(embedding, regions)
        power = separator.power(recording, first, masks.shape[2])
        levels.append(np.einsum("kfm,kfm,fm->km", masks, masks, power))
        likeness.add(masks, power)
        yield masks


def usable_filter(
    setting: FilterSettings | None, regions: int, samples: int
) -> tuple[FilterSettings | None, tuple[str, ...]]:
    """Return the filter, or None if it can have no effect, and a note with the reason.

    Args:
        setting: the requested filter.
        regions: number of regions.
        samples: number of samples of the sound.
    """
    if setting is None or (regions >= 2 and setting.taps <= samples):
        return setting, ()
    reason = f"{setting.taps} taps are more than the {samples} samples of the sound"
    if regions < 2:
        reason = f"it needs two regions, but {regions or 'no'} region was found"
    return None, (f"--denoise {setting.method}: not applied, {reason}",)


def _filtered(blocks: Iterable[Audio], bank: FilterBank) -> Iterator[tuple[Audio, Audio]]:
    """Move what the regions' sounds predict of each other to the rest.

    Args:
        blocks: consecutive samples of all components, (K + 1, s, channels).
        bank: a filter for each channel of each region, region by region.

    Yields:
        Consecutive samples of all components before and after the filter, with the same sum.
    """
    waiting: list[Audio] = []
    for block in blocks:
        waiting.append(block)
        signals = np.moveaxis(block[:-1], 2, 1)
        places = list(np.ndindex(*signals.shape[:2]))
        clean = bank.clean(
            (signals[place] for place in places),
            (np.delete(signals[:, channel], region, axis=0) for region, channel in places),
        )
        raw = np.concatenate(waiting, axis=1)
        count = clean.shape[1]
        yield _moved(raw[:, :count], clean)
        waiting = [raw[:, count:]]
    if waiting:
        yield _moved(waiting[0], bank.finish())


def _moved(block: Audio, clean: Audio) -> tuple[Audio, Audio]:
    """Return a block of all components, and the same with other sounds of the regions.

    Args:
        block: (K + 1, s, channels).
        clean: sound of each channel of each region, (K * channels, s).
    """
    regions, samples, channels = block[:-1].shape
    filtered = np.moveaxis(clean.reshape(regions, channels, samples), 1, 2)
    rest = block[-1] + (block[:-1] - filtered).sum(axis=0)
    return block, np.concatenate([filtered, rest[None]])


def _energy(sound: Audio) -> float:
    return float(np.square(sound, dtype=np.float64).sum())
