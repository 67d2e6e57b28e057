import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from sop.denoise.adaptive import (
    MAX_RLS_WEIGHTS,
    AdaptiveFilter,
    FilterError,
    Lms,
    Nlms,
    Rls,
    largest_lms_rate,
)
from sop.denoise.settings import LmsSettings, NlmsSettings, RlsSettings
from tests.support.experiment import ROOT, Reference
from tests.support.stress import repeats

pytestmark = pytest.mark.usefixtures("one_thread")

Values = NDArray[np.float64]

RATE_HZ = 11025

# RLS as in textbooks: only the initial regularisation below, which is forgotten.
TEXTBOOK = (0.0, 0.0)
REGULARISATION = 1e-6

FILTERS: dict[str, Callable[[int, int], AdaptiveFilter]] = {
    "lms": lambda references, taps: Lms(references, taps, 1e-3),
    "nlms": lambda references, taps: Nlms(references, taps, 0.5),
    "rls": lambda references, taps: Rls(references, taps, 0.99),
    "rls, few samples": lambda references, taps: Rls(references, taps, 0.8),
    "rls, all samples": lambda references, taps: Rls(references, taps, 1.0),
}
SETTINGS = {"lms": (Lms, 1e-3), "nlms": (Nlms, 0.5), "rls": (Rls, 0.999)}


def applied(
    kind: type[AdaptiveFilter], target: Any, references: Any, *settings: Any
) -> tuple[Values, Values]:
    """Return the error and the last weights of a new filter."""
    adaptive = kind(len(np.atleast_2d(references)), *settings)
    return adaptive.clean(target, references), adaptive.weights


def error_of(kind: type[AdaptiveFilter], target: Any, references: Any, *settings: Any) -> Values:
    """Return the error of a new filter."""
    return applied(kind, target, references, *settings)[0]


def short(name: str, target: Any, references: Any, taps: int) -> Values:
    """Return the error of a new filter with a common setting."""
    kind, setting = SETTINGS[name]
    return error_of(kind, target, references, taps, setting)


def white(samples: int, references: int | None = None, seed: int = 0) -> Values:
    shape = samples if references is None else (references, samples)
    return np.random.default_rng(seed).standard_normal(shape)


def coloured(samples: int, references: int, seed: int = 0) -> Values:
    """Return noise with a resonance and little energy at half the sample rate."""
    return lfilter([1], np.convolve([1, -0.9], [1, -1.2, 0.8]), white(samples, references, seed))


def notes(samples: int, seed: int) -> Values:
    """Return notes of harmonics with soft onsets and decay, and silence between them."""
    rng = np.random.default_rng(seed)
    at = np.arange(samples) / RATE_HZ
    sound = np.zeros(samples)
    for onset in np.arange(0.1, samples / RATE_HZ, 0.4):
        since = np.clip(at - onset, 0, None)
        envelope = np.exp(-5 * since) * np.clip(since / 0.01, 0, 1)
        hertz = 110 * 2 ** (rng.integers(0, 30) / 12)
        for harmonic in range(1, 6):
            sound += envelope * np.sin(2 * np.pi * harmonic * hertz * at) / harmonic
    return 0.5 * sound / np.abs(sound).max()


def paths(taps: int, references: int, seed: int = 0) -> Values:
    decay = np.exp(-4 * np.arange(taps) / taps)
    return decay * np.random.default_rng(1000 + seed).standard_normal((references, taps))


def through(path: Values, reference: Values) -> Values:
    """Return the references after their paths, summed, (L,)."""
    heard = [lfilter(one, [1], noise) for one, noise in zip(path, reference, strict=True)]
    return np.sum(heard, axis=0)


def quantised(sound: Values) -> Values:
    return np.round(sound * 32768) / 32768


def window(reference: Values, taps: int, n: int) -> Values:
    """Return the newest samples of each reference, newest first, as one vector."""
    return reference[:, n - taps + 1 : n + 1][:, ::-1].ravel()


def looped(
    target: Values, reference: Values, taps: int, step: Callable[[float, Values], Values]
) -> tuple[Values, Values]:
    """Return errors and last weights of a filter that adds `step(error, newest samples)`."""
    error = target.copy()
    weights = np.zeros(reference.shape[0] * taps)
    for n in range(taps - 1, len(target)):
        newest = window(reference, taps, n)
        error[n] = target[n] - weights @ newest
        weights = weights + step(error[n], newest)
    return error, weights.reshape(-1, taps)


def least_squares(
    target: Values, reference: Values, taps: int, forgetting: float, samples: int
) -> Values:
    """Return the weights that minimise the sum in the docstring of `Rls`, (K, taps)."""
    # Older samples do not contribute at double precision.
    kept = samples if forgetting == 1 else min(samples, int(np.log(1e-18) / np.log(forgetting)))
    at = taps - 1 + np.arange(samples - kept, samples)
    rows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(one, taps)[:, ::-1] for one in reference], axis=1
    )[at - taps + 1]
    share = np.sqrt(forgetting ** np.arange(kept - 1.0, -1.0, -1.0))
    start = np.sqrt(REGULARISATION * forgetting**samples) * np.eye(rows.shape[1])
    weights = np.linalg.lstsq(
        np.concatenate([rows * share[:, None], start]),
        np.concatenate([target[at] * share, np.zeros(len(start))]),
        rcond=None,
    )[0]
    return weights.reshape(-1, taps)


def power_ratio_db(signal: Values, noise: Values) -> float:
    return float(10 * np.log10(np.sum(signal**2) / np.sum(noise**2)))


# Agreement with published numbers and definitions.


@pytest.mark.parametrize(
    ("name", "taps", "rate"), [("lms_error", 128, 1e-4), ("lms_error_16_taps_rate_0.05", 16, 0.05)]
)
def test_lms_equals_the_published_recursion(
    reference: Reference, name: str, taps: int, rate: float
) -> None:
    first, second = reference.recipe.inputs()["audios"][0]
    target = first + np.float32(0.3) * np.roll(second, 2)
    assert target.dtype == np.float32
    expected = reference.expected[name]
    samples = 16384
    error = error_of(Lms, target[:samples], second[:samples], taps, rate)
    np.testing.assert_allclose(error[::8], expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(error[: taps - 1], target[: taps - 1])


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("taps", [1, 4, 33])
def test_lms_equals_a_plain_loop(taps: int, references: int) -> None:
    noise = white(500, references)
    target = white(500, seed=9) + through(paths(7, references), noise)
    rate = 0.2 * largest_lms_rate(noise, taps)
    expected, last = looped(target, noise, taps, lambda error, newest: 2 * rate * error * newest)
    error, weights = applied(Lms, target, noise, taps, rate)
    np.testing.assert_allclose(error, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("taps", [1, 4, 33])
@pytest.mark.parametrize(("rate", "regularisation"), [(0.01, 1e-8), (1.0, 0.5), (1.9, 1e-8)])
def test_nlms_equals_its_definition(
    taps: int, references: int, rate: float, regularisation: float
) -> None:
    noise = white(500, references)
    target = white(500, seed=9) + through(paths(7, references), noise)
    levels = [0.3] * references
    floor = 1e-8 + regularisation * taps * 0.3 * references
    expected, last = looped(
        target, noise, taps, lambda error, newest: rate * error * newest / (floor + newest @ newest)
    )
    error, weights = applied(Nlms, target, noise, taps, rate, regularisation, levels)
    np.testing.assert_allclose(error, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(weights, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("colour", [white, coloured])
@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize(
    ("taps", "forgetting"),
    [
        *((taps, forgetting) for taps in (4, 5, 16) for forgetting in (0.95, 0.99, 0.999, 1.0)),
        (64, 0.95),
        (64, 0.999),
        (128, 0.99),
    ],
)
def test_rls_weights_are_the_least_squares_solution(
    taps: int, forgetting: float, references: int, colour: Callable[..., Values]
) -> None:
    samples = 3000
    noise = colour(samples + taps, references)
    target = white(samples + taps, seed=9) + through(paths(20, references), noise)
    adaptive, begin = Rls(references, taps, forgetting, *TEXTBOOK), 0
    for count in (taps // 2, 3 * taps, 1000, samples):
        end = taps - 1 + count
        adaptive.clean(target[begin:end], noise[:, begin:end])
        expected = least_squares(target, noise, taps, forgetting, count)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(adaptive.weights, expected, rtol=0, atol=1e-6 * scale)
        # The error of the next sample is what these weights do not predict.
        begin = end + 1
        error = adaptive.clean(target[end:begin], noise[:, end:begin])
        left = target[end] - expected.ravel() @ window(noise, taps, end)
        assert error[-1] == pytest.approx(left, abs=1e-6 * scale * np.abs(noise).max() * taps)


@pytest.mark.parametrize("colour", [white, coloured])
@pytest.mark.parametrize(
    ("taps", "references", "forgetting"),
    [(4, 2, 0.95), (128, 1, 0.95), (32, 2, 0.99), (128, 1, 0.999), (16, 1, 0.999), (16, 1, 1.0)],
)
def test_rls_weights_after_a_long_time(
    taps: int, references: int, forgetting: float, colour: Callable[..., Values]
) -> None:
    samples = repeats(20_000, stress=100_000)
    noise = colour(samples + taps - 1, references)
    target = white(samples + taps - 1, seed=9) + through(paths(20, references), noise)
    _, weights = applied(Rls, target, noise, taps, forgetting, *TEXTBOOK)
    expected = least_squares(target, noise, taps, forgetting, samples)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize(("taps", "forgetting"), [(7, 0.95), (16, 0.99), (16, 1.0)])
def test_rls_errors_equal_the_textbook_recursion(
    taps: int, forgetting: float, references: int
) -> None:
    noise = white(3000, references)
    target = white(3000, seed=9) + through(paths(9, references), noise)
    covariance = np.eye(references * taps) / REGULARISATION

    def step(error: float, newest: Values) -> Values:
        nonlocal covariance
        along = covariance @ newest
        gain = along / (forgetting + newest @ along)
        covariance = (covariance - np.outer(gain, along)) / forgetting
        covariance = (covariance + covariance.T) / 2
        return gain * error

    expected, last = looped(target, noise, taps, step)
    error, weights = applied(Rls, target, noise, taps, forgetting, *TEXTBOOK)
    np.testing.assert_allclose(error, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights, last, rtol=0, atol=1e-6)


# Use.


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize(("taps", "lengths"), [(16, [1]), (16, [5, 0, 1]), (13, [1, 40, 7, 300])])
def test_result_does_not_depend_on_blocks(
    name: str, references: int, taps: int, lengths: list[int]
) -> None:
    samples = 1500
    noise = 0.3 * coloured(samples, references) / 5
    noise[:, :100] *= 1e-3
    noise[:, 500:800] = 0
    target = 0.1 * white(samples, seed=9) + through(paths(9, references), noise)
    whole = FILTERS[name](references, taps)
    expected = whole.clean(target, noise)
    pieces, parts = FILTERS[name](references, taps), []
    begin, number = 0, 0
    while begin < samples:
        end = begin + lengths[number % len(lengths)]
        parts.append(pieces.clean(target[begin:end], noise[:, begin:end]))
        begin, number = end, number + 1
    # Equal but for rounding, which the fit to the first samples after a silence amplifies.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(
        pieces.weights, whole.weights, rtol=0, atol=1e-6 * np.abs(whole.weights).max()
    )


def test_settings_make_their_filter() -> None:
    noise, target = 0.1 * white(2000, 2), 0.1 * white(2000, seed=1)
    for settings, kind, value in (
        (LmsSettings(8, 0.3), Lms, 0.3),
        (NlmsSettings(8, 0.3), Nlms, 0.3),
        (RlsSettings(8, 0.99), Rls, 0.99),
    ):
        error, weights = applied(kind, target, noise, 8, value)
        made = settings.make(2)
        np.testing.assert_array_equal(made.clean(target, noise), error)
        np.testing.assert_array_equal(made.weights, weights)


@pytest.mark.parametrize("taps", [8, 11])
def test_two_paths_from_two_references_are_found(taps: int) -> None:
    noise = white(20_000, 2)
    path = np.zeros((2, taps))
    path[0, :3] = 0.5, -0.3, 0.2
    path[1, 2:7] = 1.0, 0.0, -0.7, 0.1, 0.4
    target = through(path, noise)
    found = {
        "lms": applied(Lms, target, noise, taps, 0.2 * largest_lms_rate(noise, taps)),
        "nlms": applied(Nlms, target, noise, taps, 0.5),
        "rls": applied(Rls, target, noise, taps, 0.999),
    }
    for error, weights in found.values():
        assert weights.shape == (2, taps)
        np.testing.assert_allclose(weights, path, rtol=0, atol=1e-8)
        assert np.abs(error[-1000:]).max() < 1e-7


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("samples", [0, 1, 15])
def test_fewer_samples_than_taps_stay_unchanged(name: str, samples: int) -> None:
    target = white(samples)
    error = short(name, target, white(samples, seed=1), 16)
    np.testing.assert_array_equal(error, target)
    assert not np.shares_memory(error, target)


@pytest.mark.parametrize("name", SETTINGS)
def test_silent_reference_changes_nothing(name: str) -> None:
    target = white(30_000)
    np.testing.assert_array_equal(short(name, target, np.zeros(30_000), 16), target)


@pytest.mark.parametrize("forgetting", [0.5, 0.95, 0.999, 1.0])
def test_rls_learns_nothing_from_silence(forgetting: float) -> None:
    target = white(30_000)
    error, weights = applied(Rls, target, np.zeros((2, 30_000)), 9, forgetting)
    np.testing.assert_array_equal(error, target)
    np.testing.assert_array_equal(weights, np.zeros((2, 9)))


@pytest.mark.parametrize("name", SETTINGS)
def test_scaling_the_target_scales_the_error(name: str) -> None:
    noise = white(5000)
    target = notes(5000, 1) + through(paths(9, 1), noise[None])
    error = short(name, target, noise, 16)
    np.testing.assert_allclose(short(name, -3 * target, noise, 16), -3 * error, atol=1e-10)


@pytest.mark.parametrize("name", ["nlms", "rls"])
@pytest.mark.parametrize("scale", [1e-3, 30_000.0])
def test_level_of_the_reference_does_not_matter(name: str, scale: float) -> None:
    noise = white(20_000)
    target = notes(20_000, 1) + through(paths(9, 1), noise[None])
    error = short(name, target, noise, 16)
    scaled = short(name, target, scale * noise, 16)
    # The initial regularisation depends on the level, and is soon forgotten.
    np.testing.assert_allclose(scaled[-2000:], error[-2000:], atol=2e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_inputs_of_any_layout_are_not_modified(name: str) -> None:
    noise = white(2000, 2)
    target = white(2000, seed=1)
    expected = short(name, target, noise, 8)
    before = target.copy(), noise.copy()
    target.flags.writeable = noise.flags.writeable = False
    error = short(name, target, noise, 8)
    np.testing.assert_array_equal(error, expected)
    assert error.dtype == np.float64
    assert error.flags.writeable
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(noise, before[1])
    # Columns of one array, reversed arrays, and lists.
    columns = np.stack([target, *noise], axis=1)
    np.testing.assert_array_equal(short(name, columns[:, 0], columns[:, 1:].T, 8), expected)
    backwards = noise[:, ::-1].copy()[:, ::-1]
    np.testing.assert_array_equal(short(name, target, backwards, 8), expected)
    np.testing.assert_array_equal(short(name, target.tolist(), noise.tolist(), 8), expected)
    # Single precision is converted to double.
    single = short(name, target.astype(np.float32), noise.astype(np.float32), 8)
    assert single.dtype == np.float64
    doubled = short(
        name, target.astype(np.float32).astype(float), noise.astype(np.float32).astype(float), 8
    )
    np.testing.assert_array_equal(single, doubled)


def test_returned_weights_are_a_copy() -> None:
    for make in FILTERS.values():
        one, other = make(1, 4), make(1, 4)
        for adaptive in (one, other):
            adaptive.clean(white(50), white(50, seed=1))
        one.weights[:] = 7
        again = one.clean(white(50, seed=2), white(50, seed=3))
        np.testing.assert_array_equal(again, other.clean(white(50, seed=2), white(50, seed=3)))


# Purpose.


def test_recorded_noise_is_removed_from_music() -> None:
    """Noise as loud as the music, through an unknown path of 16 taps.

    To the filter, the music is noise. In theory the residual noise over the power of the music is
    rate / (2 - rate) for NLMS, taps * (1 - forgetting) / (1 + forgetting) for RLS, and taps * rate
    * (the reference's power) for LMS. Here each is 1/1000 or less, so 30 dB below music and noise.
    NLMS converges by a factor of e in taps / (2 * rate) = 8000 samples; RLS remembers 10 000.
    """
    samples, taps = 220_500, 16
    music = notes(samples, 3)
    noise = white(samples)
    heard = through(paths(taps, 1), noise[None])
    heard *= np.sqrt(np.sum(music**2) / np.sum(heard**2))
    errors = {
        "lms": error_of(Lms, music + heard, noise, taps, 1e-3 / taps / 2),
        "nlms": error_of(Nlms, music + heard, noise, taps, 1e-3),
        "rls": error_of(Rls, music + heard, noise, taps, 0.9999),
    }
    settled = slice(samples // 2, None)
    assert power_ratio_db(music[settled], heard[settled]) == pytest.approx(0, abs=1)
    for name, error in errors.items():
        reduction = power_ratio_db(heard[settled], (error - music)[settled])
        assert reduction > 25, name


def test_rls_follows_a_path_that_changes() -> None:
    noise = white(20_000, 1)
    before, after = paths(16, 1), paths(16, 1, seed=1)
    target = np.where(
        np.arange(20_000) < 10_000, through(before, noise), through(after, noise)
    ) + 1e-3 * white(20_000, seed=1)
    error, weights = applied(Rls, target, noise, 16, 0.99)
    assert np.std(error[9000:10_000]) < 2e-3
    assert np.abs(error[10_000:10_100]).max() > 0.1
    assert np.std(error[12_000:]) < 2e-3
    np.testing.assert_allclose(weights, after, atol=2e-3)


# Stability.


def test_rls_is_stable_for_hours_with_silences() -> None:
    taps, stretch, silence = 16, 30 * RATE_HZ, 10 * RATE_HZ
    path = paths(taps, 1)
    adaptive = Rls(1, taps, 0.999)
    rng = np.random.default_rng(0)
    heard = 0
    while heard < repeats(1_000_000, stress=10_000_000):
        noise = np.zeros((1, stretch + silence))
        noise[0, :stretch] = 0.3 * lfilter([1], [1, -0.9], rng.standard_normal(stretch))
        noise = quantised(noise)
        target = through(path, noise) + 1e-3 * rng.standard_normal(noise.shape[1])
        error = adaptive.clean(target, noise)
        assert np.isfinite(error).all()
        # The fit to the first samples after a silence is too close, but bounded.
        assert np.abs(error).max() < 100
        assert np.std(error[stretch // 2 : stretch]) < 1.2e-3
        np.testing.assert_allclose(adaptive.weights, path, atol=5e-3)
        heard += len(target)


@pytest.mark.parametrize("kind", ["coloured", "tones", "one tone", "notes", "steps"])
@pytest.mark.parametrize(("taps", "forgetting"), [(128, 0.95), (126, 0.999), (26, 0.5)])
def test_rls_is_stable_with_ill_conditioned_references(
    kind: str, taps: int, forgetting: float
) -> None:
    samples = repeats(20_000, stress=60_000)
    at = np.arange(samples)
    sound = {
        "coloured": lambda: lfilter([1], [1, -1.9, 0.95], white(samples)) / 50,
        "tones": lambda: sum(np.sin(pitch * at) for pitch in (0.05, 0.1, 0.31, 1.3)) / 5,
        "one tone": lambda: 0.9 * np.sin(0.1 * at),
        "notes": lambda: notes(samples, 1),
        "steps": lambda: np.repeat(white(samples // 1000), 1000) / 4,
    }[kind]()
    noise = quantised(sound)[None]
    target = quantised(notes(samples, 2) + through(paths(9, 1), noise))
    error, weights = applied(Rls, target, noise, taps, forgetting)
    assert np.isfinite(error).all()
    # The regularisation by 1e-11 of the energy bounds the weights.
    assert np.abs(weights).max() < 1e6
    assert np.abs(error).max() < 1e5


@pytest.mark.parametrize("taps", [5, 6, 7, 8])
@pytest.mark.parametrize("forgetting", [0.5, 0.9])
def test_rls_is_stable_for_any_number_of_taps(taps: int, forgetting: float) -> None:
    noise = white(20_000, 1)
    target = through(paths(5, 1), noise)
    error, weights = applied(Rls, target, noise, taps, forgetting)
    assert np.abs(error[1000:]).max() < 1e-12
    np.testing.assert_allclose(weights[0, :5], paths(5, 1)[0], atol=1e-12)


def test_rls_is_stable_with_more_weights_than_memory() -> None:
    noise = white(1600, 1)
    noise[:, 700:1000] = 0
    target = through(paths(5, 1), noise)
    error, weights = applied(Rls, target, noise, 300, 0.5)
    # Each sample determines one weight of many, so earlier knowledge has to last.
    assert np.abs(error).max() < 10 * np.abs(target).max()
    assert np.abs(weights).max() < 10


@pytest.mark.parametrize(("taps", "forgetting"), [(16, 0.999), (128, 0.99), (9, 0.95)])
@pytest.mark.parametrize("blocks", [1, 30])
def test_path_is_found_after_long_silence(taps: int, forgetting: float, blocks: int) -> None:
    silent, samples = 60_000, 90_000
    noise = np.zeros((1, samples))
    noise[:, silent:] = 0.3 * white(samples - silent)
    path = paths(9, 1)
    target = through(path, noise)
    target[:silent] = notes(silent, 1)
    adaptive = Rls(1, taps, forgetting)
    error = np.concatenate(
        [
            adaptive.clean(*part)
            for part in zip(np.split(target, blocks), np.split(noise, blocks, axis=1), strict=True)
        ]
    )
    np.testing.assert_array_equal(error[:silent], target[:silent])
    # The regularisation at the beginning keeps the fit to the first samples from being too close.
    assert np.abs(error).max() < 1.5 * np.abs(target).max()
    assert np.abs(error[silent + 1000 :]).max() < 5e-3
    assert np.abs(error[silent + 20_000 :]).max() < 1e-6
    np.testing.assert_allclose(adaptive.weights[0, :9], path[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("silent", [1, 100, 200_000])
def test_rls_starts_at_the_first_sound(silent: int) -> None:
    taps = 9
    noise = np.concatenate([np.zeros((2, silent)), white(2000, 2)], axis=1)
    target = white(silent + 2000, seed=1) + through(paths(9, 2), noise)
    begin = max(0, silent - taps + 1)
    error = error_of(Rls, target, noise, taps, 0.99)
    np.testing.assert_array_equal(error[:silent], target[:silent])
    np.testing.assert_array_equal(
        error[begin:], error_of(Rls, target[begin:], noise[:, begin:], taps, 0.99)
    )


def test_extremely_quiet_references_are_silence() -> None:
    target = white(100_000)
    for level in (1e-60, 1e-160, 5e-324):
        error, weights = applied(Rls, target, level * white(100_000, seed=1), 5, 0.95)
        np.testing.assert_array_equal(error, target)
        np.testing.assert_array_equal(weights, np.zeros((1, 5)))


# Levels and limits.


@pytest.mark.parametrize("name", ["nlms", "rls"])
def test_known_levels_protect_from_a_quiet_beginning(name: str) -> None:
    kind, setting = SETTINGS[name]
    noise = white(30_000)
    noise[:10_000] *= 1e-4
    target = white(30_000, seed=1)
    known = kind(1, 16, setting, levels=[float(np.mean(noise**2))])
    known.clean(target[:10_000], noise[:10_000])
    assert np.abs(known.weights).max() < 0.5
    unknown = kind(1, 16, setting)
    unknown.clean(target[:10_000], noise[:10_000])
    assert np.abs(unknown.weights).max() > 10
    # When the level rises, RLS trusts weights less that were found at a lower level.
    for adaptive in (known, unknown) if name == "rls" else (known,):
        error = adaptive.clean(target[10_000:], noise[10_000:])
        assert np.abs(error).max() < 5 * np.abs(target).max()


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("blocks", [1, 40])
def test_filter_starts_again_where_an_error_exceeds_its_limit(name: str, blocks: int) -> None:
    noise, at = white(2000, 1), 1203
    target = white(2000, seed=1)
    limit = np.full(2000, np.inf)
    limit[at] = 0
    adaptive = FILTERS[name](1, 8)
    signals = (target, noise, limit)
    parts = zip(*(np.split(signal, blocks, axis=-1) for signal in signals), strict=True)
    error = np.concatenate([adaptive.clean(*part) for part in parts])
    assert adaptive.resets == 1
    whole = FILTERS[name](1, 8)
    np.testing.assert_allclose(error[:at], whole.clean(target[:at], noise[:, :at]), atol=1e-9)
    # The sample itself and the next one are those of the target: all weights are zero.
    np.testing.assert_array_equal(error[at : at + 2], target[at : at + 2])
    assert np.abs(error[at + 2 : at + 10] - target[at + 2 : at + 10]).max() > 0


UNCACHED = """
import logging, sys
import numpy as np
logging.basicConfig(level="INFO", stream=sys.stdout)
import sop.denoise.adaptive as adaptive
adaptive.COMPILING_SECONDS = 0.0
print(adaptive.Lms(1, 2, 0.1).clean(np.ones(4), np.ones(4)))
"""


@pytest.mark.slow
def test_filters_work_where_nothing_is_writable_and_say_that_they_are_compiled() -> None:
    # This class finds no folder, as the usual ones do if neither package nor home is writable.
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    environment.pop("NUMBA_CACHE_DIR", None)
    shown = subprocess.run(
        [sys.executable, "-c", UNCACHED], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "compiling the lms filter" in shown.stdout
    assert "[1. " in shown.stdout


# Errors.


@pytest.mark.parametrize("name", SETTINGS)
def test_signals_that_do_not_match_are_errors(name: str) -> None:
    with pytest.raises(FilterError, match=r"target \(9,\) and references \(1, 10\) differ"):
        short(name, np.ones(9), np.ones(10), 4)
    with pytest.raises(FilterError, match=r"lengths .* differ"):
        short(name, np.ones((2, 9)), np.ones((2, 9)), 4)
    with pytest.raises(FilterError, match="no reference"):
        short(name, np.ones(9), np.ones((0, 9)), 4)
    with pytest.raises(FilterError, match="0 taps"):
        short(name, np.ones(9), np.ones(9), 0)
    with pytest.raises(FilterError, match="2 references, expected 1"):
        FILTERS[name](1, 4).clean(np.ones(9), np.ones((2, 9)))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_invalid_samples_are_errors(name: str, value: float) -> None:
    broken = np.ones(100)
    broken[70] = value
    with pytest.raises(FilterError, match="a sample of the target is not finite"):
        short(name, broken, np.ones(100), 4)
    with pytest.raises(FilterError, match="a sample of the references is not finite"):
        short(name, np.ones(100), np.stack([np.ones(100), broken]), 4)


def test_lms_rate_limit() -> None:
    noise = white(10_000, 2) * np.linspace(0.1, 1, 10_000)
    target = white(10_000, seed=1)
    largest = largest_lms_rate(noise, 32)
    most = max(np.sum(window(noise, 32, n) ** 2) for n in range(31, 10_000))
    assert largest == pytest.approx(1 / most, rel=1e-9)
    for rate in (1.001 * largest, 1.0, 1e6):
        with pytest.raises(FilterError, match="diverges") as refusal:
            error_of(Lms, target, noise, 32, rate)
        named = re.search(r"must be below (\S+), or use nlms", str(refusal.value))
        assert named is not None
        assert 0.99 * largest < float(named[1]) <= largest
    error = error_of(Lms, target, noise, 32, 0.999 * largest)
    assert np.abs(error).max() < 100 * np.abs(target).max()
    assert np.std(error[-1000:]) < 10


def test_lms_allows_any_rate_for_silence() -> None:
    assert largest_lms_rate(np.zeros(100), 4) == np.inf
    assert largest_lms_rate(np.ones(3), 4) == np.inf
    np.testing.assert_array_equal(error_of(Lms, np.ones(100), np.zeros(100), 4, 1e9), np.ones(100))


def test_diverging_block_changes_nothing() -> None:
    adaptive, other = Lms(1, 8, 0.02), Lms(1, 8, 0.02)
    first, second = white(200), white(200, seed=1)
    for each in (adaptive, other):
        each.clean(first, second)
    with pytest.raises(FilterError, match="diverges"):
        adaptive.clean(first, 100 * second)
    np.testing.assert_array_equal(adaptive.clean(second, first), other.clean(second, first))


@pytest.mark.parametrize("rate", [0.0, -0.1, np.nan, np.inf])
def test_rates_that_are_not_positive_are_errors(rate: float) -> None:
    for kind in (Lms, Nlms):
        with pytest.raises(FilterError, match="rate"):
            kind(1, 2, rate)


def test_nlms_rate_limit() -> None:
    noise = white(50_000)
    target = white(50_000, seed=1)
    for rate in (2.0, 2.5):
        with pytest.raises(FilterError, match="must be below 2"):
            error_of(Nlms, target, noise, 16, rate)
    assert np.abs(error_of(Nlms, target, noise, 16, 1.99)).max() < 100
    with pytest.raises(FilterError, match="regularisation 0: must be a positive number"):
        error_of(Nlms, target, noise, 16, 0.5, 0.0)


@pytest.mark.parametrize("forgetting", [0.49, -0.99, 1.0001, np.nan, np.inf])
def test_rls_forgetting_limits(forgetting: float) -> None:
    with pytest.raises(FilterError, match=r"forgetting .*: must be from 0\.5 to 1"):
        error_of(Rls, np.ones(9), np.ones(9), 2, forgetting)
    with pytest.raises(FilterError, match="regularisation -1: must be 0 or a positive number"):
        error_of(Rls, np.ones(9), np.ones(9), 2, 0.9, -1.0)


def test_too_many_weights_are_an_error() -> None:
    taps = MAX_RLS_WEIGHTS // 2
    with pytest.raises(FilterError, match=f"{3 * taps} weights .* at most {MAX_RLS_WEIGHTS}"):
        error_of(Rls, np.ones(9), np.ones((3, 9)), taps, 0.999)
    with pytest.raises(FilterError, match="use NLMS for longer filters"):
        Rls(1000, 10**9, 0.999)
    error_of(Nlms, np.ones(9), np.ones((3, 9)), taps, 0.5)
