from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from sop.denoise.adaptive import Rls, largest_lms_rate
from sop.denoise.guard import GuardedFilter, Kept, most_kept, total_kept
from sop.denoise.settings import FilterSettings, LmsSettings, NlmsSettings, RlsSettings
from tests.support.stress import repeats

pytestmark = pytest.mark.usefixtures("one_thread")

Values = NDArray[np.float64]

# The bound on the energy of the result over that of the target, in any 50 ms.
BOUND_DB = 6.0
WINDOW_SECONDS = 0.05
# Mean power that is added to both, -120 dB relative to full scale.
SILENCE = 1e-12

FILTERS = [RlsSettings(64, 0.9999), NlmsSettings(64, 0.01), NlmsSettings(64, 0.5)]


class Case(NamedTuple):
    """A recording and its references."""

    target: Values
    references: Values
    rate: int


def guarded(
    case: Case, settings: FilterSettings, levels_known: bool = True
) -> tuple[Values, Kept, Values]:
    """Return the guarded result, what was kept, and the result without guard."""
    levels = np.mean(case.references**2, axis=1).tolist() if levels_known else None
    count = len(case.references)
    one = GuardedFilter(settings.make(count, levels), case.rate)
    result = np.concatenate([one.clean(case.target, case.references), one.finish()])
    assert result.shape == case.target.shape
    return result, one.kept, settings.make(count, levels).clean(case.target, case.references)


def worst_excess(result: Values, target: Values, rate: int) -> float:
    """Return the largest energy over that of the target in 50 ms, dB, at steps of 1 ms."""
    window = round(WINDOW_SECONDS * rate)
    sums = np.cumsum([result**2 + SILENCE, target**2 + SILENCE], axis=1)
    after, before = (sums[:, window:] - sums[:, :-window])[:, :: max(1, rate // 1000)]
    return float(10 * np.log10((after / before).max()))


def references(kind: str, samples: int, rate: int, rng: np.random.Generator) -> Values:
    """Return noise whose level changes in one of the ways that once made bursts, (K, L)."""
    noise = rng.standard_normal((rng.integers(1, 3), samples))
    colour = rng.random()
    if colour < 0.4:
        noise = lfilter([1], [1, -0.95], noise) / 3
    elif colour < 0.5:
        noise[:] = np.sin(np.arange(samples) * rng.uniform(0.01, 1))
    noise *= 0.3 * 10 ** (rng.uniform(-120, 0) / 20)
    begin, end = sorted(rng.integers(0, samples, 2))
    factor = 10 ** (rng.uniform(-120, 0) / 20)
    if kind == "quiet at first":
        noise[:, :begin] *= factor
    elif kind == "quiet in the middle":
        noise[:, begin:end] *= factor
    elif kind == "louder":
        noise[:, begin:] *= 10 ** (rng.uniform(0, 60) / 20)
    elif kind == "silent at first":
        noise[:, :begin] = 0
    elif kind == "silent in the middle":
        noise[:, begin:end] = 0
    elif kind == "clicks":
        noise[:, rng.integers(0, samples, rng.integers(1, 6))] += rng.uniform(-1, 1)
    elif kind == "step":
        noise[:, begin:] += rng.uniform(-1, 1)
    elif kind == "dither":
        noise[:, :begin] *= factor
        noise = np.round(noise * 32768 + rng.random(noise.shape) - 0.5) / 32768
    return noise


def wanted(kind: str, samples: int, rng: np.random.Generator) -> Values:
    at = np.arange(samples)
    sound = {
        "tone": np.sin(at * rng.uniform(0.01, 1)),
        "noise": 0.3 * rng.standard_normal(samples),
        "notes": np.sin(0.1 * at) * np.exp(-(at % 2000) / 300),
        "gated": np.sin(0.05 * at) * (at % 4000 < 1000),
        "silence": np.zeros(samples),
    }[kind]
    return np.asarray(sound * 10 ** (rng.uniform(-80, 0) / 20))


KINDS = (
    "quiet at first",
    "quiet in the middle",
    "louder",
    "silent at first",
    "silent in the middle",
    "clicks",
    "step",
    "dither",
    "steady",
)


def random_case(rng: np.random.Generator) -> Case:
    """Return levels from -120 to 0 dB, delays of 20 ms either way, silences, clicks, steps."""
    rate = int(rng.choice([8000, 11025, 16000]))
    samples = round(1.5 * rate)
    noise = references(str(rng.choice(KINDS)), samples, rate, rng)
    sound = wanted(str(rng.choice(["tone", "noise", "notes", "gated", "silence"])), samples, rng)
    paths = rng.standard_normal((len(noise), 40)) * np.exp(-np.arange(40) / 8)
    heard = sum(lfilter(path, [1], one) for path, one in zip(paths, noise, strict=True))
    if rng.random() < 0.3:
        heard = np.zeros(samples)
    elif heard.any() and sound.any() and rng.random() < 0.7:
        heard *= np.std(sound) / np.std(heard) * 10 ** (rng.uniform(-20, 20) / 20)
    target = sound + heard
    begin, end = sorted(rng.integers(0, samples, 2))
    change = rng.random()
    if change < 0.1:
        target[begin:end] = 0
    elif change < 0.2:
        target[begin:] += rng.uniform(-0.5, 0.5)
    elif change < 0.3:
        target[begin] += 1
    elif change < 0.4:
        target[begin:end] *= 10 ** (rng.uniform(-80, 0) / 20)
    delay = round(rng.uniform(-0.02, 0.02) * rate)
    noise = np.roll(noise, delay, axis=1)
    return Case(
        target.astype(np.float32).astype(float), noise.astype(np.float32).astype(float), rate
    )


def random_settings(case: Case, rng: np.random.Generator) -> FilterSettings:
    taps = int(rng.choice([1, 4, 16, 64, 128]))
    kind = rng.choice(["rls", "rls", "nlms", "nlms", "lms"])
    if kind == "rls":
        return RlsSettings(taps, float(rng.choice([0.9, 0.99, 0.999, 0.9999, 1.0])))
    if kind == "nlms":
        return NlmsSettings(taps, float(rng.choice([0.001, 0.01, 0.1, 0.5, 1.0, 1.9])))
    largest = min(largest_lms_rate(case.references, taps), 1e9)
    return LmsSettings(taps, largest * float(rng.uniform(0.001, 0.99)))


def test_result_is_never_much_louder_than_the_target() -> None:
    count = repeats(20, stress=1000)
    bursts = 0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        case = random_case(rng)
        settings = random_settings(case, rng)
        result, _, raw = guarded(case, settings, levels_known=bool(rng.random() < 0.6))
        assert worst_excess(result, case.target, case.rate) <= BOUND_DB, (seed, settings)
        bursts += worst_excess(raw, case.target, case.rate) > BOUND_DB
    # The cases are hard enough that the bound needs the guard.
    assert bursts > count / 20


def room(name: str) -> Case:
    """Return a tone in noise, and a recording of the noise whose level changes."""
    rate, rng = 11025, np.random.default_rng(1)
    samples = 4 * rate
    noise = 0.1 * rng.standard_normal(samples)
    tone = 0.1 * np.sin(np.arange(samples) * 0.24)
    if name == "silent at first":
        noise[:rate] = 0
    elif name == "-80 dB at first":
        noise[:rate] *= 1e-4
    elif name == "-120 dB at first":
        noise[:rate] *= 1e-6
    elif name == "-80 dB in the middle":
        noise[rate : 2 * rate] *= 1e-4
    elif name == "1000 times louder":
        noise[:rate] *= 1e-3
    reference = noise + 1e-4 * rng.standard_normal(samples)
    if name == "10 ms late":
        reference = np.roll(reference, round(0.01 * rate))
    elif name == "dither at first":
        noise[:rate] = 0
        reference = np.round(noise * 32768 + rng.random(samples) - 0.5) / 32768
    return Case(tone + 0.5 * noise, reference[None], rate)


@pytest.mark.parametrize("settings", FILTERS, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "silent at first",
        "-80 dB at first",
        "-120 dB at first",
        "-80 dB in the middle",
        "1000 times louder",
        "10 ms late",
        "dither at first",
    ],
)
def test_regularisation_prevents_bursts(name: str, settings: FilterSettings) -> None:
    case = room(name)
    _, kept, raw = guarded(case, settings)
    # The guard has next to nothing to do.
    assert kept.seconds < 0.05
    assert kept.restarts == 0
    assert worst_excess(raw, case.target, case.rate) < 4
    assert np.abs(raw).max() < 2.5 * np.abs(case.target).max()


@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_noise_is_removed_after_a_quiet_beginning(settings: FilterSettings) -> None:
    case = room("-80 dB at first")
    tone = 0.1 * np.sin(np.arange(len(case.target)) * 0.24)
    settled = slice(3 * case.rate, None)
    for known in (True, False):
        result, _, _ = guarded(case, settings, known)
        left = np.sum((result - tone)[settled] ** 2) / np.sum((case.target - tone)[settled] ** 2)
        assert 10 * np.log10(left) < (0 if settings == FILTERS[2] else -15)


def healthy() -> Case:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((2, 20_000))
    tone = 0.1 * np.sin(0.2 * np.arange(20_000))
    return Case(tone + lfilter([0.3, 0.2], [1], noise[0]) + 0.4 * noise[1], noise, 11025)


@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_guard_does_not_change_a_result_that_is_not_louder(settings: FilterSettings) -> None:
    case = healthy()
    adaptive = settings.make(len(case.references), None)
    errors: list[Values] = []
    clean = adaptive.clean

    def recorded(*arguments: Any) -> Values:
        errors.append(clean(*arguments))
        return errors[-1]

    adaptive.clean = recorded  # type: ignore[method-assign]
    guard = GuardedFilter(adaptive, case.rate)
    result = np.concatenate([guard.clean(case.target, case.references), guard.finish()])
    np.testing.assert_array_equal(result, np.concatenate(errors))
    # Another division into blocks may round differently.
    whole = settings.make(len(case.references), None).clean(case.target, case.references)
    np.testing.assert_allclose(result, whole, rtol=1e-12, atol=1e-15)
    kept = guard.kept
    assert kept == Kept()
    assert not kept
    assert str(kept) == ""


def jumpy() -> Case:
    """Return unrelated noises; twice the reference becomes 60 dB louder."""
    rng = np.random.default_rng(3)
    noise = 1e-3 * rng.standard_normal((1, 20_000))
    noise[:, 6000:9000] *= 1e3
    noise[:, 15_000:] *= 1e3
    return Case(0.1 * np.sin(0.2 * np.arange(20_000)), noise, 8000)


@pytest.mark.parametrize("lengths", [[60, 1], [7, 0, 1000], [30_000]])
@pytest.mark.parametrize("settings", [RlsSettings(4, 0.99), NlmsSettings(8, 1.9)], ids=str)
def test_result_does_not_depend_on_blocks(lengths: list[int], settings: FilterSettings) -> None:
    case = jumpy()
    expected, kept, _ = guarded(case, settings, levels_known=False)
    assert kept
    one = GuardedFilter(settings.make(1), case.rate)
    parts, begin, number = [], 0, 0
    while begin < len(case.target):
        end = begin + lengths[number % len(lengths)]
        parts.append(one.clean(case.target[begin:end], case.references[:, begin:end]))
        begin, number = end, number + 1
    parts.append(one.finish())
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-9)
    assert one.kept.restarts == kept.restarts
    assert one.kept.seconds == kept.seconds
    assert one.kept.decibels == pytest.approx(kept.decibels)


def test_target_is_kept_where_the_filter_fails() -> None:
    case = jumpy()
    result, kept, raw = guarded(case, NlmsSettings(32, 0.5), levels_known=False)
    assert worst_excess(raw, case.target, case.rate) > 20
    assert worst_excess(result, case.target, case.rate) <= BOUND_DB
    assert kept.restarts > 0
    assert np.abs(result).max() < 4 * np.abs(case.target).max()


def test_transitions_make_no_clicks() -> None:
    rate = 8000
    at = np.arange(2 * rate)
    noise = 0.1 * np.sin(0.1 * at)
    # The noise ends in the target only. Until the filter has forgotten it, it adds the noise.
    case = Case(0.01 * np.sin(0.31 * at) + noise * (at < rate), noise[None], rate)
    result, kept, raw = guarded(case, LmsSettings(1, 0.1))
    assert worst_excess(raw, case.target, case.rate) > 10
    assert kept.seconds > 0.05
    end = slice(rate + 10, None)
    steps = [np.abs(np.diff(sound[end])).max() for sound in (result, raw, case.target)]
    assert steps[0] <= max(steps[1:])


@pytest.mark.parametrize("samples", [0, 1, 30, 250])
def test_short_sounds(samples: int) -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal(samples)
    one = GuardedFilter(Rls(1, 16, 0.99), 8000)
    result = np.concatenate([one.clean(target, rng.standard_normal((1, samples))), one.finish()])
    assert len(result) == samples
    np.testing.assert_array_equal(result[:15], target[:15])


def test_silent_target_stays_silent() -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal(8000)
    target[4000:] = 0
    result, kept, raw = guarded(Case(target, rng.standard_normal((1, 8000)), 8000), FILTERS[2])
    assert np.abs(raw[4300:]).max() > 0.01
    assert np.abs(result[4300:]).max() < 1e-5
    assert kept.seconds > 0.1
    assert np.isfinite(kept.decibels)


def descriptions() -> Iterator[tuple[Kept, str]]:
    yield (
        Kept(0.123, 61.7, 2),
        "unchanged for 0.12 s, where the filter would have made it up to 62 dB louder; "
        "the filter started again 2 times",
    )
    yield Kept(0, 0, 1), "the filter started again once"
    yield (
        Kept(2, 5.1, 0),
        "unchanged for 2.00 s, where the filter would have made it up to 5 dB louder",
    )


def test_what_was_kept_is_described() -> None:
    for kept, text in descriptions():
        assert str(kept) == text
    both = [Kept(1, 5, 2), Kept(3, 4, 1)]
    assert most_kept(both) == Kept(3, 5, 3)
    assert total_kept(both) == Kept(4, 5, 3)
    assert most_kept([]) == total_kept([]) == Kept()
