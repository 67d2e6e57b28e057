"""Adaptive noise cancellation: remove from one signal what other signals predict of it.

A filter with `taps` weights for each reference models the path from the references to the target.
The error signal, which is the part of the target that the filter does not predict, is the result:

    e(n) = d(n) - w(n-1) . x(n)        d: target, x: newest `taps` samples of each reference

All filters are causal. A filter starts as soon as it has `taps` samples of the references; until
then the error equals the target. If a reference also contains some of the wanted signal, that part
is cancelled as well.

Weights that were fitted to a quiet reference amplify a loud one. Therefore NLMS and RLS are
regularised relative to the long-term level of the references: a reference far below it changes the
weights little. `sop.denoise.guard` bounds the result in all other cases.

Shapes: L samples, K references, D = K * taps weights.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache
from numpy.typing import ArrayLike, NDArray

from sop.runtime.progress import announced

Signal = NDArray[np.float64]

# RLS stores a triangular D x D matrix and updates all of it at each sample.
MAX_RLS_WEIGHTS = 4096
MIN_FORGETTING = 0.5

# Regularisation of NLMS and RLS, in units of taps * mean power of a reference. It is the best value
# for a target whose predictable part is 40 dB above the rest: Benesty, Paleologu, Ciochina, On
# regularization in adaptive filtering, IEEE TASLP 2011.
REGULARISATION = 0.01
# The same for the beginning of RLS, when nothing is known of the noise. It is forgotten like old
# samples, so it costs little. Without it, the fit to the first samples predicts badly.
START_REGULARISATION = 1.0
# RLS is regularised as at the beginning when the mean power of a reference rises by this factor.
MAX_RISE = 10.0

# Largest growth of the covariance between two regularisations of the same weight.
MAX_GROWTH = 1e2
# Largest number of samples between the regularisations of two weights.
MAX_INTERVAL = 32

# Squares and products of larger energies would overflow; energies below the inverse are silence.
MAX_ENERGY = 1e100

# Rows of the triangular matrix that are updated together.
ROWS = 4

# Energy and information that are added for references without any sound. Full scale is 1.
MIN_ENERGY = 1e-8
MIN_INFORMATION = 1e-6

COMPILING_SECONDS = 3.0
"""A compilation that takes longer is announced."""

_compile_lock = threading.Lock()


class FilterError(ValueError):
    """A filter cannot be made or applied; the message gives the reason."""


class AdaptiveFilter(ABC):
    """An adaptive filter that processes its signals block by block.

    The result does not depend on the division into blocks.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        levels: mean power of each reference, (K,); None estimates it from the samples so far. LMS
            does not use it.

    Raises:
        FilterError: an argument is out of range.
    """

    def __init__(self, references: int, taps: int, levels: Sequence[float] | None = None) -> None:
        _require(references >= 1, "no reference; a filter needs at least one")
        _require(taps >= 1, f"{taps} taps; a filter needs at least one")
        self.references = references
        self.taps = taps
        self.resets = 0
        """Number of times that the filter started again because an error exceeded its limit."""
        self._past: Signal = np.zeros((references, 0))
        # Oldest sample first.
        self._weights: Signal = np.zeros((references, taps))
        self._has_levels = levels is not None
        # Energy of each reference since its first sound, and number of samples since then.
        self._energy: Signal = np.zeros(references)
        self._count = np.zeros(1)
        if levels is not None:
            self._energy[:], self._count[:] = levels, 1

    @property
    def weights(self) -> Signal:
        """Current weights, (K, taps), the one of the newest sample first."""
        used = self._weights.ravel()[: self.references * self.taps]
        return used.reshape(self.references, self.taps)[:, ::-1].copy()

    def clean(
        self, target: ArrayLike, references: ArrayLike, limit: ArrayLike | None = None
    ) -> Signal:
        """Return the error signal of the next block.

        Args:
            target: (L,).
            references: (K, L), or (L,) for a single one.
            limit: largest magnitude of each error, (L,). Where an error exceeds it, the target is
                returned and the filter starts again with weights of zero. None sets no limit.

        Returns:
            (L,).

        Raises:
            FilterError: the lengths differ, a sample is not finite, or a step would diverge.
        """
        target = np.ascontiguousarray(target, dtype=np.float64)
        references = np.atleast_2d(np.ascontiguousarray(references, dtype=np.float64))
        _require(
            target.ndim == 1 and references.ndim == 2 and references.shape[1] == len(target),
            f"the lengths of target {target.shape} and references {references.shape} differ",
        )
        for name, signal in (("target", target), ("references", references)):
            is_usable = bool(np.vdot(signal, signal) < MAX_ENERGY)
            _require(is_usable, f"a sample of the {name} is not finite or far too large")
        given = len(references)
        _require(given == self.references, f"{given} references, expected {self.references}")
        history = np.concatenate([self._past, references], axis=1)
        error = target.copy()
        count = history.shape[1] - self.taps + 1
        if count > 0:
            first = len(error) - count
            limits = np.full(count, np.inf)
            if limit is not None:
                limits[:] = np.asarray(limit, np.float64)[first:]
            # This copy is writable; numba would compile the filter again for read-only arrays.
            self._run(error[first:], history, limits)
        self._past = history[:, max(0, count) :].copy()
        return error

    def _run(self, error: Signal, history: Signal, limits: Signal) -> None:
        """Replace targets (s,) by their errors, given references (K, s + taps - 1)."""
        done = 0
        while True:
            done = self._adapt(error, history, limits, done)
            if done < 0:
                self._reset()
                self.resets += 1
                done = -done
            if done == len(error):
                return

    @abstractmethod
    def _adapt(self, error: Signal, history: Signal, limits: Signal, begin: int) -> int:
        """Replace targets by their errors, from `begin` on.

        Returns:
            Number of samples that are done, negative if the last of them would have exceeded its
            limit. That one keeps its target.
        """

    def _reset(self) -> None:
        """Forget all that was learned."""
        self._weights[:] = 0

    def _compile(self, kernel: Any) -> None:
        """Compile the filter's loop, unless this or an earlier process did, and say so."""
        with _compile_lock:
            if not kernel.signatures:
                method = type(self).__name__.lower()
                text = f"compiling the {method} filter; this happens once and can take a minute"
                with announced(text, COMPILING_SECONDS):
                    self._adapt(np.zeros(1), np.zeros((self.references, self.taps)), np.ones(1), 0)


class Lms(AdaptiveFilter):
    """Least mean squares: w <- w + 2 * rate * e * x.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        rate: step size, below `largest_lms_rate`; a larger step increases the error.

    Source: Widrow et al., Adaptive noise cancelling: principles and applications, Proceedings of
    the IEEE 1975.
    """

    def __init__(
        self, references: int, taps: int, rate: float, levels: Sequence[float] | None = None
    ) -> None:
        super().__init__(references, taps, levels)
        _require_positive("rate", rate)
        self.rate = rate
        self._compile(_lms)

    def _run(self, error: Signal, history: Signal, limits: Signal) -> None:
        check_lms_rate(self.rate, largest_lms_rate(history, self.taps))
        super()._run(error, history, limits)

    def _adapt(self, error: Signal, history: Signal, limits: Signal, begin: int) -> int:
        return int(_lms(error, history, limits, begin, self._weights, 2 * self.rate))


class Nlms(AdaptiveFilter):
    """Normalised LMS: w <- w + rate * e * x / (|x|^2 + regularisation * taps * P).

    P is the long-term mean power of the references, summed over the references.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        rate: step size, between 0 and 2; larger steps diverge.
        regularisation: makes the step small where the references are quieter than usual.
        levels: mean power of each reference, (K,); None estimates it from the samples so far.

    Source: Haykin, Adaptive Filter Theory, normalised least-mean-square filters.
    """

    def __init__(
        self,
        references: int,
        taps: int,
        rate: float,
        regularisation: float = REGULARISATION,
        levels: Sequence[float] | None = None,
    ) -> None:
        super().__init__(references, taps, levels)
        _require_positive("rate", rate)
        _require(rate < 2, f"rate {rate:g}: diverges, it must be below 2")
        _require_positive("regularisation", regularisation)
        self.rate = rate
        self.regularisation = regularisation
        self._compile(_nlms)

    def _adapt(self, error: Signal, history: Signal, limits: Signal, begin: int) -> int:
        level = self._energy, self._count, self._has_levels
        settings = self.rate, self.regularisation
        return int(_nlms(error, history, limits, begin, self._weights, *level, *settings))


class Rls(AdaptiveFilter):
    """Recursive least squares with exponential forgetting.

    Before sample n, the weights minimise

        sum over i < n of forgetting^(n-1-i) * (d(i) - w . x(i))^2
            + start * taps * forgetting^n * sum over weights of P * w^2

    where samples are counted from the first one at which the filter's window is not silent, and P
    is the long-term mean power of the weight's reference.

    The textbook recursion stores the inverse of the references' covariance, which loses its
    positive definiteness to rounding. This one stores the inverse's triangular factors, whose
    product is always positive. Where the references are silent or quiet, or excite some directions
    only, the inverse would grow without bound, and with it the changes of the weights. So one
    weight after another is observed at its current value, with the confidence that `regularisation`
    asks for. This changes no weight and bounds the growth.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        forgetting: forgetting factor, 0.5 to 1; the memory is 1 / (1 - forgetting) samples.
        regularisation: confidence in the current weights, in units of taps * P; 0 for none, as in
            the textbook. A forgetting factor of 1 needs none.
        start: regularisation at the beginning, and again when a level is not known and rises.
        levels: mean power of each reference, (K,); None estimates it from the samples so far.

    Source: Haykin, Adaptive Filter Theory, recursive least-squares; the factors: Bierman,
    Factorization Methods for Discrete Sequential Estimation, 1977, chapter V (U-D update).
    """

    def __init__(
        self,
        references: int,
        taps: int,
        forgetting: float,
        regularisation: float = REGULARISATION,
        start: float = START_REGULARISATION,
        levels: Sequence[float] | None = None,
    ) -> None:
        size = references * taps
        _require(
            size <= MAX_RLS_WEIGHTS,
            f"{size} weights ({taps} taps for each reference): RLS supports at most "
            f"{MAX_RLS_WEIGHTS}; use NLMS for longer filters",
        )
        super().__init__(references, taps, levels)
        _require(
            MIN_FORGETTING <= forgetting <= 1,
            f"forgetting {forgetting:g}: must be from {MIN_FORGETTING} to 1",
        )
        for name, value in (("regularisation", regularisation), ("start", start)):
            _require(0 <= value < np.inf, f"{name} {value:g}: must be 0 or a positive number")
        self.forgetting = forgetting
        self._regularisation, self._start = regularisation * taps, start * taps
        # Padded to whole groups of rows; the additional weights see silence.
        padded = -(-size // ROWS) * ROWS
        self._weights = np.zeros(padded)
        # The covariance is U diag(variance) U^T; row j of `factor` is column j of U.
        self._factor = np.zeros((padded, padded))
        self._variance = np.zeros(padded)
        # Level of each reference when all its weights were last regularised.
        self._regularised = np.zeros(references)
        # Number of samples since the first sound.
        self._number = np.zeros(1, np.int64)
        # Every `_interval` samples, `_turns` weights are regularised.
        self._interval, self._turns = 0, 0
        # Share of the information that is forgotten between two turns of a weight.
        self._forgotten = 0.0
        if forgetting < 1 and regularisation > 0:
            growth = padded * -np.log(forgetting)
            self._interval = int(np.clip(np.log(MAX_GROWTH) / growth, 1, MAX_INTERVAL))
            self._turns = int(np.ceil(growth / np.log(MAX_GROWTH)))
            self._forgotten = 1 - forgetting ** (self._interval * padded / self._turns)
        self._reset()
        self._compile(_rls)

    def _reset(self) -> None:
        super()._reset()
        self._factor[:] = np.eye(len(self._weights))
        self._regularised[:] = self._energy / np.maximum(self._count, 1)
        self._variance[:] = 1 / MIN_INFORMATION
        information = MIN_INFORMATION + self._start * self._regularised
        self._variance[: self.references * self.taps] = np.repeat(1 / information, self.taps)

    def _adapt(self, error: Signal, history: Signal, limits: Signal, begin: int) -> int:
        level = self._energy, self._count, self._has_levels, self._regularised
        changed = self._weights, self._factor, self._variance, self._number
        turns = self._interval, self._turns, self._forgotten
        settings = self.forgetting, *turns, self._regularisation, self._start
        return int(_rls(error, history, limits, begin, *changed, *level, *settings))


def largest_lms_rate(references: ArrayLike, taps: int) -> float:
    """Return the rate from which LMS diverges somewhere in the references.

    After a step the error of the same window is (1 - 2 * rate * |x|^2) times the error before it,
    so it shrinks as long as rate < 1 / |x|^2.

    Args:
        references: (K, L), or (L,) for a single one.
        taps: number of newest samples of each reference that the filter uses.

    Returns:
        One over the largest energy of a window; infinite for silence.
    """
    signals = np.atleast_2d(np.asarray(references, np.float64))
    energy = np.cumsum((signals**2).sum(axis=0))
    if len(energy) < taps:
        return np.inf
    windows = energy[taps - 1 :].copy()
    windows[1:] -= energy[:-taps]
    largest = float(windows.max())
    return 1 / largest if largest > 0 else np.inf


def check_lms_rate(rate: float, largest: float) -> None:
    """Raise an error if LMS diverges.

    Args:
        rate: step size.
        largest: the rate from which it diverges, from `largest_lms_rate`.

    Raises:
        FilterError: the rate is too large; the message gives the limit.
    """
    if rate >= largest:
        # Three digits, rounded down, so that a rate below the printed limit is allowed.
        step = 10.0 ** (math.floor(math.log10(largest)) - 2)
        raise FilterError(
            f"rate {rate:g} diverges with these references; it must be below "
            f"{math.floor(largest / step) * step:.3g}, or use nlms, which works at any level"
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FilterError(message)


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < np.inf, f"{name} {value:g}: must be a positive number")


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, and keep the result for later processes if possible."""
    # Sums may be reordered, which allows SIMD. Python's check for division by zero is not needed,
    # since no divisor is zero.
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"reassoc", "contract"},
        "error_model": "numpy",
    }
    compiled: Any = njit(**options)(function)
    # Not kept if neither the package's folder nor the user's is writable. NUMBA_CACHE_DIR names
    # another.
    with suppress(RuntimeError):
        compiled._cache = _CompiledOnDisk(function)  # type: ignore[no-untyped-call]
    return compiled


class _CompiledOnDisk(FunctionCache):
    """Compiled functions on disk; on a full disk, the next process compiles again."""

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]


@_compiled
def _lms(error, signals, limits, begin, weights, step):  # type: ignore[no-untyped-def]
    references, taps = weights.shape
    for n in range(begin, len(error)):
        prediction = 0.0
        for k in range(references):
            window = signals[k, n : n + taps]
            for i in range(taps):
                prediction += weights[k, i] * window[i]
        if not abs(error[n] - prediction) <= limits[n]:
            return -(n + 1)
        error[n] -= prediction
        scale = step * error[n]
        for k in range(references):
            window = signals[k, n : n + taps]
            for i in range(taps):
                weights[k, i] += scale * window[i]
    return len(error)


@_compiled
def _nlms(  # type: ignore[no-untyped-def]
    error, signals, limits, begin, weights, heard, count, has_levels, rate, regularisation
):
    references, taps = weights.shape
    floor = MIN_ENERGY
    if count[0] > 0:
        floor += regularisation * taps * heard.sum() / count[0]
    for n in range(begin, len(error)):
        prediction = 0.0
        energy = 0.0
        for k in range(references):
            window = signals[k, n : n + taps]
            for i in range(taps):
                prediction += weights[k, i] * window[i]
                energy += window[i] * window[i]
        if not has_levels and (count[0] > 0 or energy > 0):
            count[0] += 1
            total = 0.0
            for k in range(references):
                heard[k] += signals[k, n + taps - 1] ** 2
                total += heard[k]
            floor = MIN_ENERGY + regularisation * taps * total / count[0]
        if not abs(error[n] - prediction) <= limits[n]:
            return -(n + 1)
        error[n] -= prediction
        scale = rate * error[n] / (energy + floor)
        for k in range(references):
            window = signals[k, n : n + taps]
            for i in range(taps):
                weights[k, i] += scale * window[i]
    return len(error)


@_compiled
def _rls(  # type: ignore[no-untyped-def]
    error,
    signals,
    limits,
    begin,
    weights,
    factor,
    variance,
    number,
    heard,
    count,
    has_levels,
    regularised,
    forgetting,
    interval,
    turns,
    forgotten,
    regularisation,
    start,
):
    size = len(weights)
    taps = signals.shape[1] - len(error) + 1
    window = np.zeros(size)
    along = np.empty(size)
    gain = np.empty(size)
    scaled, step = np.empty(size), np.empty(size)
    silent = True
    # Samples until weights are regularised.
    left = interval - number[0] % interval if interval > 0 else -1
    for n in range(begin, len(error)):
        if silent:
            _load_window(signals, taps, n, window)
            peak = 0.0
            for i in range(size):
                peak = max(peak, window[i] * window[i])
            if number[0] == 0 and peak < 1 / MAX_ENERGY:
                continue
            _project(factor, window, along)
            silent = False
        if not has_levels:
            count[0] += 1
            for k in range(len(signals)):
                heard[k] += signals[k, n + taps - 1] ** 2
                # The earlier regularisation is too weak for a sound that is this much louder.
                if heard[k] > MAX_RISE * regularised[k] * count[0]:
                    regularised[k] = heard[k] / count[0]
                    for i in range(k * taps, (k + 1) * taps):
                        amount = np.sqrt(start * regularised[k])
                        along[:] = amount * factor[:, i]
                        energy = _update_factors(
                            factor, variance, along, 1.0, gain, window, scaled, step
                        )
                        # As at the beginning, the weights are likely to be small.
                        scale = -amount * weights[i] / energy
                        for j in range(size):
                            weights[j] += scale * gain[j]
        prediction = 0.0
        for i in range(size):
            prediction += weights[i] * window[i]
        if not abs(error[n] - prediction) <= limits[n]:
            return -(n + 1)
        error[n] -= prediction
        if n + 1 < len(error):
            _load_window(signals, taps, n + 1, window)
        energy = _update_factors(factor, variance, along, forgetting, gain, window, scaled, step)
        scale = error[n] / energy
        for i in range(size):
            weights[i] += scale * gain[i]
        number[0] += 1
        left -= 1
        if left == 0:
            left = interval
            for turn in range(turns):
                i = int((number[0] // interval * turns + turn) % size)
                k = min(i // taps, len(heard) - 1)
                information = MIN_INFORMATION + regularisation * heard[k] / count[0]
                along[:] = np.sqrt(forgotten * information) * factor[:, i]
                _update_factors(factor, variance, along, 1.0, gain, window, scaled, step)
    return len(error)


@_compiled
def _load_window(signals, taps, n, window):  # type: ignore[no-untyped-def]
    for k in range(signals.shape[0]):
        for i in range(taps):
            window[k * taps + i] = signals[k, n + i]


@_compiled
def _project(factor, window, along):  # type: ignore[no-untyped-def]
    for j in range(len(along)):
        along[j] = 0.0
        for i in range(len(window)):
            along[j] += factor[j, i] * window[i]


@_compiled
def _update_factors(  # type: ignore[no-untyped-def]
    factor, variance, along, forgetting, gain, window, scaled, step
):
    """Update the factors by one observation, then apply the forgetting factor.

    Args:
        factor: U of the covariance U diag(variance) U^T; row j holds column j, changed in place.
        variance: changed in place.
        along: U^T times the observed vector; becomes the new U^T times `window`.
        forgetting: forgetting factor, also the variance of the observation's noise.
        gain: becomes the covariance times the observed vector.
        window: the vector that is observed next.
        scaled: work space, (D,).
        step: work space, (D,).

    Returns:
        Divisor of the gain.
    """
    size = len(along)
    energy = forgetting
    for j in range(size):
        scaled[j] = variance[j] * along[j]
        step[j] = energy
        energy += scaled[j] * along[j]
    for j in range(size):
        before = step[j]
        after = before + scaled[j] * along[j]
        inverse = 1 / (before * after)
        step[j] = -along[j] * after * inverse
        variance[j] *= before * before * inverse / forgetting
    gain[:] = 0.0
    # Several rows at a time, because memory bandwidth limits this loop.
    for j in range(0, size, ROWS):
        scaled0, scaled1, scaled2, scaled3 = scaled[j], scaled[j + 1], scaled[j + 2], scaled[j + 3]
        step0, step1, step2, step3 = step[j], step[j + 1], step[j + 2], step[j + 3]
        next0 = next1 = next2 = next3 = 0.0
        # Elements beyond the end of a row are zero and add nothing.
        for i in range(j + ROWS):
            so_far = gain[i]
            sample = window[i]
            old = factor[j, i]
            new = old + step0 * so_far
            factor[j, i] = new
            next0 += new * sample
            so_far += scaled0 * old
            old = factor[j + 1, i]
            new = old + step1 * so_far
            factor[j + 1, i] = new
            next1 += new * sample
            so_far += scaled1 * old
            old = factor[j + 2, i]
            new = old + step2 * so_far
            factor[j + 2, i] = new
            next2 += new * sample
            so_far += scaled2 * old
            old = factor[j + 3, i]
            new = old + step3 * so_far
            factor[j + 3, i] = new
            next3 += new * sample
            gain[i] = so_far + scaled3 * old
        along[j], along[j + 1], along[j + 2], along[j + 3] = next0, next1, next2, next3
    return energy
