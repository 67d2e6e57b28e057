"""Activity: when each region sounds, and how loud.

Shapes: K regions, K + 1 components (the regions and the rest), F x M frequency bins x spectrogram
frames.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sop.inference.localization import SILENCE_AMPLITUDE
from sop.params import SpectrogramParams

Interval = tuple[float, float]
"""Begin and end, seconds."""

# A region is silent below this energy relative to its own maximum, or to the maximum of the whole
# sound: -30 dB and -45 dB.
MIN_OWN_ENERGY = 10 ** (-30 / 10)
MIN_TOTAL_ENERGY = 10 ** (-45 / 10)

# Shorter silence counts as sound, and shorter sound as silence.
MIN_SILENCE_SECONDS = 0.3
MIN_SOUND_SECONDS = 0.1

# Values of `Activity.decibels` per second, and its smallest value.
DECIBEL_RATE = 10
MIN_DECIBELS = -100.0

# Loudness is averaged over this time, so that the overlay does not flicker.
SMOOTHING_SECONDS = 0.15


@dataclass(frozen=True)
class Activity:
    """Activity of the components of a recording over time."""

    levels: NDArray[np.float32]
    """Energy of each component at each spectrogram frame, (K + 1, M)."""
    hop_seconds: float
    """Distance of spectrogram frames."""
    seconds: float
    """Length of the recording."""
    silence_energy: float
    """Energy of a spectrogram frame that counts as silent."""

    @cached_property
    def loudness(self) -> NDArray[np.float32]:
        """Amplitude of each region, smoothed, 1 at its maximum, (K, M)."""
        levels = self.levels[:-1]
        size = max(1, round(SMOOTHING_SECONDS / self.hop_seconds))
        kernel = np.ones(size) / size
        smooth = [np.convolve(np.sqrt(level), kernel, "same")[: len(level)] for level in levels]
        loudness = np.array(smooth, np.float32).reshape(levels.shape)
        loudness /= np.maximum(loudness.max(axis=1, keepdims=True, initial=0), 1e-12)
        return loudness

    @property
    def total_loudness(self) -> NDArray[np.float32]:
        """Sum of the loudness of all regions, or energy of the rest if there are none, (M,)."""
        levels = self.loudness if len(self.levels) > 1 else self.levels
        total: NDArray[np.float32] = levels.sum(axis=0)
        return total

    def loudness_at(self, seconds: float) -> NDArray[np.float32]:
        """Return the loudness of each region at a time, interpolated between frames, (K,)."""
        last = self.loudness.shape[1] - 1
        position = min(seconds / self.hop_seconds, last)
        weight = np.float32(position % 1)
        before, after = self.loudness[:, [int(position), min(int(position) + 1, last)]].T
        blended: NDArray[np.float32] = before * (1 - weight) + after * weight
        return blended

    def intervals(self) -> list[list[Interval]]:
        """Return the times at which each component sounds, (K + 1) lists."""
        total = self.levels.sum(axis=0).max() * MIN_TOTAL_ENERGY
        own = self.levels.max(axis=1, keepdims=True) * MIN_OWN_ENERGY
        active = self.levels >= np.maximum(own, max(total, self.silence_energy))
        return [active_intervals(row, self.hop_seconds, self.seconds) for row in active]

    def decibels(self) -> NDArray[np.float64]:
        """Return the level of each component over time, (K + 1, T), `DECIBEL_RATE` per second.

        Value t is that of second t / `DECIBEL_RATE` to (t + 1) / `DECIBEL_RATE`, in dB relative to
        a tone of full scale, at least `MIN_DECIBELS`.
        """
        # Frame m is at second m * hop_seconds; the energy is interpolated where frames are rare.
        count = math.ceil(self.seconds * DECIBEL_RATE - 1e-6)
        steps = max(1, math.ceil(1 / (DECIBEL_RATE * self.hop_seconds)))
        times = (np.arange(count * steps) + 0.5) / (steps * DECIBEL_RATE)
        frames = np.arange(self.levels.shape[1]) * self.hop_seconds
        energy = np.array([np.interp(times, frames, level) for level in self.levels])
        means = energy.reshape(len(self.levels), count, steps).mean(axis=2)
        # `silence_energy` is that of a tone of SILENCE_AMPLITUDE.
        relative = means * (SILENCE_AMPLITUDE**2 / self.silence_energy)
        decibels: NDArray[np.float64] = 10 * np.log10(
            np.maximum(relative, 10 ** (MIN_DECIBELS / 10))
        )
        return decibels

    def busiest_frames(self, seconds: float) -> tuple[int, int]:
        """Find the stretch in which the regions are loudest in all.

        Args:
            seconds: length of the stretch.

        Returns:
            First spectrogram frame and number of frames.
        """
        activity = self.total_loudness
        count = min(max(2, 1 + round(seconds / self.hop_seconds)), len(activity))
        sums = np.concatenate([[0.0], np.cumsum(activity, dtype=np.float64)])
        return int(np.argmax(sums[count:] - sums[:-count])), count


def silence_energy(spectrogram: SpectrogramParams) -> float:
    """Return the energy of a spectrogram frame of a tone at `SILENCE_AMPLITUDE`.

    By Parseval's theorem; half of the bins are counted, and the mean square of a Hann window is
    3/8.
    """
    frame = spectrogram.stft_frame
    return frame / 2 * frame * (3 / 8) * SILENCE_AMPLITUDE**2 / 2


def active_intervals(
    active: NDArray[np.bool_], hop_seconds: float, seconds: float
) -> list[Interval]:
    """Return the intervals in which a component sounds, without short gaps and short sounds.

    Args:
        active: True at the spectrogram frames at which it sounds, (M,).
        hop_seconds: distance of spectrogram frames.
        seconds: length of the recording, the latest end.
    """
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    # A frame covers the time from half a hop before to half a hop after its centre.
    times = np.clip((edges - 0.5) * hop_seconds, 0, seconds).reshape(-1, 2)
    joined: list[Interval] = []
    for begin, end in times.tolist():
        if joined and begin - joined[-1][1] < MIN_SILENCE_SECONDS:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return [
        (round(begin, 3), round(end, 3))
        for begin, end in joined
        if end - begin > 0.999 * min(MIN_SOUND_SECONDS, seconds)
    ]
