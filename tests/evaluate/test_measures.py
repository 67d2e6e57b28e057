import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sop.evaluate.measures import UnmeasurableError, bss_eval, measure, si_sdr, summarise
from sop.media.ffmpeg import binary
from tests.support.experiment import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

Sounds = NDArray[np.float64]

DECIBELS = 0.01
SAMPLES = 6000


def mir_eval_scores(references: Sounds, estimates: Sounds) -> list[Sounds]:
    """Return SDR, SIR and SAR by mir_eval."""
    from mir_eval.separation import bss_eval_sources

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(bss_eval_sources(references, estimates, compute_permutation=False)[:3])


def assert_scores_equal_mir_eval(references: Sounds, estimates: Sounds) -> None:
    ours = bss_eval(references, estimates)
    for name, expected in zip(ours._fields, mir_eval_scores(references, estimates), strict=True):
        np.testing.assert_allclose(getattr(ours, name), expected, atol=DECIBELS, err_msg=name)


def leaky(references: Sounds, rng: np.random.Generator) -> Sounds:
    """Return estimates with leakage, a filter, a delay and noise."""
    leak = np.eye(len(references)) + 0.3 * rng.random((len(references),) * 2)
    mixed = leak @ references
    echo = np.roll(mixed, 5, axis=-1)
    noise = 0.05 * references.std() * rng.standard_normal(mixed.shape)
    return 0.7 * mixed - 0.4 * echo + noise


def coloured(sources: int, rng: np.random.Generator) -> Sounds:
    """Return noise of a different spectrum for each source."""
    noise = rng.standard_normal((sources, SAMPLES))
    return np.stack([sound + (n + 1) * np.roll(sound, n + 1) for n, sound in enumerate(noise)])


@pytest.fixture(scope="module")
def real_sounds(music_clips: list[Path]) -> Sounds:
    """Return the beginnings of clips of four instruments."""
    by_instrument = {path.parent.name: path for path in music_clips}
    chosen = [by_instrument[name] for name in ("cello", "flute", "tuba", "xylophone")]
    sounds = []
    for path in chosen:
        decoded = subprocess.run(
            [
                *(binary(), "-v", "error", "-ss", "1", "-i", path),
                *("-ac", "1", "-ar", "11025", "-f", "f32le", "-"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        ).stdout
        sounds.append(np.frombuffer(decoded, "<f4")[:SAMPLES].astype(np.float64))
    return np.stack(sounds)


@pytest.mark.parametrize("pair", [(0, 1), (3, 2)])
def test_bss_eval_equals_mir_eval_on_real_clips(real_sounds: Sounds, pair: tuple[int, int]) -> None:
    references = real_sounds[list(pair)]
    assert_scores_equal_mir_eval(references, leaky(references, np.random.default_rng(pair)))


@pytest.mark.parametrize("sources", [1, 3])
def test_bss_eval_equals_mir_eval_for_any_number_of_sources(sources: int) -> None:
    rng = np.random.default_rng(sources)
    references = coloured(sources, rng)
    estimates = leaky(references, rng)
    ours = bss_eval(references, estimates)
    sdr, sir, sar = mir_eval_scores(references, estimates)
    np.testing.assert_allclose(ours.sdr, sdr, atol=DECIBELS)
    np.testing.assert_allclose(ours.sar, sar, atol=DECIBELS)
    if sources > 1:
        np.testing.assert_allclose(ours.sir, sir, atol=DECIBELS)
    else:
        # A single source has no interference, so both are infinite but for rounding.
        assert ours.sir > 100
        assert sir > 100


def test_bss_eval_equals_mir_eval_on_near_perfect_estimates() -> None:
    rng = np.random.default_rng(0)
    references = coloured(2, rng)
    for error in (1e-2, 1e-4):
        estimates = references + error * rng.standard_normal(references.shape)
        assert_scores_equal_mir_eval(references, estimates)
        assert bss_eval(references, estimates).sdr.min() > -20 * np.log10(error)


def test_bss_eval_equals_mir_eval_on_swapped_sources() -> None:
    rng = np.random.default_rng(1)
    references = coloured(2, rng)
    estimates = references[::-1] + 0.1 * rng.standard_normal(references.shape)
    assert_scores_equal_mir_eval(references, estimates)
    assert bss_eval(references, estimates).sir.max() < 0


def test_perfect_estimates_stay_finite() -> None:
    references = coloured(2, np.random.default_rng(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for measured in (*bss_eval(references, references), si_sdr(references, references)):
            assert np.isfinite(measured).all()
            assert measured.min() > 100
        assert np.isfinite(bss_eval(references[:1], references[1:]).sir).all()


def test_sources_that_are_copies_of_each_other_stay_finite() -> None:
    sound = coloured(1, np.random.default_rng(3))[0]
    references = np.stack([sound, np.r_[0, sound[:-1]]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scores in bss_eval(references, references + 0.1 * references[:, ::-1]):
            assert np.isfinite(scores).all()


def test_several_sets_at_once_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(4)
    references = coloured(2, rng)
    sets = np.stack([leaky(references, rng) for _ in range(6)]).reshape(2, 3, 2, SAMPLES)
    together = bss_eval(references, sets)
    ratios = si_sdr(references, sets)
    assert together.sdr.shape == ratios.shape == (2, 3, 2)
    for at in np.ndindex(2, 3):
        for all_sets, one_set in zip(together, bss_eval(references, sets[at]), strict=True):
            np.testing.assert_allclose(all_sets[at], one_set, atol=1e-9)
        np.testing.assert_allclose(ratios[at], si_sdr(references, sets[at]), atol=1e-9)


def test_delay_within_the_taps_is_allowed() -> None:
    references = coloured(1, np.random.default_rng(5))
    within, beyond = (np.roll(references, delay, axis=-1) for delay in (12, 40))
    for delayed in (within, beyond):
        delayed[:, :40] = 0
    assert bss_eval(references, within, taps=16).sdr > 15
    assert bss_eval(references, beyond, taps=16).sdr < 0


def test_si_sdr_equals_its_formula() -> None:
    rng = np.random.default_rng(6)
    references = coloured(3, rng) + 2.0
    estimates = leaky(references, rng) - 1.0
    for n, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
        s = reference - np.mean(reference)
        e = estimate - np.mean(estimate)
        target = (e @ s) / (s @ s) * s
        expected = 10 * np.log10((target @ target) / ((e - target) @ (e - target)))
        assert si_sdr(references, estimates)[n] == pytest.approx(expected, abs=1e-9)


def test_measures_ignore_scale() -> None:
    rng = np.random.default_rng(7)
    references = coloured(2, rng)
    estimates = leaky(references, rng)
    expected = si_sdr(references, estimates)
    np.testing.assert_allclose(si_sdr(references, 0.01 * estimates + 3), expected, atol=1e-6)
    np.testing.assert_allclose(si_sdr(7 * references - 1, estimates), expected, atol=1e-6)
    for ours, scaled in zip(
        bss_eval(references, estimates), bss_eval(references, -50 * estimates), strict=True
    ):
        np.testing.assert_allclose(scaled, ours, atol=1e-6)


@pytest.mark.parametrize("measure", [bss_eval, si_sdr])
def test_signals_without_a_measure_are_errors(measure) -> None:  # type: ignore[no-untyped-def]
    sounds = coloured(2, np.random.default_rng(8))
    silent, broken, infinite = sounds.copy(), sounds.copy(), sounds.copy()
    silent[1] = 0
    broken[0, 7] = np.nan
    infinite[1, 0] = np.inf
    for wrong, said in ((silent, "silent"), (broken, "finite"), (infinite, "finite")):
        with pytest.raises(ValueError, match=said):
            measure(wrong, sounds)
        with pytest.raises(ValueError, match=said):
            measure(sounds, wrong)
    for estimates in (sounds[:1], sounds[:, 1:], sounds[0], np.stack([sounds, sounds])[:, :1]):
        with pytest.raises(ValueError, match="do not fit"):
            measure(sounds, estimates)
    with pytest.raises(ValueError, match="do not fit"):
        measure(sounds[0], sounds[0])


def test_sound_shorter_than_the_filter_is_an_error() -> None:
    sounds = coloured(2, np.random.default_rng(9))[:, :511]
    with pytest.raises(ValueError, match=r"511 samples .* 512"):
        bss_eval(sounds, sounds)


def test_si_sdr_of_a_constant_reference_is_an_error() -> None:
    sounds = coloured(2, np.random.default_rng(10))
    constant = sounds.copy()
    constant[0] = 0.25
    with pytest.raises(ValueError, match="constant"):
        si_sdr(constant, sounds)


def quiet_first(gain: float) -> Sounds:
    """Return two sources, the first one scaled."""
    sounds = coloured(2, np.random.default_rng(11))
    sounds[0] *= gain
    return sounds


def test_measures_of_sounding_estimates_are_bss_eval_and_si_sdr() -> None:
    truth = coloured(2, np.random.default_rng(12))
    sets = np.stack([leaky(truth, np.random.default_rng(n)) for n in range(3)])
    found = measure(truth, sets)
    for ours, expected in zip(found[:3], bss_eval(truth, sets), strict=True):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(found.si_sdr, si_sdr(truth, sets))
    assert not found.silent.any()


@pytest.mark.parametrize("value", [0.0, 0.25, np.nan, np.inf])
def test_silent_estimate_scores_as_the_mixture_but_at_most_zero(value: float) -> None:
    truth = quiet_first(0.1)
    mixture = np.broadcast_to(truth.sum(axis=0), truth.shape)
    silent = truth + 0.1 * truth[::-1]
    for at in (0, 1):
        estimates = silent.copy()
        estimates[at] = value
        found, alone, of_mixture = (
            measure(truth, sounds) for sounds in (estimates, silent, mixture)
        )
        assert found.silent.tolist() == [at == 0, at == 1]
        for name in ("sdr", "sir", "si_sdr"):
            ours, best, bound = (getattr(made, name) for made in (found, alone, of_mixture))
            assert ours[at] == pytest.approx(min(0, bound[at]), abs=1e-9)
            assert ours[1 - at] == best[1 - at]
        assert np.isnan(found.sar[at]) and found.sar[1 - at] == alone.sar[1 - at]
    # The mixture is below 0 dB for the quiet source only.
    assert of_mixture.sdr[0] < -10 < 10 < of_mixture.sdr[1]


def test_silence_never_scores_more_than_doing_nothing_or_zero() -> None:
    rng = np.random.default_rng(13)
    for gain in (1e-3, 0.1, 1.0, 10.0):
        truth = quiet_first(gain)
        both = measure(truth, np.stack([np.zeros_like(truth), truth[::-1] + truth]))
        assert (both.sdr[0] <= 0).all() and both.silent[0].all()
        assert (both.sdr[0] <= both.sdr[1] + 1e-9).all()
    cancelling = coloured(1, rng) * np.array([[1], [-1]])
    assert measure(cancelling, np.zeros_like(cancelling)).sdr.tolist() == [0, 0]


def test_silent_truth_cannot_be_measured() -> None:
    truth = coloured(2, np.random.default_rng(14))
    for value, reason in ((0.0, "is silent"), (0.25, "is silent"), (np.nan, "not finite")):
        wrong = truth.copy()
        wrong[1] = value
        with pytest.raises(UnmeasurableError, match=f"cello/b .*{reason}|cello/b {reason}"):
            measure(wrong, truth, ["flute/a", "cello/b"])


def test_measures_have_one_entrance() -> None:
    """A caller of BSS Eval or SI-SDR itself would have to treat silence on its own."""
    raw = re.compile(r"import.*\b(bss_eval|si_sdr)\b|^    (bss_eval|si_sdr),$", re.MULTILINE)
    files = [path for name in ("sop", "stages") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 50
    assert [path for path in files if raw.search(path.read_text(encoding="utf-8"))] == []


def test_summary_has_mean_and_median_or_nothing() -> None:
    values = {"sdr": [1.0, np.nan, 2.0, 9.0], "sir": np.array([4.0, 5.0]), "sar": [np.nan]}
    assert summarise(values) == {
        "sdr": {"mean": 4.0, "median": 2.0},
        "sir": {"mean": 4.5, "median": 4.5},
        "sar": {"mean": None, "median": None},
    }
