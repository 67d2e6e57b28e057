"""Masks of the model's small, mono spectrogram on a sound of any rate and number of channels.

A stream in, a stream out: memory does not depend on the length.

Below the model's Nyquist frequency (5512.5 Hz at 11025 Hz) the masks are interpolated. Above it
they know nothing. There each component gets, at each moment, the share that it has of the octave
below: the mean of its mask from a quarter to half of the model's rate, weighed by the sound's
energy. Overtones of a source that sounds in that octave go where their source goes. Where the
octave is silent, the mean is over all frequencies below. Between the two, masks and shares are
cross-faded, over the last sixteenth below the model's Nyquist frequency: what the model is given
there has been through the slope of a resampler's filter. All this keeps the sum of the masks: the
components of masks that sum to one sum to the sound.

Shapes: K components, F frequency bins of the masks, m consecutive mask frames, S consecutive
samples, B frames that are worked on together.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sop.params import SpectrogramParams

Values = NDArray[np.float32]

BATCH_FRAMES = 16

# Where masks give way to shares, as a part of the model's Nyquist frequency.
FADE_FROM = 15 / 16

# What energy outside the octave weighs: it decides where the octave is 40 dB below it.
OUTSIDE_WEIGHT = 1e-4

# Energy that is always there, so that the shares of silence are defined; far below one bit of any
# sound, in the units of the spectrum.
LEAST_ENERGY = 1e-20


def components(
    sound: Iterable[Values],
    sample_rate: int,
    masks: Iterable[Values],
    model_rate: int,
    spectrogram: SpectrogramParams,
) -> Iterator[Values]:
    """Take a sound apart with masks that were made of its mono version at the model's rate.

    Frames are as long as the model's in seconds, or up to 5 % longer; mono sound of the model's
    rate is transformed just as `sop.model.spectrogram` does, without the clipping. Neither the
    sound nor the masks are read further ahead than `BATCH_FRAMES` frames need.

    Args:
        sound: consecutive blocks, (S, channels).
        sample_rate: of the sound, Hz.
        masks: consecutive stretches, (K, F, m), F = stft_frame / 2 + 1: mask frame j is for second
            j * stft_hop / model_rate, bin k for k * model_rate / stft_frame Hz. The last mask frame
            holds to the end of the sound; those past its end are not read.
        model_rate: of the spectrogram, Hz.
        spectrogram: the model's.

    Yields:
        Consecutive blocks (K, s, channels), together as long as the sound. How sound and masks are
        cut makes no difference to them.

    Raises:
        ValueError: a shape does not fit, or there is sound and not one mask.
    """
    frame, hop = frame_and_hop(sample_rate, model_rate, spectrogram)
    window = np.hanning(frame + 1)[:-1].astype(np.float32)
    timeline = _Timeline(
        masks, spectrogram, Fraction(hop * model_rate, sample_rate * spectrogram.stft_hop)
    )
    axis = _Axis(frame, sample_rate, model_rate, spectrogram)
    output = _OverlapAdd(window, hop)
    for frames, end in _batches(sound, frame, hop):
        spectrum = scipy.fft.rfft(frames * window)
        shares = axis.spread(timeline.next(len(frames)), spectrum)
        parts = scipy.fft.irfft(shares[:, :, None] * spectrum[:, None], frame)
        if (block := output.add(parts, end)).shape[-1]:
            yield np.ascontiguousarray(np.swapaxes(block, 1, 2))


def frame_and_hop(
    sample_rate: int, model_rate: int, spectrogram: SpectrogramParams
) -> tuple[int, int]:
    """The model's frame and hop in samples of another rate: as long in seconds, or a little longer.

    Frames of another rate than the model's have an even length of small prime factors, which the
    Fourier transform is fast for.
    """
    if sample_rate == model_rate:
        return spectrogram.stft_frame, spectrogram.stft_hop
    ratio = sample_rate / model_rate
    half = max(1, round(spectrogram.stft_frame * ratio / 2))
    frame = 2 * scipy.fft.next_fast_len(half, real=True)
    return frame, max(1, round(spectrogram.stft_hop * ratio))


def _batches(sound: Iterable[Values], frame: int, hop: int) -> Iterator[tuple[Values, int]]:
    """Cut sound into frames that overlap, the first centred on sample 0.

    Always into the same batches, however the sound is cut, so that rounding is the same too.

    Yields:
        Some frames, (B, channels, frame), and how many samples of the sound can be put together
        again from all frames so far.
    """
    lead = frame // 2
    batch = (BATCH_FRAMES - 1) * hop + frame
    pending: list[Values] = []
    held = total = done = 0
    for block in sound:
        if not pending:
            pending.append(np.zeros((lead, block.shape[1]), np.float32))
            held = lead
        pending.append(block)
        held += len(block)
        total += len(block)
        if held < batch:
            continue
        samples = np.concatenate(pending)
        while len(samples) >= batch:
            done += BATCH_FRAMES
            yield _frames(samples[:batch], frame, hop), done * hop - lead
            samples = samples[BATCH_FRAMES * hop :]
        pending, held = [samples], len(samples)
    if not total:
        return
    # As many frames as `stft` makes; one more, if the end lay on the slope of the last window only,
    # where next to nothing is divided by next to nothing.
    count = 1 + max(total // hop, -((frame // 4 - total) // hop))
    silence = np.zeros(((count - 1 - done) * hop + frame - held, pending[0].shape[1]), np.float32)
    samples = np.concatenate([*pending, silence])
    while done < count:
        number = min(BATCH_FRAMES, count - done)
        done += number
        end = total if done == count else min(total, done * hop - lead)
        yield _frames(samples[: (number - 1) * hop + frame], frame, hop), end
        samples = samples[number * hop :]


def _frames(samples: Values, frame: int, hop: int) -> Values:
    """(S, channels) to (B, channels, frame)."""
    return np.lib.stride_tricks.sliding_window_view(samples, frame, axis=0)[::hop]


class _Timeline:
    """Mask frames, read as they are needed, at the times of the sound's frames.

    Args:
        masks: stretches (K, F, m).
        spectrogram: gives F.
        step: mask frames from a frame of the sound to the next.
    """

    def __init__(
        self, masks: Iterable[Values], spectrogram: SpectrogramParams, step: Fraction
    ) -> None:
        self._stretches = iter(masks)
        self._bins = spectrogram.stft_frame // 2 + 1
        self._step = step
        self._done = 0
        self._first = 0
        self._held: Values | None = None
        """(m, K, F), from mask frame `_first` on."""

    def next(self, number: int) -> Values:
        """The masks of the next frames of the sound, (B, K, F)."""
        frames = np.arange(self._done, self._done + number)
        self._done += number
        # Exact in integers before rounding: after hours it is still the right frame.
        lower, rest = np.divmod(frames * self._step.numerator, self._step.denominator)
        weight = (rest / self._step.denominator).astype(np.float32)[:, None, None]
        held = self._read(int(lower[0]), int(lower[-1]) + 2)
        last = len(held) - 1
        before = held[np.minimum(lower - self._first, last)]
        after = held[np.minimum(lower - self._first + 1, last)]
        blended: Values = before * (1 - weight) + after * weight
        return blended

    def _read(self, begin: int, end: int) -> Values:
        """Hold mask frames from `begin` to `end`, or what there is; of the last always one."""
        parts = [] if self._held is None else [self._held]
        have = self._first + sum(map(len, parts))
        while have < end and (stretch := next(self._stretches, None)) is not None:
            if stretch.ndim != 3 or stretch.shape[1] != self._bins:
                raise ValueError(f"masks of shape {stretch.shape}, expected (K, {self._bins}, m)")
            parts.append(np.moveaxis(stretch, 2, 0))
            have += len(parts[-1])
        if not have:
            raise ValueError("there is sound, and not one mask")
        held = np.concatenate(parts)
        past = min(begin - self._first, len(held) - 1)
        self._held = held[past:]
        self._first += past
        return self._held


class _Axis:
    """Where the bins of the sound's spectrum lie on the frequency axis of the masks."""

    def __init__(
        self, frame: int, sample_rate: int, model_rate: int, spectrogram: SpectrogramParams
    ) -> None:
        bins = np.arange(frame // 2 + 1)
        last = spectrogram.stft_frame // 2
        position = bins * (sample_rate * spectrogram.stft_frame) / (frame * model_rate)
        # 1 is the model's Nyquist frequency.
        relative = position / last
        fade = np.clip((relative - FADE_FROM) / (1 - FADE_FROM), 0, 1)
        self._known = int((relative <= 1).sum())
        self._has_unknown = sample_rate > model_rate
        self._fade = fade[: self._known].astype(np.float32)
        position = position[: self._known]
        self._lower = np.minimum(position.astype(int), last - 1)
        self._weight = (position - self._lower).astype(np.float32)
        in_octave = relative[: self._known] >= 0.5
        self._energy_weight = np.where(in_octave, 1, OUTSIDE_WEIGHT).astype(np.float32)

    def spread(self, masks: Values, spectrum: NDArray[np.complex64]) -> Values:
        """Masks on the bins of the sound's spectrum.

        Args:
            masks: (B, K, F).
            spectrum: of the sound, (B, channels, bins).

        Returns:
            (B, K, bins).
        """
        lower, weight = self._lower, self._weight
        known: Values = masks[..., lower] * (1 - weight) + masks[..., lower + 1] * weight
        if not self._has_unknown:
            return known
        below = spectrum[..., : self._known]
        energy = (below.real**2 + below.imag**2).sum(axis=1) * self._energy_weight + LEAST_ENERGY
        mean = (known @ energy[..., None]) / energy.sum(axis=1)[:, None, None]
        shares = np.empty((*masks.shape[:2], spectrum.shape[-1]), np.float32)
        shares[..., : self._known] = known * (1 - self._fade) + mean * self._fade
        shares[..., self._known :] = mean
        return shares


class _OverlapAdd:
    """Frames added up where they overlap, windowed again, as `istft` does."""

    def __init__(self, window: Values, hop: int) -> None:
        self._window = window
        self._hop = hop
        # Of the sample that the next frame begins with: frames are centred.
        self._begin = -(len(window) // 2)
        self._end = 0
        self._sums: Values | None = None
        self._weights: Values = np.zeros(0, np.float32)

    def add(self, frames: Values, end: int) -> Values:
        """Add frames and take what is whole.

        Args:
            frames: (B, K, channels, frame).
            end: how many samples are whole now, counted from the first ever.

        Returns:
            (K, channels, s), from where the one before ended.
        """
        number, size, hop = len(frames), len(self._window), self._hop
        sums = np.zeros((*frames.shape[1:3], (number - 1) * hop + size), np.float32)
        weights = np.zeros(sums.shape[-1], np.float32)
        if self._sums is not None:
            sums[..., : self._sums.shape[-1]] = self._sums
            weights[: len(self._weights)] = self._weights
        frames *= self._window
        squared = self._window**2
        for n in range(number):
            sums[..., n * hop : n * hop + size] += frames[n]
            weights[n * hop : n * hop + size] += squared
        begin, past = self._begin, number * hop
        whole = slice(self._end - begin, max(self._end, end) - begin)
        self._sums, self._weights = sums[..., past:], weights[past:]
        self._begin, self._end = begin + past, max(self._end, end)
        taken: Values = sums[..., whole] / weights[whole]
        return taken
