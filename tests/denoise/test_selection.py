"""The stage `denoise`: candidates, choice, measures and files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.testing import assert_allclose

from sop.denoise.guard import GuardedFilter
from sop.denoise.results import denoise_summary, held_out_table, sweep_table, write_denoised
from sop.denoise.selection import Changes, MeasuredTrial, choose, denoise, split
from sop.denoise.settings import (
    METHODS,
    LmsSettings,
    MethodSettings,
    NlmsSettings,
    RenormaliseSettings,
    RlsSettings,
    WienerSettings,
    candidates,
)
from sop.denoise.trial import DENOISE_MEASURES, TRIAL_MEASURES, Trial
from sop.evaluate.measures import bss_eval, si_sdr
from sop.evaluate.records import Record, record_paths, write_record
from sop.model.spectrogram import stft, to_log_frequency
from sop.params import Params, load_params
from tests.support.experiment import ROOT, with_values

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 11025


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    return with_values(
        tiny_params,
        {
            "denoise.method": "auto",
            "denoise.tuning_fraction": 0.5,
            "denoise.min_tuning_mixtures": 6,
            "denoise.min_tuning_videos": 12,
            "denoise.taps": [4, 16],
            "denoise.lms_rates": [1e-4],
            "denoise.nlms_rates": [0.01],
            "denoise.rls_forgetting": [0.999],
            "denoise.mask_powers": [1.0, 4.0],
            "denoise.wiener_frames": [3],
            "denoise.wiener_iterations": [2],
        },
    )


def notes(seed: int) -> np.ndarray:
    """Return 1.5 s of notes with overtones."""
    rng = np.random.default_rng(seed)
    time = np.arange(16383) / RATE
    sound = np.zeros(16383)
    for begin in np.arange(0, 1.5, 0.3):
        pitch = rng.uniform(150, 900)
        envelope = np.exp(-4 * (time - begin)) * (time >= begin)
        sound += envelope * sum(
            np.sin(2 * np.pi * k * pitch * time) / k**1.3 for k in range(1, 6) if k * pitch < 5000
        )
    return (0.1 * sound).astype(np.float32)


def record(params: Params, number: int, blur: float = 0.35, sources: int = 2) -> Record:
    """Return a mixture whose masks are ratio masks with independent errors in each bin."""
    rng = np.random.default_rng(100 + number)
    sounds = np.stack([notes(10 * number + n) for n in range(sources)])
    magnitude = to_log_frequency(stft(torch.from_numpy(sounds), params.spectrogram).abs()).numpy()
    ratio = magnitude / (magnitude.sum(axis=0) + 1e-6)
    masks = np.clip(ratio + blur * rng.standard_normal(ratio.shape), 0.01, 0.99)
    names = tuple(f"flute/{number}_{n}" for n in range(sources))
    return Record(number, names, sounds, masks.astype(np.float32))


@pytest.fixture(scope="module")
def records(params: Params, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    names = [f"flute/{n:02}" for n in range(28)]
    # Pairs of videos of the same side of the split.
    pairs = [
        (names[a], names[b])
        for side in split([(name,) for name in names], 0.5, params.denoise.seed)
        for a, b in zip(side[::2], side[1::2], strict=True)
    ]
    for number, pair in enumerate(pairs):
        write_record(folder, record(params, number)._replace(videos=pair))
    return record_paths(folder)


def test_candidates_are_all_methods_in_all_settings(params) -> None:
    every = candidates(params.denoise)
    assert len(every) == len(set(every)) == 3 * 2 + 2 + 2
    assert {candidate.method for candidate in every} == set(METHODS)
    only = candidates(with_values(params, {"denoise.method": "rls"}).denoise)
    assert [str(candidate) for candidate in only] == [
        "rls, taps 4, forgetting 0.999",
        "rls, taps 16, forgetting 0.999",
    ]


@pytest.mark.parametrize(
    "settings", [LmsSettings(8, 1e-3), NlmsSettings(8, 0.01), RlsSettings(8, 0.999)], ids=str
)
def test_filters_take_the_other_sounds_as_references(params, settings) -> None:
    trial = Trial(record(params, 0, sources=3), params)
    after = trial.after(settings)
    for target in range(3):
        others = [trial.before[n] for n in range(3) if n != target]
        levels = [float(np.mean(other.astype(float) ** 2)) for other in others]
        guarded = GuardedFilter(settings.make(2, levels), RATE)
        expected = [guarded.clean(trial.before[target], np.stack(others)), guarded.finish()]
        assert_allclose(after[target], np.concatenate(expected), atol=1e-6)


def test_masked_sounds_sum_to_the_mixture(params) -> None:
    trial = Trial(record(params, 0), params)
    for candidate in (
        RenormaliseSettings(power=2.0),
        WienerSettings(power=2.0, frames=3, iterations=2),
    ):
        assert_allclose(trial.after(candidate).sum(axis=0), trial.truth.sum(axis=0), atol=1e-4)


def test_measures_equal_their_definitions(params) -> None:
    trial = Trial(record(params, 0), params)
    candidate = RenormaliseSettings(power=2.0)
    values = trial.measure([None, candidate])
    for position, sounds in enumerate((trial.before, trial.after(candidate))):
        bss = bss_eval(trial.truth, sounds)
        expected = {
            "sdr": bss.sdr,
            "sir": bss.sir,
            "sar": bss.sar,
            "si_sdr": si_sdr(trial.truth, sounds),
            "mse": np.mean((trial.truth - sounds) ** 2, axis=1),
        }
        expected["snr"] = 10 * np.log10(np.mean(trial.truth**2, axis=1) / expected["mse"])
        for name, value in expected.items():
            assert_allclose(
                values[position, DENOISE_MEASURES.index(name)], value, rtol=1e-4, atol=1e-9
            )


def test_diverging_rate_is_reduced_and_recorded(params) -> None:
    trial = Trial(record(params, 0), params)
    steep, gentle = (LmsSettings(taps=16, rate=rate) for rate in (50.0, 1e-5))
    assert np.isfinite(trial.after(steep)).all()
    trial.after(gentle)
    assert trial.bounded == {steep}


@pytest.mark.parametrize("method", METHODS)
def test_mixture_of_one_source_stays_unchanged(params, method) -> None:
    trial = Trial(record(params, 0, sources=1), params)
    for candidate in candidates(with_values(params, {"denoise.method": method}).denoise):
        np.testing.assert_array_equal(trial.after(candidate), trial.before)


def test_sound_that_would_be_silent_stays_unchanged(params) -> None:
    made = record(params, 0)
    masks = made.masks.copy()
    masks[0], masks[1] = 0.6, 0.9
    trial = Trial(made._replace(masks=masks), params)
    # The second source gets all of each bin.
    after = trial.after(RenormaliseSettings(power=5000.0))
    np.testing.assert_array_equal(after[0], trial.before[0])
    assert_allclose(after[1], trial.truth.sum(axis=0), atol=1e-4)


def test_no_video_is_on_both_sides_of_the_split() -> None:
    rng = np.random.default_rng(0)
    names = [f"v{n}" for n in range(30)]
    mixtures = [tuple(rng.choice(names, 2, replace=False)) for _ in range(300)]
    sides = split(mixtures, 0.4, seed=1)
    for_tuning, for_measuring = sides
    tuning = {name for n in for_tuning for name in mixtures[n]}
    held_out = {name for n in for_measuring for name in mixtures[n]}
    assert len(for_tuning) > 20 and len(for_measuring) > 60
    assert not tuning & held_out
    assert split(mixtures, 0.4, seed=1) == sides != split(mixtures, 0.4, seed=2)


def planted(
    changes: dict[str, list[float]], tried: list[MethodSettings], videos: int | None = None
) -> Changes:
    """Return changes with given values of SDR and SIR for each candidate and mixture.

    Args:
        changes: of each candidate and mixture, by measure.
        tried: the candidates.
        videos: number of videos that the mixtures share; by default, none share one.
    """
    count = len(changes["sdr"][0])
    values = np.zeros((count, len(tried) + 1, len(TRIAL_MEASURES), 2))
    for name, of_candidates in changes.items():
        for position, change in enumerate(of_candidates, start=1):
            values[:, position, DENOISE_MEASURES.index(name)] = np.array(change)[:, None]
    names = [(f"{2 * n}", f"{2 * n + 1}") for n in range(count)]
    if videos:
        names = [(f"{n % videos}", f"{(n + 1 + n // videos) % videos}") for n in range(count)]
    made = zip(range(count), names, values, strict=True)
    return Changes(tried, [MeasuredTrial(*one) for one in made])


def chosen_by(params: Params, tuning: Changes, method: str = "auto", **fewest: int):
    values = {f"denoise.min_tuning_{name}": value for name, value in fewest.items()}
    return choose(with_values(params, {"denoise.method": method, **values}).denoise, tuning)


A, B = NlmsSettings(taps=4, rate=0.01), RenormaliseSettings(power=2.0)
SURE, UNSURE = [0.9, 1.1] * 20, [-6.0, 8.4] * 20


def test_auto_chooses_a_significant_improvement(params) -> None:
    tuning = planted({"sdr": [UNSURE, SURE], "sir": [[0.0] * 40] * 2}, [A, B])
    chosen, reason = chosen_by(params, tuning)
    assert chosen == B
    assert "on 40 mixtures of 80 videos for tuning: SDR +1.00 dB" in reason


def test_auto_chooses_none_without_significant_improvement(params) -> None:
    for sdr in (UNSURE, [0.0] * 40, [-value for value in SURE]):
        tuning = planted({"sdr": [sdr], "sir": [[0.0] * 40]}, [A])
        assert chosen_by(params, tuning)[0] is None


def test_auto_chooses_none_with_a_loss_of_sir(params) -> None:
    tuning = planted({"sdr": [SURE], "sir": [[-0.2] * 40]}, [A])
    assert chosen_by(params, tuning)[0] is None
    tuning = planted({"sdr": [SURE], "sir": [[-0.05] * 40]}, [A])
    assert chosen_by(params, tuning)[0] == A


def test_forced_method_is_chosen_even_if_worse(params) -> None:
    tuning = planted({"sdr": [[-2.0, -2.1]], "sir": [[-3.0, -3.0]]}, [A])
    assert chosen_by(params, tuning, "nlms")[0] == A
    assert chosen_by(params, tuning, "none")[0] is None


def test_auto_needs_mixtures_and_videos(params) -> None:
    """One mixture was enough: it has an interval of no width above zero."""
    for count, videos, fewest, said in (
        (0, None, {}, ": 0 mixtures (at least 6, denoise.min_tuning_mixtures) of 0 videos"),
        (1, None, {"mixtures": 1, "videos": 1}, ": 1 mixture (at least 1, "),
        (19, None, {"mixtures": 20}, "19 mixtures (at least 20, "),
        (40, 13, {"videos": 14}, "13 videos (at least 14, "),
        (40, 6, {"mixtures": 1, "videos": 1}, " without a common video (at least 6)"),
    ):
        changes = {"sdr": [[0.39] * count], "sir": [[0.0] * count]}
        chosen, reason = chosen_by(params, planted(changes, [A], videos), **fewest)
        assert chosen is None
        assert "too few mixtures for tuning: " in reason
        assert said in reason
    changes = {"sdr": [[0.39] * 20], "sir": [[0.0] * 20]}
    assert chosen_by(params, planted(changes, [A]), mixtures=20, videos=20)[0] == A


def test_defaults_ask_for_mixtures_and_videos() -> None:
    defaults = load_params(ROOT / "params.yaml").denoise
    assert (defaults.min_tuning_mixtures, defaults.min_tuning_videos) == (20, 20)


def test_changes_of_silent_sounds(params) -> None:
    """A sound that is silent before has no SAR to change; the other measures count it."""
    values = np.zeros((2, len(TRIAL_MEASURES), 2))
    sdr, sar, silent = (TRIAL_MEASURES.index(name) for name in ("sdr", "sar", "silent"))
    values[:, sdr] = [[4, 0], [6, 6]]
    values[:, sar] = [[10, np.nan], [11, 20]]
    values[0, silent] = [0, 1]
    muted = values.copy()
    muted[0, sar], muted[0, silent] = np.nan, 1
    changes = Changes([A], [MeasuredTrial(0, ("a", "b"), values), MeasuredTrial(1, "cd", muted)])
    assert (changes.silent(None), changes.silent(A)) == (3, 0)
    assert changes.mean("sdr", None) == 2
    assert changes.mean("sar", None) == 10
    assert changes.interval(A, "sdr") == (4, None, None)
    assert changes.interval(A, "sar") == (1, None, None)


def test_silent_separated_sounds_are_measured_and_counted(params, tmp_path) -> None:
    for number in range(2):
        made = record(params, number)
        masks = made.masks.copy()
        masks[1] *= number
        write_record(tmp_path, made._replace(masks=masks))
    denoised = denoise(record_paths(tmp_path), replace_share(params, 0.01))
    summary = denoise_summary(denoised)
    assert summary["mixtures"]["left_out"] == 0
    assert summary["before"]["silent_estimates"] == summary["after"]["silent_estimates"] == 1
    assert summary["methods"]["nlms"]["silent_estimates"] == 1
    assert summary["before"]["sdr"] is not None
    assert held_out_table(denoised)["sar"].isna().sum() > 0
    json.dumps(summary, allow_nan=False)


@pytest.fixture(scope="module")
def denoised(params: Params, records: list[Path]):
    return denoise(records, params)


def test_masks_with_errors_are_improved(denoised) -> None:
    assert denoised.chosen.method in ("renormalise", "wiener")
    summary = denoise_summary(denoised)
    assert summary["method"] == denoised.chosen.method
    assert summary["change"]["sdr"]["low"] > 0
    assert summary["change"]["sdr"]["mean"] == pytest.approx(
        summary["after"]["sdr"] - summary["before"]["sdr"]
    )
    assert set(summary["methods"]) == set(METHODS)
    for method, best in summary["methods"].items():
        is_filter = method in ("lms", "nlms", "rls")
        names = {"setting", "silent_estimates", "change", *(["kept"] if is_filter else [])}
        assert set(best) == names
        if is_filter:
            assert set(best["kept"]) == {"seconds", "decibels", "restarts"}
    json.dumps(summary, allow_nan=False)


def test_summary_is_of_held_out_mixtures_only(denoised, params: Params) -> None:
    """The measures are means over the held-out mixtures."""
    table = held_out_table(denoised)
    assert len(denoised.measured) == denoised.held_out.mixtures > 0
    assert set(table.mixture) == set(denoised.measured)
    plain = table[table.method == "none"].groupby("mixture").sdr.mean().mean()
    assert denoise_summary(denoised)["before"]["sdr"] == pytest.approx(plain)


def test_results_do_not_depend_on_the_number_of_workers(denoised, records, params) -> None:
    others = denoise(records, with_values(params, {"workers": 3}))
    assert denoise_summary(others) == denoise_summary(denoised)


def test_tables_have_all_candidates_and_held_out_sounds(denoised) -> None:
    sweep, held_out = sweep_table(denoised), held_out_table(denoised)
    assert len(sweep) == len(denoised.tuning.tried)
    assert sweep.chosen.sum() == 1
    assert len(held_out) == 2 * len(denoised.measured) * (1 + len(denoised.held_out.tried))
    assert held_out[held_out.method == "none"].sdr_change.isna().all()
    one = held_out[held_out.method == "nlms"].iloc[0]
    before = held_out[
        (held_out.method == "none")
        & (held_out.mixture == one.mixture)
        & (held_out.source == one.source)
    ].iloc[0]
    assert one.sdr_change == pytest.approx(one.sdr - before.sdr)


def test_sounds_of_the_shown_mixtures_are_written(denoised, records, params, tmp_path) -> None:
    write_denoised(denoised, records, params, tmp_path / "sounds", tmp_path / "plots")
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        "plots/held_out.csv",
        "plots/sweep.csv",
        *(
            f"sounds/00{number}/{name}-denoised.wav"
            for number in range(2)
            for name in ("1-flute", "2-flute")
        ),
    ]
    trial = Trial(record(params, 0), params)
    sound, rate = soundfile.read(tmp_path / "sounds/000/1-flute-denoised.wav")
    assert rate == RATE
    assert_allclose(sound, trial.after(denoised.chosen)[0], atol=1e-4)
    assert len(pd.read_csv(tmp_path / "plots/sweep.csv")) == len(denoised.tuning.tried)


def test_forced_none_changes_nothing_but_measures(records, params, tmp_path) -> None:
    none = denoise(records, with_values(params, {"denoise.method": "none"}))
    summary = denoise_summary(none)
    assert summary["method"] == "none"
    assert summary["after"] == summary["before"]
    assert summary["change"]["sdr"] == {"mean": 0, "low": 0, "high": 0}
    assert set(summary["methods"]) == set(METHODS)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_unmeasurable_mixtures_are_left_out_with_reason(params, tmp_path, share: float) -> None:
    """All four mixtures are held out, or all are for tuning."""
    for number in range(4):
        made = record(params, number)
        sources = made.sources.copy()
        sources[1] *= number != 2
        write_record(tmp_path, made._replace(sources=sources))
    counts = denoise_summary(denoise(record_paths(tmp_path), replace_share(params, share)))[
        "mixtures"
    ]
    assert counts["left_out"] == 1
    assert counts["reasons"] == {"2": "flute/2_1 is silent"}
    assert (counts["tuning"], counts["held_out"]) == ((0, 3) if share < 0.5 else (3, 0))


def test_single_mixture_chooses_none(params, tmp_path) -> None:
    write_record(tmp_path, record(params, 0))
    denoised = denoise(record_paths(tmp_path), replace_share(params, 0.01))
    assert denoised.chosen is None
    summary = denoise_summary(denoised)
    assert summary["reason"].startswith("too few mixtures for tuning: 0 mixtures (")
    assert summary["mixtures"]["held_out"] == 1
    write_denoised(denoised, record_paths(tmp_path), params, tmp_path / "s", tmp_path / "p")


def test_summary_without_held_out_mixtures(params, tmp_path) -> None:
    write_record(tmp_path, record(params, 0))
    summary = denoise_summary(denoise(record_paths(tmp_path), replace_share(params, 0.99)))
    assert summary["mixtures"]["held_out"] == 0
    assert summary["before"]["sdr"] is None
    assert summary["change"]["sdr"] is None
    json.dumps(summary, allow_nan=False)


def replace_share(params: Params, share: float) -> Params:
    return with_values(params, {"denoise.tuning_fraction": share})


def test_interval_of_equal_changes_has_no_width() -> None:
    changes = planted({"sdr": [[1.0] * 6], "sir": [[0.0] * 6]}, [A])
    assert changes.interval(A, "sdr") == (1.0, 1.0, 1.0)


def test_trial_reports_what_filters_keep(params) -> None:
    trial = Trial(record(params, 0), params)
    fierce = NlmsSettings(8, 1.9)
    after = trial.after(fierce)
    kept = trial.kept[fierce]
    assert kept.seconds > 0
    assert kept.decibels > 4
    window = round(0.05 * RATE)
    for before, result in zip(trial.before, after, strict=True):
        sums = np.cumsum(np.square([before, result], dtype=np.float64), axis=1)
        energies = sums[:, window:] - sums[:, :-window]
        assert (energies[1] <= 4 * energies[0] + 1e-9).all()
