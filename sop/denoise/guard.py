"""A bound on how much louder than its target the result of an adaptive filter becomes.

A filter whose weights do not fit, because a reference suddenly became louder for example, adds
sound instead of removing it. The guard compares the energies of result and target in every stretch
of `WINDOW_SECONDS`. Where the result has more than `MAX_RATIO` times the energy, it keeps the
target instead. The transitions are smooth. So in no stretch of that length, or a multiple of it,
the energy of the result exceeds 1 + `MAX_RATIO` times that of the target, which is 5.8 dB.

A single sample that is far louder than the target also makes the filter start again.

Shapes: L samples, K references.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter1d

from sop.denoise.adaptive import AdaptiveFilter, Signal

WINDOW_SECONDS = 0.025
FADE_SECONDS = 0.005
MAX_RATIO = 2.8
# A filter starts again if an error exceeds the target's peak nearby and its root mean square so far
# by this factor, 12 dB.
MAX_PEAK_RATIO = 4.0

# Share of the energy of all samples at hand that is lost to rounding.
ROUNDING = 1e-13
# Lowest mean power of the target in a reported excess, -100 dB relative to full scale.
MIN_POWER = 1e-10


@dataclass(frozen=True)
class Kept:
    """How much of the target was kept because the filter would have made it louder."""

    seconds: float = 0.0
    """Duration of the kept parts."""
    decibels: float = 0.0
    """Largest excess over the target's energy that was prevented."""
    restarts: int = 0
    """Number of times that the filter started again."""

    def __str__(self) -> str:
        """Return a sentence without its end."""
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        text = f"the filter started again {times}" if self.restarts else ""
        if self.seconds:
            text = (
                f"unchanged for {self.seconds:.2f} s, where the filter would have made it up to "
                f"{self.decibels:.0f} dB louder" + (f"; {text}" if text else "")
            )
        return text

    def __bool__(self) -> bool:
        """Return whether the guard acted."""
        return bool(self.seconds or self.restarts)


def most_kept(channels: Iterable[Kept]) -> Kept:
    """Return the longest duration, the largest excess and the sum of the restarts."""
    items = [Kept(), *channels]
    return replace(total_kept(items), seconds=max(kept.seconds for kept in items))


def total_kept(sounds: Iterable[Kept]) -> Kept:
    """Return the sum of the durations, the largest excess and the sum of the restarts."""
    items = [Kept(), *sounds]
    return Kept(
        # The sum does not depend on the order.
        math.fsum(kept.seconds for kept in items),
        max(kept.decibels for kept in items),
        sum(kept.restarts for kept in items),
    )


class GuardedFilter:
    """An adaptive filter with a bound on the energy of its result.

    Results are delayed, because a transition begins before its reason. The result does not depend
    on the division into blocks.

    Args:
        adaptive: a new filter.
        sample_rate: Hz.
    """

    def __init__(self, adaptive: AdaptiveFilter, sample_rate: float) -> None:
        self._adaptive = adaptive
        self._sample_rate = sample_rate
        self._window = max(1, round(WINDOW_SECONDS * sample_rate))
        self._fade = max(1, round(FADE_SECONDS * sample_rate))
        # Samples that are not filtered yet; the target begins `_fade` samples earlier.
        self._target: Signal = np.zeros(self._fade)
        self._references: Signal = np.zeros((adaptive.references, 0))
        # Energy and number of the target's samples so far.
        self._energy, self._count = 0.0, 0
        # Target and error from `_window + _fade` samples before the next result on. The first
        # `_padding` of them are not part of the sound.
        self._padding = self._window + self._fade
        self._filtered: Signal = np.zeros((2, self._padding))
        self._kept_samples, self._excess = 0, 0.0

    @property
    def kept(self) -> Kept:
        """How much of the target was kept so far."""
        seconds = self._kept_samples / self._sample_rate
        return Kept(seconds, self._excess, self._adaptive.resets)

    def clean(self, target: ArrayLike, references: ArrayLike) -> Signal:
        """Filter the next block, and return the next results, (at most all samples so far).

        Args:
            target: (L,).
            references: (K, L).

        Raises:
            FilterError: a sample is not finite, or a step would diverge.
        """
        self._target = np.concatenate([self._target, np.asarray(target, np.float64)])
        block = np.atleast_2d(np.asarray(references, np.float64))
        self._references = np.concatenate([self._references, block], axis=1)
        return self._advance(self._references.shape[1] - self._fade)

    def finish(self) -> Signal:
        """Return the results that are left.

        Raises:
            FilterError: a step would diverge.
        """
        self._target = np.concatenate([self._target, np.zeros(self._fade)])
        first = self._advance(self._references.shape[1])
        silence = np.zeros((2, self._window + self._fade))
        self._filtered = np.concatenate([self._filtered, silence], axis=1)
        return np.concatenate([first, self._decide(silence.shape[1])])

    def _advance(self, count: int) -> Signal:
        """Filter the next samples, and return the next results."""
        if count <= 0:
            return np.zeros(0)
        target = self._target[self._fade : self._fade + count]
        nearby = np.abs(self._target[: 2 * self._fade + count])
        peaks = maximum_filter1d(nearby, 2 * self._fade + 1)[self._fade : self._fade + count]
        energy = self._energy + np.cumsum(target**2)
        power = energy / (self._count + np.arange(1, count + 1))
        limit = MAX_PEAK_RATIO * np.maximum(peaks, np.sqrt(power))
        error = self._adaptive.clean(target, self._references[:, :count], limit)
        self._energy, self._count = float(energy[-1]), self._count + count
        self._target = self._target[count:]
        self._references = self._references[:, count:]
        self._filtered = np.concatenate([self._filtered, [target, error]], axis=1)
        return self._decide()

    def _decide(self, ended: int = 0) -> Signal:
        """Return the results whose transitions are certain.

        Args:
            ended: number of samples after the end of the sound.
        """
        context = self._window + self._fade
        count = self._filtered.shape[1] - 2 * context
        if count <= 0:
            return np.zeros(0)
        target, error = self._filtered
        result: Signal = error[context : context + count]
        if (is_kept := self._is_kept(ended)) is not None:
            wanted = slice(context, context + count)
            share = _fade_in(is_kept, self._fade)[wanted]
            result = target[wanted] + share * (result - target[wanted])
            self._kept_samples += int(is_kept[wanted].sum())
        self._filtered = self._filtered[:, count:]
        self._padding = max(0, self._padding - count)
        return result

    def _is_kept(self, ended: int) -> NDArray[np.bool_] | None:
        """Return where the target is kept, which is in whole windows; None if nowhere."""
        window = self._window
        sums = np.cumsum(self._filtered**2, axis=1)
        before, after = sums[:, window:] - sums[:, :-window]
        rounding = ROUNDING * float(sums[:, -1].sum())
        is_louder = after > MAX_RATIO * before + rounding
        is_louder[: max(0, self._padding - 1)] = False
        is_louder[len(is_louder) - ended :] = False
        begins = np.flatnonzero(is_louder) + 1
        if not len(begins):
            return None
        ratios = after[begins - 1] / np.maximum(before[begins - 1], MIN_POWER * window)
        self._excess = max(self._excess, float(10 * np.log10(ratios.max())))
        windows = np.zeros(sums.shape[1] + 1, np.int64)
        windows[begins] += 1
        windows[begins + window] -= 1
        kept: NDArray[np.bool_] = np.cumsum(windows)[:-1] > 0
        return kept


def _fade_in(is_kept: NDArray[np.bool_], fade: int) -> Signal:
    """Return the share of the filter's result: 0 where the target is kept, 1 farther away, (L,)."""
    at = np.arange(len(is_kept))
    last = np.maximum.accumulate(np.where(is_kept, at, -fade))
    following = np.minimum.accumulate(np.where(is_kept, at, len(at) + fade)[::-1])[::-1]
    distance = np.minimum(np.minimum(at - last, following - at), fade)
    share: Signal = 0.5 - 0.5 * np.cos(np.pi * distance / fade)
    return share
