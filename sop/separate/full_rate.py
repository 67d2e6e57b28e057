"""Apply the model's masks to a sound of any sample rate and number of channels.

Sound and masks are streams; memory does not depend on their length.

Below the model's Nyquist frequency (5512.5 Hz at 11025 Hz) the masks are interpolated. Above it,
each component gets, at each moment, its share of the octave below: the mean of its mask from a
quarter to half of the model's sample rate, weighted by the energy of the sound. So the overtones of
a source follow their source. If the octave is silent, the mean is over all frequencies below. Masks
and shares are cross-faded over the last sixteenth below the model's Nyquist frequency, where the
input of the model is attenuated by the resampling filter. The sum of the masks is preserved: if the
masks sum to one, the components sum to the sound.

Shapes: K components, F frequency bins of the masks, m consecutive mask frames, S consecutive
samples, B frames in a batch.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sop.params import SpectrogramParams

Floats = NDArray[np.float32]

BATCH_FRAMES = 16

# Start of the cross-fade from masks to shares, relative to the model's Nyquist frequency.
CROSSFADE_FROM = 15 / 16

# Weight of the energy outside the octave: it prevails if the octave is 40 dB below it.
OUTSIDE_WEIGHT = 1e-4

# Added to the energy of each bin, so that the shares of silence are defined; far below one bit of
# any sound, in the units of the spectrum.
MIN_ENERGY = 1e-20


def components(
    sound: Iterable[Floats],
    sample_rate: int,
    masks: Iterable[Floats],
    model_rate: int,
    spectrogram: SpectrogramParams,
) -> Iterator[Floats]:
    """Separate a sound with masks computed from its mono version at the model's sample rate.

    Frames are as long as the model's in seconds, or up to 5 % longer; mono sound at the model's
    rate is transformed as in `sop.model.spectrogram`, without the clipping. Sound and masks are
    read at most `BATCH_FRAMES` frames ahead.

    Args:
        sound: consecutive blocks, (S, channels).
        sample_rate: sample rate of the sound, Hz.
        masks: consecutive segments, (K, F, m), F = stft_frame / 2 + 1: mask frame j is for second
            j * stft_hop / model_rate, bin k for k * model_rate / stft_frame Hz. The last mask frame
            applies to the end of the sound; masks after its end are not read.
        model_rate: sample rate of the model, Hz.
        spectrogram: spectrogram parameters of the model.

    Yields:
        Consecutive blocks (K, s, channels), together as long as the sound. They do not depend on
        how sound and masks are divided.

    Raises:
        ValueError: a shape does not match, or there is sound but no mask.
    """
    frame, hop = frame_and_hop(sample_rate, model_rate, spectrogram)
    window = np.hanning(frame + 1)[:-1].astype(np.float32)
    step = Fraction(hop * model_rate, sample_rate * spectrogram.stft_hop)
    timeline = _Timeline(masks, spectrogram, step)
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
    """Return frame and hop in samples of another rate, as long as the model's or slightly longer.

    At other rates than the model's, the frame length is even with small prime factors, for a fast
    Fourier transform.
    """
    if sample_rate == model_rate:
        return spectrogram.stft_frame, spectrogram.stft_hop
    ratio = sample_rate / model_rate
    half = max(1, round(spectrogram.stft_frame * ratio / 2))
    frame = 2 * scipy.fft.next_fast_len(half, real=True)
    return frame, max(1, round(spectrogram.stft_hop * ratio))


def _batches(sound: Iterable[Floats], frame: int, hop: int) -> Iterator[tuple[Floats, int]]:
    """Divide sound into overlapping frames, the first centred on sample 0.

    The batches do not depend on the division of the sound into blocks, so that rounding does not
    either.

    Yields:
        Frames, (B, channels, frame), and the number of samples of the sound that all frames so far
        determine.
    """
    lead = frame // 2
    size = (BATCH_FRAMES - 1) * hop + frame
    samples: Floats = np.zeros((0, 0), np.float32)
    total = done = 0
    for block in sound:
        if not total:
            samples = np.zeros((lead, block.shape[1]), np.float32)
        samples = np.concatenate([samples, block])
        total += len(block)
        while len(samples) >= size:
            done += BATCH_FRAMES
            yield _frames(samples[:size], frame, hop), done * hop - lead
            samples = samples[BATCH_FRAMES * hop :]
    if not total:
        return
    # As many frames as `stft` has; one more if the end would only be covered by the slope of the
    # last window, where the overlap-add divides by numbers close to zero.
    count = 1 + max(total // hop, -((frame // 4 - total) // hop))
    padding = (count - 1 - done) * hop + frame - len(samples)
    samples = np.pad(samples, ((0, padding), (0, 0)))
    while done < count:
        number = min(BATCH_FRAMES, count - done)
        done += number
        end = total if done == count else min(total, done * hop - lead)
        yield _frames(samples[: (number - 1) * hop + frame], frame, hop), end
        samples = samples[number * hop :]


def _frames(samples: Floats, frame: int, hop: int) -> Floats:
    """Divide samples, (S, channels), into frames, (B, channels, frame)."""
    return np.lib.stride_tricks.sliding_window_view(samples, frame, axis=0)[::hop]


class _Timeline:
    """Masks interpolated at the times of the sound's frames, read as needed.

    Args:
        masks: segments, (K, F, m).
        spectrogram: spectrogram parameters of the model.
        step: number of mask frames per frame of the sound.
    """

    def __init__(
        self, masks: Iterable[Floats], spectrogram: SpectrogramParams, step: Fraction
    ) -> None:
        self._segments = iter(masks)
        self._bins = spectrogram.stft_frame // 2 + 1
        self._step = step
        self._done = 0
        self._first = 0
        self._held: list[Floats] = []
        """Masks from mask frame `_first` on, at most one array, (m, K, F)."""

    def next(self, number: int) -> Floats:
        """Return the masks of the next frames of the sound, (B, K, F)."""
        frames = np.arange(self._done, self._done + number)
        self._done += number
        # Integer arithmetic, so that the position is exact after hours.
        lower, rest = np.divmod(frames * self._step.numerator, self._step.denominator)
        weight = (rest / self._step.denominator).astype(np.float32)[:, None, None]
        held = self._read(int(lower[0]), int(lower[-1]) + 2)
        last = len(held) - 1
        before = held[np.minimum(lower - self._first, last)]
        after = held[np.minimum(lower - self._first + 1, last)]
        blended: Floats = before * (1 - weight) + after * weight
        return blended

    def _read(self, begin: int, end: int) -> Floats:
        """Return mask frames [begin, end), as far as they exist; at least the last one."""
        parts = self._held
        have = self._first + sum(map(len, parts))
        while have < end and (segment := next(self._segments, None)) is not None:
            if segment.ndim != 3 or segment.shape[1] != self._bins:
                raise ValueError(f"masks of shape {segment.shape}, expected (K, {self._bins}, m)")
            parts.append(np.moveaxis(segment, 2, 0))
            have += len(parts[-1])
        if not have:
            raise ValueError("there is sound but no mask")
        held = np.concatenate(parts)
        past = min(begin - self._first, len(held) - 1)
        self._held = [held[past:]]
        self._first += past
        return held[past:]


class _Axis:
    """Positions of the bins of the sound's spectrum on the frequency axis of the masks."""

    def __init__(
        self, frame: int, sample_rate: int, model_rate: int, spectrogram: SpectrogramParams
    ) -> None:
        bins = np.arange(frame // 2 + 1)
        last = spectrogram.stft_frame // 2
        position = bins * (sample_rate * spectrogram.stft_frame) / (frame * model_rate)
        # Relative to the model's Nyquist frequency.
        relative = position / last
        fade = np.clip((relative - CROSSFADE_FROM) / (1 - CROSSFADE_FROM), 0, 1)
        self._known = int((relative <= 1).sum())
        self._has_unknown = sample_rate > model_rate
        self._fade = fade[: self._known].astype(np.float32)
        position = position[: self._known]
        self._lower = np.minimum(position.astype(int), last - 1)
        self._weight = (position - self._lower).astype(np.float32)
        in_octave = relative[: self._known] >= 0.5
        self._energy_weight = np.where(in_octave, 1, OUTSIDE_WEIGHT).astype(np.float32)

    def spread(self, masks: Floats, spectrum: NDArray[np.complex64]) -> Floats:
        """Interpolate masks at the bins of the sound's spectrum, and extend them above.

        Args:
            masks: (B, K, F).
            spectrum: spectrum of the sound, (B, channels, bins).

        Returns:
            (B, K, bins).
        """
        lower, weight = self._lower, self._weight
        known: Floats = masks[..., lower] * (1 - weight) + masks[..., lower + 1] * weight
        if not self._has_unknown:
            return known
        below = spectrum[..., : self._known]
        energy = (below.real**2 + below.imag**2).sum(axis=1) * self._energy_weight + MIN_ENERGY
        mean = (known @ energy[..., None]) / energy.sum(axis=1)[:, None, None]
        shares = np.empty((*masks.shape[:2], spectrum.shape[-1]), np.float32)
        shares[..., : self._known] = known * (1 - self._fade) + mean * self._fade
        shares[..., self._known :] = mean
        return shares


class _OverlapAdd:
    """Weighted overlap-add of frames, as in `istft`."""

    def __init__(self, window: Floats, hop: int) -> None:
        self._window = window
        self._hop = hop
        # First sample of the next frame; frames are centred.
        self._begin = -(len(window) // 2)
        self._end = 0
        self._sums: Floats = np.zeros((1, 1, 0), np.float32)
        self._weights: Floats = np.zeros(0, np.float32)

    def add(self, frames: Floats, end: int) -> Floats:
        """Add frames, and return the samples that are complete.

        Args:
            frames: (B, K, channels, frame).
            end: number of samples that are complete, from the start of the sound.

        Returns:
            The next complete samples, (K, channels, s).
        """
        number, size, hop = len(frames), len(self._window), self._hop
        sums = np.zeros((*frames.shape[1:3], (number - 1) * hop + size), np.float32)
        weights = np.zeros(sums.shape[-1], np.float32)
        sums[..., : self._sums.shape[-1]] = self._sums
        weights[: len(self._weights)] = self._weights
        frames *= self._window
        squared = self._window**2
        for n in range(number):
            sums[..., n * hop : n * hop + size] += frames[n]
            weights[n * hop : n * hop + size] += squared
        begin, past = self._begin, number * hop
        complete = slice(self._end - begin, max(self._end, end) - begin)
        self._sums, self._weights = sums[..., past:], weights[past:]
        self._begin, self._end = begin + past, max(self._end, end)
        taken: Floats = sums[..., complete] / weights[complete]
        return taken
