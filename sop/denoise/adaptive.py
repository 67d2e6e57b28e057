"""Adaptive noise cancellation: remove from one signal what other signals predict of it.

A filter with `taps` weights for each reference models the path from the references to the target.
The error signal, which is the part of the target that the filter does not predict, is the result:

    e(n) = d(n) - w(n-1) . x(n)        d: target, x: newest `taps` samples of each reference

All filters are causal. A filter starts as soon as it has `taps` samples of the references; until
then the error equals the target. If a reference also contains some of the wanted signal, that part
is cancelled as well.

Shapes: L samples, K references, D = K * taps weights.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Signal = NDArray[np.float64]

# RLS stores a triangular D x D matrix and updates all of it at each sample.
MAX_RLS_WEIGHTS = 4096
MIN_FORGETTING = 0.5

# RLS regularises each weight from time to time by an observation of this energy, relative to the
# largest energy of a reference sample. That is less than the error of rounding to 16 bits.
RLS_FLOOR = 1e-11
# Largest growth of the covariance between two such observations. RLS_FLOOR and MAX_GROWTH together
# have to stay well within double precision.
MAX_GROWTH = 1e2
# Largest number of samples between two such observations.
MAX_INTERVAL = 32
# All weights are regularised at once when the largest energy rises by this factor.
MAX_RISE = 10.0

# Squares and products of larger energies would overflow; energies below the inverse are silence.
MAX_ENERGY = 1e100

# Rows of the triangular matrix that are updated together.
ROWS = 4

NLMS_REGULARISATION = 1e-8
RLS_REGULARISATION = 1e-6


class FilterError(ValueError):
    """A filter cannot be made or applied; the message gives the reason."""


class AdaptiveFilter(ABC):
    """An adaptive filter that processes its signals block by block.

    The result does not depend on the division into blocks.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.

    Raises:
        FilterError: an argument is out of range.
    """

    def __init__(self, references: int, taps: int) -> None:
        _require(references >= 1, "no reference; a filter needs at least one")
        _require(taps >= 1, f"{taps} taps; a filter needs at least one")
        self.references = references
        self.taps = taps
        self._past: Signal = np.zeros((references, 0))
        # Oldest sample first.
        self._weights: Signal = np.zeros((references, taps))

    @property
    def weights(self) -> Signal:
        """Current weights, (K, taps), the one of the newest sample first."""
        used = self._weights.ravel()[: self.references * self.taps]
        return used.reshape(self.references, self.taps)[:, ::-1].copy()

    def clean(self, target: ArrayLike, references: ArrayLike) -> Signal:
        """Return the error signal of the next block.

        Args:
            target: (L,).
            references: (K, L), or (L,) for a single one.

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
            begin = len(error) - count
            # This copy is writable; numba would compile the filter again for read-only arrays.
            error[begin:] = self._adapt(error[begin:], history)
        self._past = history[:, max(0, count) :].copy()
        return error

    @abstractmethod
    def _adapt(self, target: Signal, references: Signal) -> Signal:
        """Return the errors of targets (s,), given references (K, s + taps - 1)."""


class Lms(AdaptiveFilter):
    """Least mean squares: w <- w + 2 * rate * e * x.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        rate: step size, below `largest_lms_rate`; a larger step increases the error.

    Source: Widrow et al., Adaptive noise cancelling: principles and applications, Proceedings of
    the IEEE 1975.
    """

    def __init__(self, references: int, taps: int, rate: float) -> None:
        super().__init__(references, taps)
        _require_positive("rate", rate)
        self.rate = rate

    def _adapt(self, target: Signal, references: Signal) -> Signal:
        largest = largest_lms_rate(references, self.taps)
        _require(
            self.rate < largest,
            f"rate {self.rate:g}: diverges, the newest {self.taps} samples of the references "
            f"have too much energy; it must be below {largest:.3g}",
        )
        error: Signal = _lms(target, references, self._weights, 2 * self.rate)
        return error


class Nlms(Lms):
    """Normalised LMS: w <- w + rate * e * x / (regularisation + |x|^2).

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        rate: step size, between 0 and 2; larger steps diverge.
        regularisation: energy that keeps the step small where the references are silent.

    Source: Haykin, Adaptive Filter Theory, normalised least-mean-square filters.
    """

    def __init__(
        self, references: int, taps: int, rate: float, regularisation: float = NLMS_REGULARISATION
    ) -> None:
        super().__init__(references, taps, rate)
        _require(rate < 2, f"rate {rate:g}: diverges, it must be below 2")
        _require_positive("regularisation", regularisation)
        self.regularisation = regularisation

    def _adapt(self, target: Signal, references: Signal) -> Signal:
        error: Signal = _nlms(target, references, self._weights, self.rate, self.regularisation)
        return error


class Rls(AdaptiveFilter):
    """Recursive least squares with exponential forgetting.

    Before sample n, the weights minimise

        sum over i < n of forgetting^(n-1-i) * (d(i) - w . x(i))^2
            + regularisation * forgetting^n * |w|^2

    where samples are counted from the first one at which the filter's window is not silent.

    The textbook recursion stores the inverse of the references' covariance, which loses its
    positive definiteness to rounding. This one stores the inverse's triangular factors, whose
    product is always positive. Where the references are silent, or excite some directions only,
    the inverse would grow without bound. So, once the initial regularisation is forgotten, one
    weight after another is observed at its current value with very low confidence. This changes no
    weight and bounds the growth.

    A least-squares fit to few samples predicts badly. Where the references start again after a
    silence longer than the filter's memory, the first errors can be much louder than the target.

    Args:
        references: number of references, K.
        taps: number of newest samples of each reference that the filter uses.
        forgetting: forgetting factor, 0.5 to 1; the memory is 1 / (1 - forgetting) samples.
        regularisation: initial regularisation, in units of the references' energy.

    Source: Haykin, Adaptive Filter Theory, recursive least-squares; the factors: Bierman,
    Factorization Methods for Discrete Sequential Estimation, 1977, chapter V (U-D update).
    """

    def __init__(
        self,
        references: int,
        taps: int,
        forgetting: float,
        regularisation: float = RLS_REGULARISATION,
    ) -> None:
        size = references * taps
        _require(
            size <= MAX_RLS_WEIGHTS,
            f"{size} weights ({taps} taps for each reference): RLS supports at most "
            f"{MAX_RLS_WEIGHTS}; use NLMS for longer filters",
        )
        super().__init__(references, taps)
        _require(
            MIN_FORGETTING <= forgetting <= 1,
            f"forgetting {forgetting:g}: must be from {MIN_FORGETTING} to 1",
        )
        _require_positive("regularisation", regularisation)
        self.forgetting = forgetting
        # Padded to whole groups of rows; the additional weights see silence.
        padded = -(-size // ROWS) * ROWS
        self._weights = np.zeros(padded)
        # The covariance is U diag(variance) U^T; row j of `factor` is column j of U.
        self._factor = np.eye(padded)
        self._variance = np.full(padded, 1 / regularisation)
        # Every `_interval` samples, `_turns` weights are regularised.
        self._interval, self._turns = 0, 0
        if forgetting < 1:
            growth = padded * -np.log(forgetting)
            self._interval = int(np.clip(np.log(MAX_GROWTH) / growth, 1, MAX_INTERVAL))
            self._turns = int(np.ceil(growth / np.log(MAX_GROWTH)))
        # Largest energy of a sample so far, largest energy when all weights were last regularised,
        # what remains of the initial regularisation, number of samples since the first sound.
        self._state = np.array([0.0, 0.0, regularisation, 0.0])

    def _adapt(self, target: Signal, references: Signal) -> Signal:
        changed = self._weights, self._factor, self._variance, self._state
        error: Signal = _rls(
            target, references, *changed, self.forgetting, self._interval, self._turns
        )
        return error


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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FilterError(message)


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < np.inf, f"{name} {value:g}: must be a positive number")


# Sums may be reordered, which allows SIMD. Python's check for division by zero is not needed, since
# no divisor is zero.
_compiled: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")


@_compiled
def _lms(target, signals, weights, step):  # type: ignore[no-untyped-def]
    references, taps = weights.shape
    error = np.empty_like(target)
    for n in range(len(target)):
        prediction = 0.0
        for k in range(references):
            for i in range(taps):
                prediction += weights[k, i] * signals[k, n + i]
        error[n] = target[n] - prediction
        scale = step * error[n]
        for k in range(references):
            for i in range(taps):
                weights[k, i] += scale * signals[k, n + i]
    return error


@_compiled
def _nlms(target, signals, weights, rate, regularisation):  # type: ignore[no-untyped-def]
    references, taps = weights.shape
    error = np.empty_like(target)
    for n in range(len(target)):
        prediction = 0.0
        energy = regularisation
        for k in range(references):
            for i in range(taps):
                sample = signals[k, n + i]
                prediction += weights[k, i] * sample
                energy += sample * sample
        error[n] = target[n] - prediction
        scale = rate * error[n] / energy
        for k in range(references):
            for i in range(taps):
                weights[k, i] += scale * signals[k, n + i]
    return error


@_compiled
def _rls(  # type: ignore[no-untyped-def]
    target, signals, weights, factor, variance, state, forgetting, interval, turns
):
    size = len(weights)
    taps = signals.shape[1] - len(target) + 1
    error = np.empty_like(target)
    window = np.zeros(size)
    along = np.empty(size)
    gain = np.empty(size)
    scaled, step = np.empty(size), np.empty(size)
    peak, regularised, start, number = state
    silent = True
    for n in range(len(target)):
        if silent:
            _load_window(signals, taps, n, window)
            for i in range(size):
                peak = max(peak, window[i] * window[i])
            if peak < 1 / MAX_ENERGY:
                error[n] = target[n]
                continue
            _project(factor, window, along)
            silent = False
        for k in range(len(signals)):
            peak = max(peak, signals[k, n + taps - 1] ** 2)
        floor = np.sqrt(RLS_FLOOR * peak)
        start_forgotten = interval > 0 and start <= RLS_FLOOR * peak
        if start_forgotten and regularised == 0:
            regularised = peak
        # The earlier observations are too weak for a sound that is this much louder.
        if start_forgotten and peak > MAX_RISE * regularised:
            regularised = peak
            for which in range(size):
                along[:] = floor * factor[:, which]
                _update_factors(factor, variance, along, 1.0, gain, window, scaled, step)
        prediction = 0.0
        for i in range(size):
            prediction += weights[i] * window[i]
        error[n] = target[n] - prediction
        if n + 1 < len(target):
            _load_window(signals, taps, n + 1, window)
        energy = _update_factors(factor, variance, along, forgetting, gain, window, scaled, step)
        scale = error[n] / energy
        for i in range(size):
            weights[i] += scale * gain[i]
        number += 1
        start *= forgetting
        if start_forgotten and number % interval == 0:
            for turn in range(turns):
                which = int((number // interval * turns + turn) % size)
                along[:] = floor * factor[:, which]
                _update_factors(factor, variance, along, 1.0, gain, window, scaled, step)
    state[:] = peak, regularised, start, number
    return error


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
