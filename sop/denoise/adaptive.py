"""Adaptive noise cancellation: take out of one signal what others can predict of it.

A filter of `taps` weights for each reference follows the path from the references to the target;
what it cannot predict is the error signal, which is the result. All filters are causal, work on
their own past only, and begin once they have `taps` samples of the references: until then the
error is the target.

    e(n) = d(n) - w(n-1) . x(n)        d the target, x the newest `taps` samples of each reference

A classical canceller hears noise alone in its references. Where they also hold some of what is
wanted, it is cancelled too.

Shapes: L samples, K references, D = K * taps weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Signal = NDArray[np.float64]
FilterName = Literal["lms", "nlms", "rls"]

# RLS keeps a triangle of D x D numbers, and goes through it at each sample.
MOST_RLS_WEIGHTS = 4096
LEAST_FORGETTING = 0.5

# What RLS takes for granted of each weight, now and then, as a part of the largest energy of a
# sample of the references: less than rounding to 16 bits adds. And how far its uncertainty may
# grow in the meantime: both together have to stay well above what double precision can tell.
RLS_FLOOR = 1e-11
MOST_GROWTH = 1e2
# No more than so many samples lie between two such moments.
RLS_REST = 32
# All weights have one at once where that energy rises so many times.
MOST_RISE = 10.0

# Squares and products of what is louder would overflow; what is below its inverse is silence.
MOST_ENERGY = 1e100

# Of the triangle, worked on together.
ROWS = 4

NLMS_REGULARISATION = 1e-8
RLS_REGULARISATION = 1e-6


class Refused(ValueError):
    """What was asked of a filter cannot be done; the message says why."""


class AdaptiveFilter(ABC):
    """A filter that is given its signals block by block; how they are cut makes no difference.

    Args:
        references: K.
        taps: newest samples of each reference that it sees.

    Raises:
        Refused: a number is not positive.
    """

    def __init__(self, references: int, taps: int) -> None:
        if references < 1:
            raise Refused("there is no reference; a filter needs at least one")
        if taps < 1:
            raise Refused(f"{taps} taps: at least 1")
        self.references = references
        self.taps = taps
        self._past: Signal = np.zeros((references, 0))

    @property
    @abstractmethod
    def weights(self) -> Signal:
        """The weights by now, (K, taps), of the newest sample first."""

    def clean(self, target: ArrayLike, reference: ArrayLike) -> Signal:
        """The error signal of the next block.

        Args:
            target: (L,).
            reference: (K, L), or (L,) for a single one.

        Returns:
            (L,).

        Raises:
            Refused: lengths differ, a sample is not finite, or a step would diverge.
        """
        wanted, noise = _checked(target, reference)
        if len(noise) != self.references:
            raise Refused(f"{len(noise)} references, expected {self.references}")
        heard = np.concatenate([self._past, noise], axis=1)
        error = wanted.copy()
        count = heard.shape[1] - self.taps + 1
        if count > 0:
            error[len(error) - count :] = self._adapt(wanted[len(wanted) - count :], heard)
        self._past = heard[:, max(0, count) :].copy()
        return error

    @abstractmethod
    def _adapt(self, target: Signal, heard: Signal) -> Signal:
        """Errors of targets (s,), from references (K, s + taps - 1)."""


class Lms(AdaptiveFilter):
    """Least mean squares: w <- w + 2 * rate * e * x.

    Args:
        references: K.
        taps: newest samples of each reference that it sees.
        rate: below `largest_lms_rate`; beyond it a step makes the error larger than it was.

    Source: Widrow et al., Adaptive noise cancelling: principles and applications, Proceedings of
    the IEEE 1975.
    """

    def __init__(self, references: int, taps: int, rate: float) -> None:
        super().__init__(references, taps)
        if not 0 < rate < np.inf:
            raise Refused(f"rate {rate:g}: a positive number")
        self.rate = rate
        self._weights: Signal = np.zeros((references, taps))

    @property
    def weights(self) -> Signal:
        """The weights by now, (K, taps), of the newest sample first."""
        return self._weights[:, ::-1].copy()

    def _adapt(self, target: Signal, heard: Signal) -> Signal:
        largest = _largest_rate(heard, self.taps)
        if self.rate >= largest:
            raise Refused(
                f"rate {self.rate:g}: diverges, the {self.taps} newest samples of the references "
                f"have too much energy; it must be below {largest:.3g}"
            )
        error: Signal = _lms(target, heard, self._weights, 2 * self.rate)
        return error


class Nlms(Lms):
    """Normalised LMS: w <- w + rate * e * x / (regularisation + |x|^2).

    Args:
        references: K.
        taps: newest samples of each reference that it sees.
        rate: between 0 and 2, beyond which it diverges.
        regularisation: energy that keeps the step small where the references are silent.

    Source: Haykin, Adaptive Filter Theory, normalised least-mean-square filters.
    """

    def __init__(
        self,
        references: int,
        taps: int,
        rate: float,
        regularisation: float = NLMS_REGULARISATION,
    ) -> None:
        super().__init__(references, taps, rate)
        if rate >= 2:
            raise Refused(f"rate {rate:g}: diverges, it must be below 2")
        if not 0 < regularisation < np.inf:
            raise Refused(f"regularisation {regularisation:g}: a positive number")
        self.regularisation = regularisation

    def _adapt(self, target: Signal, heard: Signal) -> Signal:
        error: Signal = _nlms(target, heard, self._weights, self.rate, self.regularisation)
        return error


class Rls(AdaptiveFilter):
    """Recursive least squares with exponential forgetting.

    Before sample n, counted from the first that the filter works on and that is not preceded by
    silence alone, the weights minimise

        sum over i < n of forgetting^(n-1-i) * (d(i) - w . x(i))^2
            + regularisation * forgetting^n * |w|^2

    The textbook recursion keeps the inverse of the references' covariance, which after a while
    loses its positive definiteness to rounding. Here its triangular factors are kept, of which the
    product cannot. Where the references are silent, or excite some directions only, the inverse
    grows without bound; so, once the start is forgotten, in turn each weight is now and then
    observed to be what it is, with next to no confidence. That moves no weight, and bounds the
    growth.

    A least-squares fit of few samples predicts badly: where the references begin again after a
    silence longer than its memory, the first errors can be many times as loud as the target.

    Args:
        references: K.
        taps: newest samples of each reference that it sees.
        forgetting: 0.5 to 1, at which nothing is forgotten; 1 / (1 - forgetting) samples are what
            it remembers.
        regularisation: of the start, in units of the references' energy.

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
        super().__init__(references, taps)
        size = references * taps
        if size > MOST_RLS_WEIGHTS:
            raise Refused(
                f"{references} references x {taps} taps: RLS takes {MOST_RLS_WEIGHTS} weights at "
                "most; NLMS takes longer paths"
            )
        if not LEAST_FORGETTING <= forgetting <= 1:
            raise Refused(f"forgetting {forgetting:g}: {LEAST_FORGETTING} to 1")
        if not 0 < regularisation < np.inf:
            raise Refused(f"regularisation {regularisation:g}: a positive number")
        self.forgetting = forgetting
        self.regularisation = regularisation
        # To whole groups of rows; the weights beyond the end see silence.
        whole = -(-size // ROWS) * ROWS
        self._weights = np.zeros(whole)
        # The covariance is U diag(spread) U^T; row j is column j of U.
        self._factor = np.eye(whole)
        self._spread = np.full(whole, 1 / regularisation)
        self._rest, self._turns = 0, 0
        if forgetting < 1:
            growth = whole * -np.log(forgetting)
            self._rest = int(np.clip(np.log(MOST_GROWTH) / growth, 1, RLS_REST))
            self._turns = int(np.ceil(growth / np.log(MOST_GROWTH)))
        # The largest energy of a sample so far, that by which all weights were last observed, what
        # is left of the start, and samples since a reference first sounded.
        self._state = np.array([0.0, 0.0, regularisation, 0.0])

    @property
    def weights(self) -> Signal:
        """The weights by now, (K, taps), of the newest sample first."""
        used = self._weights[: self.references * self.taps]
        return used.reshape(self.references, self.taps)[:, ::-1].copy()

    def _adapt(self, target: Signal, heard: Signal) -> Signal:
        error: Signal = _rls(
            target,
            heard,
            self._weights,
            self._factor,
            self._spread,
            self._state,
            self.forgetting,
            self._rest,
            self._turns,
        )
        return error


@dataclass(frozen=True)
class FilterSetting:
    """Which filter, and how it is set."""

    name: FilterName
    taps: int
    rate: float
    """The rate of lms and nlms, the forgetting of rls."""

    def make(self, references: int) -> AdaptiveFilter:
        """A new filter for so many references.

        Raises:
            Refused: the numbers are not possible.
        """
        match self.name:
            case "lms":
                return Lms(references, self.taps, self.rate)
            case "nlms":
                return Nlms(references, self.taps, self.rate)
            case "rls":
                return Rls(references, self.taps, self.rate)


@overload
def lms(target: ArrayLike, reference: ArrayLike, taps: int, rate: float) -> Signal: ...
@overload
def lms(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    rate: float,
    *,
    return_weights: Literal[True],
) -> tuple[Signal, Signal]: ...
def lms(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    rate: float,
    *,
    return_weights: bool = False,
) -> Signal | tuple[Signal, Signal]:
    """Cancel with least mean squares; see `Lms`.

    Args:
        target: (L,).
        reference: (K, L), or (L,) for a single one.
        taps: newest samples of each reference that the filter sees.
        rate: below `largest_lms_rate`.
        return_weights: whether to return the final weights, (K, taps), too.

    Returns:
        The error signal, (L,); a copy of the target if there are fewer samples than taps.

    Raises:
        Refused: lengths differ, a sample is not finite, or the rate would diverge.
    """
    return _whole(Lms(_count(reference), taps, rate), target, reference, return_weights)


@overload
def nlms(
    target: ArrayLike, reference: ArrayLike, taps: int, rate: float, regularisation: float = ...
) -> Signal: ...
@overload
def nlms(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    rate: float,
    regularisation: float = ...,
    *,
    return_weights: Literal[True],
) -> tuple[Signal, Signal]: ...
def nlms(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    rate: float,
    regularisation: float = NLMS_REGULARISATION,
    *,
    return_weights: bool = False,
) -> Signal | tuple[Signal, Signal]:
    """Cancel with normalised LMS; see `Nlms`. Otherwise as `lms`."""
    adaptive = Nlms(_count(reference), taps, rate, regularisation)
    return _whole(adaptive, target, reference, return_weights)


@overload
def rls(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    forgetting: float,
    regularisation: float = ...,
) -> Signal: ...
@overload
def rls(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    forgetting: float,
    regularisation: float = ...,
    *,
    return_weights: Literal[True],
) -> tuple[Signal, Signal]: ...
def rls(
    target: ArrayLike,
    reference: ArrayLike,
    taps: int,
    forgetting: float,
    regularisation: float = RLS_REGULARISATION,
    *,
    return_weights: bool = False,
) -> Signal | tuple[Signal, Signal]:
    """Cancel with recursive least squares; see `Rls`. Otherwise as `lms`."""
    adaptive = Rls(_count(reference), taps, forgetting, regularisation)
    return _whole(adaptive, target, reference, return_weights)


def largest_lms_rate(reference: ArrayLike, taps: int) -> float:
    """The rate from which LMS diverges somewhere in a reference.

    After a step the error of the same window is (1 - 2 * rate * |x|^2) times what it was: it
    shrinks as long as rate < 1 / |x|^2.

    Args:
        reference: (K, L), or (L,) for a single one.
        taps: newest samples of each reference that the filter sees.

    Returns:
        One over the largest energy of a window; infinite for silence.
    """
    return _largest_rate(np.atleast_2d(np.asarray(reference, np.float64)), taps)


def _largest_rate(heard: Signal, taps: int) -> float:
    energy = np.cumsum((heard**2).sum(axis=0))
    if len(energy) < taps:
        return np.inf
    windows = energy[taps - 1 :].copy()
    windows[1:] -= energy[:-taps]
    most = float(windows.max())
    return 1 / most if most > 0 else np.inf


def _whole(
    adaptive: AdaptiveFilter, target: ArrayLike, reference: ArrayLike, return_weights: bool
) -> Signal | tuple[Signal, Signal]:
    error = adaptive.clean(target, reference)
    return (error, adaptive.weights) if return_weights else error


def _count(reference: ArrayLike) -> int:
    return len(np.atleast_2d(np.asarray(reference)))


def _checked(target: ArrayLike, reference: ArrayLike) -> tuple[Signal, Signal]:
    wanted = np.ascontiguousarray(target, dtype=np.float64)
    noise = np.atleast_2d(np.ascontiguousarray(reference, dtype=np.float64))
    if wanted.ndim != 1 or noise.ndim != 2 or noise.shape[1] != len(wanted):
        raise Refused(f"a target {wanted.shape} and references {noise.shape} differ in length")
    for what, signal in (("target", wanted), ("references", noise)):
        if not np.vdot(signal, signal) < MOST_ENERGY:
            raise Refused(f"the {what} hold a sample that is not finite, or far too large")
    return wanted, noise


# Sums may be taken in any order, which is what lets them be taken four at a time; and nothing here
# divides by zero, which is what Python would look for.
_compiled: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")


@_compiled
def _lms(target, heard, weights, step):  # type: ignore[no-untyped-def]
    references, taps = weights.shape
    error = np.empty_like(target)
    for n in range(len(target)):
        heard_of_target = 0.0
        for k in range(references):
            for i in range(taps):
                heard_of_target += weights[k, i] * heard[k, n + i]
        error[n] = target[n] - heard_of_target
        scale = step * error[n]
        for k in range(references):
            for i in range(taps):
                weights[k, i] += scale * heard[k, n + i]
    return error


@_compiled
def _nlms(target, heard, weights, rate, regularisation):  # type: ignore[no-untyped-def]
    references, taps = weights.shape
    error = np.empty_like(target)
    for n in range(len(target)):
        heard_of_target = 0.0
        energy = regularisation
        for k in range(references):
            for i in range(taps):
                sample = heard[k, n + i]
                heard_of_target += weights[k, i] * sample
                energy += sample * sample
        error[n] = target[n] - heard_of_target
        scale = rate * error[n] / energy
        for k in range(references):
            for i in range(taps):
                weights[k, i] += scale * heard[k, n + i]
    return error


@_compiled
def _rls(  # type: ignore[no-untyped-def]
    target, heard, weights, factor, spread, state, forgetting, rest, turns
):
    size = len(weights)
    taps = heard.shape[1] - len(target) + 1
    error = np.empty_like(target)
    window = np.zeros(size)
    along = np.empty(size)
    gain = np.empty(size)
    share, step = np.empty(size), np.empty(size)
    peak, swept, start, number = state
    fresh = True
    for n in range(len(target)):
        if fresh:
            _listen(heard, taps, n, window)
            for i in range(size):
                peak = max(peak, window[i] * window[i])
            if peak < 1 / MOST_ENERGY:
                error[n] = target[n]
                continue
            _project(factor, window, along)
            fresh = False
        for k in range(len(heard)):
            peak = max(peak, heard[k, n + taps - 1] ** 2)
        floor = np.sqrt(RLS_FLOOR * peak)
        outlived = rest > 0 and start <= RLS_FLOOR * peak
        if outlived and swept == 0:
            swept = peak
        # What was taken for granted is too little beside a sound that is so much louder.
        if outlived and peak > MOST_RISE * swept:
            swept = peak
            for which in range(size):
                along[:] = floor * factor[:, which]
                _observe(factor, spread, along, 1.0, gain, window, share, step)
        heard_of_target = 0.0
        for i in range(size):
            heard_of_target += weights[i] * window[i]
        error[n] = target[n] - heard_of_target
        if n + 1 < len(target):
            _listen(heard, taps, n + 1, window)
        energy = _observe(factor, spread, along, forgetting, gain, window, share, step)
        scale = error[n] / energy
        for i in range(size):
            weights[i] += scale * gain[i]
        number += 1
        start *= forgetting
        if outlived and number % rest == 0:
            for turn in range(turns):
                which = int((number // rest * turns + turn) % size)
                along[:] = floor * factor[:, which]
                _observe(factor, spread, along, 1.0, gain, window, share, step)
    state[:] = peak, swept, start, number
    return error


@_compiled
def _listen(heard, taps, n, window):  # type: ignore[no-untyped-def]
    for k in range(heard.shape[0]):
        for i in range(taps):
            window[k * taps + i] = heard[k, n + i]


@_compiled
def _project(factor, window, along):  # type: ignore[no-untyped-def]
    for j in range(len(along)):
        along[j] = 0.0
        for i in range(len(window)):
            along[j] += factor[j, i] * window[i]


@_compiled
def _observe(  # type: ignore[no-untyped-def]
    factor, spread, along, forgetting, gain, window, share, step
):
    """Make the factors those of after an observation, and forget.

    Args:
        factor: U of the covariance U diag(spread) U^T; row j holds column j, changed in place.
        spread: changed in place.
        along: U^T times what was observed; becomes the new U^T times `window`.
        forgetting: also the variance of the observation's noise.
        gain: becomes the covariance times what was observed.
        window: what is observed next.
        share: room for D numbers.
        step: the same.

    Returns:
        What to divide the gain by.
    """
    size = len(along)
    energy = forgetting
    for j in range(size):
        share[j] = spread[j] * along[j]
        step[j] = energy
        energy += share[j] * along[j]
    for j in range(size):
        before = step[j]
        after = before + share[j] * along[j]
        inverse = 1 / (before * after)
        step[j] = -along[j] * after * inverse
        spread[j] *= before * before * inverse / forgetting
    gain[:] = 0.0
    # Several rows at a time: it is the memory's traffic that bounds this loop.
    for j in range(0, size, ROWS):
        share0, share1, share2, share3 = share[j], share[j + 1], share[j + 2], share[j + 3]
        step0, step1, step2, step3 = step[j], step[j + 1], step[j + 2], step[j + 3]
        next0 = next1 = next2 = next3 = 0.0
        # Beyond its end a row, and what it adds, is zero.
        for i in range(j + ROWS):
            so_far = gain[i]
            sample = window[i]
            old = factor[j, i]
            new = old + step0 * so_far
            factor[j, i] = new
            next0 += new * sample
            so_far += share0 * old
            old = factor[j + 1, i]
            new = old + step1 * so_far
            factor[j + 1, i] = new
            next1 += new * sample
            so_far += share1 * old
            old = factor[j + 2, i]
            new = old + step2 * so_far
            factor[j + 2, i] = new
            next2 += new * sample
            so_far += share2 * old
            old = factor[j + 3, i]
            new = old + step3 * so_far
            factor[j + 3, i] = new
            next3 += new * sample
            gain[i] = so_far + share3 * old
        along[j], along[j + 1], along[j + 2], along[j + 3] = next0, next1, next2, next3
    return energy
