"""Measures of separated sounds, in dB.

Shapes: N sources, L samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg

Signals = NDArray[np.floating[Any]]
Sounds = NDArray[np.float32]
Decibels = NDArray[np.float64]

MEASURES = ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement")
# Largest sum of absolute samples of a silent sound, as in the published code.
SILENCE = 1e-5

FILTER_TAPS = 512  # length of the distortion filter that BSS Eval allows, as in mir_eval

# Most that a silent estimate scores, dB.
SILENT_SCORE_DB = 0.0

# Lowest leak, dB: that of a silent estimate.
LEAK_FLOOR_DB = -100.0

# A source is at rest below one of these levels: relative to the mixture, and to full scale. What is
# left of it is the noise of its recording.
REST_RELATIVE_DB = -40.0
REST_DB = -60.0


class UnmeasurableError(ValueError):
    """True sounds with which nothing can be compared; the message gives the reason."""


class Measures(NamedTuple):
    """Measures of estimates, each (..., N) in dB."""

    sdr: Decibels
    sir: Decibels
    sar: Decibels
    """NaN for silent estimates, which have no artifacts and no signal."""
    si_sdr: Decibels
    silent: NDArray[np.bool_]
    """Whether the estimate is silent."""


class BssEval(NamedTuple):
    """BSS Eval of estimates, each (..., N) in dB."""

    sdr: Decibels
    sir: Decibels
    sar: Decibels


def measure(truth: Signals, estimates: Signals, names: Sequence[str] = ()) -> Measures:
    """Measure estimates of the sources of a mixture; all callers measure through this function.

    Silence scores no more than doing nothing: a silent estimate gets the score of the mixture, but
    at most `SILENT_SCORE_DB`, in SDR, SIR and SI-SDR. An estimate with a sample that is not finite
    counts as silent.

    Args:
        truth: true sounds, (N, L).
        estimates: estimated sounds in the same order, (..., N, L); the leading dimensions are sets
            of estimates to compare.
        names: names of the sources, for the reason.

    Raises:
        UnmeasurableError: a true sound is silent or not finite.
    """
    for number, sound in enumerate(truth):
        if reason := why_not_measurable(sound):
            name = names[number] if len(names) else f"source {number + 1}"
            raise UnmeasurableError(f"{name} {reason}")
    silent = np.asarray(is_silent(estimates))
    mixture = truth.sum(axis=0)
    # If the sources cancel each other, any estimate is better than the mixture.
    instead = truth if is_silent(mixture) else mixture
    measured = np.where(silent[..., None], instead, estimates)
    bss = bss_eval(truth, measured)
    scores = [
        np.where(silent, np.minimum(values, SILENT_SCORE_DB), values)
        for values in (bss.sdr, bss.sir, si_sdr(truth, measured))
    ]
    return Measures(
        sdr=scores[0],
        sir=scores[1],
        sar=np.where(silent, np.nan, bss.sar),
        si_sdr=scores[2],
        silent=silent,
    )


def bss_eval(references: Signals, estimates: Signals, taps: int = FILTER_TAPS) -> BssEval:
    """Compute BSS Eval version 3 for sources: how much of each estimate is its own source.

    Equal to `mir_eval.separation.bss_eval_sources(..., compute_permutation=False)`. Several times
    faster, because the Gram matrix of the delayed references is computed and factored once for all
    estimates, and the energies follow from inner products.

    Args:
        references: true sources, (N, L); none may be silent.
        estimates: estimated sources in the same order, (..., N, L); the leading dimensions are
            sets of estimates to compare.
        taps: length of the allowed distortion filter, in samples.

    Raises:
        ValueError: the shapes differ, L < taps, or a signal is silent or not finite.

    Source: Vincent, Gribonval, Févotte, Performance measurement in blind audio source separation,
    IEEE TASLP 2006; Raffel et al., mir_eval, ISMIR 2014.
    """
    reference, estimate = _checked(references, estimates)
    sources, samples = reference.shape
    if samples < taps:
        raise ValueError(f"{samples} samples are fewer than the filter's {taps}")
    sets = estimate.reshape(-1, sources, samples)

    size = fft.next_fast_len(samples + taps - 1, real=True)
    reference_spectra = fft.rfft(reference, size)
    gram = np.empty((sources, taps, sources, taps))
    for i in range(sources):
        for j in range(i + 1):
            lags = fft.irfft(reference_spectra[i] * reference_spectra[j].conj(), size)
            block = linalg.toeplitz(np.r_[lags[0], lags[:-taps:-1]], lags[:taps])
            gram[i, :, j], gram[j, :, i] = block, block.T
    # Inner products of the delayed references with each estimate: (set, N, source, delay).
    cross = np.empty((len(sets), sources, sources, taps))
    for number, one in enumerate(sets):
        spectra = fft.rfft(one, size)[:, None]
        cross[number] = fft.irfft(reference_spectra.conj() * spectra, size)[..., :taps]

    on_all = _explained(gram.reshape(sources * taps, -1), cross.reshape(-1, sources * taps))
    on_all = on_all.reshape(-1, sources)
    on_own = [_explained(gram[j, :, j], cross[:, j, j]) for j in range(sources)]
    target = np.stack(on_own, axis=-1)
    artifacts = np.sum(sets**2, axis=-1) - on_all
    interference = on_all - target
    shape = estimate.shape[:-1]
    return BssEval(
        sdr=_decibels(target, interference + artifacts).reshape(shape),
        sir=_decibels(target, interference).reshape(shape),
        sar=_decibels(on_all, artifacts).reshape(shape),
    )


def si_sdr(references: Signals, estimates: Signals) -> Decibels:
    """Compute the scale-invariant signal-to-distortion ratio of each estimate, (..., N) in dB.

    Args:
        references: (N, L); none may be silent.
        estimates: (..., N, L).

    Raises:
        ValueError: the shapes differ, a signal is silent or not finite, or a reference is constant.

    Source: Le Roux et al., SDR: half-baked or well done?, ICASSP 2019, eq. 4 (means removed).
    """
    reference, estimate = _checked(references, estimates)
    if not np.ptp(reference, axis=-1).all():
        raise ValueError("a reference is constant")
    reference = reference - reference.mean(axis=-1, keepdims=True)
    estimate = estimate - estimate.mean(axis=-1, keepdims=True)
    scale = np.sum(estimate * reference, axis=-1) / np.sum(reference**2, axis=-1)
    target = scale[..., None] * reference
    return _decibels(np.sum(target**2, axis=-1), np.sum((estimate - target) ** 2, axis=-1))


def leak(estimate: Sounds, mixture: Sounds) -> float:
    """Return the energy of an estimate relative to that of the mixture, both (L,), in dB.

    It is at least `LEAK_FLOOR_DB`. The mixture must not be silent.
    """
    energies = [float(np.square(sound, dtype=np.float64).sum()) for sound in (estimate, mixture)]
    least = 10 ** (LEAK_FLOOR_DB / 10)
    return float(10 * np.log10(max(energies[0] / energies[1], least)))


def finite_or_silent(sounds: Sounds) -> Sounds:
    """Return sounds (..., L), with silence for those that contain a sample that is not finite."""
    finite = np.isfinite(sounds).all(axis=-1, keepdims=True)
    usable: Sounds = np.where(finite, sounds, np.float32(0))
    return usable


def is_silent(signals: Signals) -> NDArray[np.bool_]:
    """Return which signals (..., L) are silent or contain a sample that is not finite, (...)."""
    usable = np.where(np.isfinite(signals).all(axis=-1, keepdims=True), signals, 0)
    # SI-SDR removes the mean, so a constant signal counts as silent.
    silent: NDArray[np.bool_] = (np.abs(usable).sum(axis=-1) <= SILENCE) | (
        np.ptp(usable, axis=-1) == 0
    )
    return silent


def is_at_rest(sources: Sounds) -> NDArray[np.bool_]:
    """Return which sources (N, L) are at rest in their mixture, (N,)."""
    power = np.square(sources, dtype=np.float64).mean(axis=-1)
    mixture = np.square(sources.sum(axis=0), dtype=np.float64).mean()
    least = max(mixture * 10 ** (REST_RELATIVE_DB / 10), 10 ** (REST_DB / 10))
    resting: NDArray[np.bool_] = power < least
    return resting


def why_not_measurable(signal: Signals) -> str | None:
    """Return why nothing can be compared with a signal (L,); None if something can."""
    if not np.isfinite(signal).all():
        return "contains a sample that is not finite"
    return "is silent" if is_silent(signal) else None


def summarise(values: Mapping[str, Signals | list[float]]) -> dict[str, dict[str, float | None]]:
    """Return mean and median of each measure over its finite values; None if there are none."""
    statistics: dict[str, Any] = {"mean": np.mean, "median": np.median}
    finite = {name: np.asarray(column)[np.isfinite(column)] for name, column in values.items()}
    return {
        name: {key: float(of(column)) if len(column) else None for key, of in statistics.items()}
        for name, column in finite.items()
    }


def _checked(
    references: Signals, estimates: Signals
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    reference = np.asarray(references, dtype=np.float64)
    estimate = np.asarray(estimates, dtype=np.float64)
    if reference.ndim != 2 or estimate.shape[-2:] != reference.shape:
        raise ValueError(f"estimates {estimate.shape} do not fit references {reference.shape}")
    for signals in (reference, estimate):
        if not np.isfinite(signals).all():
            raise ValueError("a signal is not finite")
        if not signals.any(axis=-1).all():
            raise ValueError("a signal is silent")
    return reference, estimate


def _explained(gram: NDArray[np.float64], cross: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return energies of projections on delayed references, (taps, taps) and (K, taps) to (K,)."""
    try:
        weights = linalg.cho_solve(linalg.cho_factor(gram), cross.T)
    except linalg.LinAlgError:
        # Sources are filtered copies of each other: all least-squares solutions are equivalent.
        weights = linalg.lstsq(gram, cross.T)[0]
    explained: NDArray[np.float64] = np.sum(weights.T * cross, axis=-1)
    return explained


def _decibels(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> Decibels:
    """Return a ratio of energies in dB, limited to the +-156 dB of double precision."""
    least = np.finfo(np.float64).eps
    with np.errstate(over="ignore"):
        ratio = np.maximum(signal, 0) / np.maximum(noise, np.finfo(np.float64).tiny)
    decibels: Decibels = 10 * np.log10(np.clip(ratio, least, 1 / least))
    return decibels
