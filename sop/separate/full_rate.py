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
from itertools import count, islice

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
    masks_in_time = _interpolated(masks, spectrogram.stft_frame // 2 + 1, step)
    bins = np.arange(frame // 2 + 1)
    places = bins * (sample_rate * spectrogram.stft_frame) / (frame * model_rate)
    # First sample of the next frame; frames are centred.
    begin = -(frame // 2)
    done = 0
    past: Floats = np.zeros((1, 0), np.float32)
    frames = _frames(sound, frame, hop)
    # Batches do not depend on the division of the sound into blocks, so that rounding does not
    # either.
    while batch := list(islice(frames, BATCH_FRAMES)):
        spectrum = scipy.fft.rfft(np.stack([samples for samples, _ in batch]) * window)
        shares = _spread(np.stack(list(islice(masks_in_time, len(batch)))), spectrum, places)
        parts = scipy.fft.irfft(shares[:, :, None] * spectrum[:, None], frame)
        # Weighted overlap-add, as in `istft`. The last row is the sum of the squared windows.
        rows = parts.reshape(len(batch), -1, frame) * window
        rows = np.concatenate([rows, np.tile(window**2, (len(batch), 1, 1))], axis=1)
        sums = np.zeros((rows.shape[1], (len(batch) - 1) * hop + frame), np.float32)
        sums[:, : past.shape[1]] = past
        for n, row in enumerate(rows):
            sums[:, n * hop : n * hop + frame] += row
        end = max(done, batch[-1][1])
        if end > done:
            complete = sums[:, done - begin : end - begin]
            block = (complete[:-1] / complete[-1]).reshape(*parts.shape[1:3], -1)
            yield np.ascontiguousarray(np.swapaxes(block, 1, 2))
        begin, done, past = begin + len(batch) * hop, end, sums[:, len(batch) * hop :]


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


def _frames(sound: Iterable[Floats], frame: int, hop: int) -> Iterator[tuple[Floats, int]]:
    """Divide sound into overlapping frames, the first centred on sample 0.

    Yields:
        A frame, (channels, frame), and the number of samples of the sound that all frames so far
        determine.
    """
    lead = frame // 2
    samples: Floats = np.zeros((0, 0), np.float32)
    total = done = 0
    for block in sound:
        if not total:
            samples = np.zeros((lead, block.shape[1]), np.float32)
        samples = np.concatenate([samples, block])
        total += len(block)
        while len(samples) >= frame:
            done += 1
            yield samples[:frame].T, done * hop - lead
            samples = samples[hop:]
    if not total:
        return
    # As many frames as `stft` has; one more if the end would only be covered by the slope of the
    # last window, where the overlap-add divides by numbers close to zero.
    number = 1 + max(total // hop, -((frame // 4 - total) // hop))
    samples = np.pad(samples, ((0, (number - done) * hop + frame), (0, 0)))
    for n in range(number - done):
        end = total if done + n + 1 == number else min(total, (done + n + 1) * hop - lead)
        yield samples[n * hop : n * hop + frame].T, end


def _interpolated(masks: Iterable[Floats], bins: int, step: Fraction) -> Iterator[Floats]:
    """Yield masks at the times of the sound's frames, (K, F), without end; read them as needed.

    Args:
        masks: segments, (K, F, m).
        bins: F.
        step: number of mask frames per frame of the sound.
    """
    frames = _mask_frames(masks, bins)
    before = next(frames, None)
    if before is None:
        raise ValueError("there is sound but no mask")
    after = next(frames, before)
    position = 0
    for number in count():
        # Integer arithmetic, so that the position is exact after hours.
        lower, rest = divmod(number * step.numerator, step.denominator)
        while position < lower:
            before, after, position = after, next(frames, after), position + 1
        weight = np.float32(rest / step.denominator)
        yield before * (1 - weight) + after * weight


def _mask_frames(masks: Iterable[Floats], bins: int) -> Iterator[Floats]:
    for segment in masks:
        if segment.ndim != 3 or segment.shape[1] != bins:
            raise ValueError(f"masks of shape {segment.shape}, expected (K, {bins}, m)")
        yield from np.moveaxis(segment, 2, 0)


def _spread(masks: Floats, spectrum: NDArray[np.complex64], places: NDArray[np.float64]) -> Floats:
    """Interpolate masks at the bins of the sound's spectrum, and extend them above.

    Args:
        masks: (B, K, F).
        spectrum: spectrum of the sound, (B, channels, bins).
        places: positions of the bins on the frequency axis of the masks, (bins,).

    Returns:
        (B, K, bins).
    """
    last = masks.shape[-1] - 1
    # Relative to the model's Nyquist frequency.
    relative = places / last
    known = int((relative <= 1).sum())
    lower = np.minimum(places[:known].astype(int), last - 1)
    weight = (places[:known] - lower).astype(np.float32)
    inside: Floats = masks[..., lower] * (1 - weight) + masks[..., lower + 1] * weight
    if known == len(places):
        return inside
    below = spectrum[..., :known]
    octave = np.where(relative[:known] >= 0.5, 1, OUTSIDE_WEIGHT).astype(np.float32)
    energy = (below.real**2 + below.imag**2).sum(axis=1) * octave + MIN_ENERGY
    mean = (inside @ energy[..., None]) / energy.sum(axis=1)[:, None, None]
    fade = (relative[:known] - CROSSFADE_FROM) / (1 - CROSSFADE_FROM)
    fade = np.clip(fade, 0, 1).astype(np.float32)
    shares = np.empty((*masks.shape[:2], len(places)), np.float32)
    shares[..., :known] = inside * (1 - fade) + mean * fade
    shares[..., known:] = mean
    return shares
