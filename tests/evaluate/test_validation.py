import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sop.dataset.index import Video
from sop.dataset.mixtures import MixtureReader, MixtureSampler, evaluation_videos
from sop.evaluate.measures import MEASURES, bss_eval
from sop.evaluate.records import evaluation_rule
from sop.evaluate.validation import (
    Score,
    SeparatedMixture,
    SkippedMixture,
    evaluation_summary,
    separate_mixtures,
)
from sop.model.pixelplayer import PixelPlayer, build, normalize_frames, separation_loss
from sop.model.spectrogram import MaskRule, separate
from sop.params import Params
from sop.runtime.errors import UserError
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LENGTH = 512 * 31
SEED = 1234
BINARY = MaskRule(threshold=0.5)


def player_of(params: Params, bias: float = 50.0) -> PixelPlayer:
    """Return an untrained model whose masks are about sigmoid(bias) everywhere."""
    player = build(params.model, params.spectrogram, seed=0)
    torch.nn.init.constant_(player.synthesizer.bias, bias)
    return player.eval()


def video(name: str) -> Video:
    return Video(Path(f"audio/{name}.wav"), Path(f"frames/{name}.zip"), 24)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def separation(number: int = 0, **changes: Any) -> SeparatedMixture:
    truth = noise(2, 4096, seed=number)
    made = SeparatedMixture(
        number=number,
        videos=(video("flute/a"), video("cello/b")),
        mixture=truth.sum(axis=0),
        estimates=truth + 0.3 * truth[::-1],
        loss=0.5,
        sources=truth,
        masks=np.ones((2, 256, 8), np.float32),
    )
    return replace(made, **changes)


def score(number: int, names: tuple[str, ...], start: float, loss: float = 0.5) -> Score:
    values = {
        name: start + 10 * at + np.arange(len(names), dtype=float)
        for at, name in enumerate(MEASURES)
    }
    heard = np.zeros(len(names), bool)
    return Score(number, tuple(video(name) for name in names), loss, values, heard)


def separated(player: PixelPlayer, videos: list[Video], params: Params, count: int) -> list[Any]:
    return list(
        separate_mixtures(player, videos, params, count, SEED, evaluation_rule(params), CPU)
    )


def test_separations_are_the_fixed_mixtures_in_order(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    made = separated(player_of(tiny_params), tiny_videos, tiny_params, 6)
    draws = list(evaluation_videos(tiny_videos, tiny_params.mixture, 6, SEED))
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    assert [result.number for result in made] == list(range(6))
    for result, videos in zip(made, draws, strict=True):
        expected = reader.middle(videos)
        assert result.videos == tuple(videos)
        np.testing.assert_array_equal(result.truth, expected.audio[:, :LENGTH])
        np.testing.assert_allclose(result.mixture, result.truth.sum(axis=0), atol=1e-5)
        assert result.estimates.shape == (2, LENGTH)


def test_mixtures_are_drawn_as_they_are_read(
    tiny_videos: list[Video], tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    sample = MixtureSampler.sample
    monkeypatch.setattr(
        MixtureSampler, "sample", lambda self, *which: drawn.append(which) or sample(self, *which)
    )
    made = separate_mixtures(
        player_of(tiny_params), tiny_videos, tiny_params, 100_000, SEED, BINARY, CPU
    )
    assert next(made).number == 0
    assert len(drawn) <= 4 * tiny_params.train.batch_size
    made.close()


def test_full_masks_give_the_mixture_back_and_improve_nothing(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    [result] = separated(player_of(tiny_params), tiny_videos, tiny_params, 1)
    for estimate in result.estimates:
        np.testing.assert_allclose(estimate, result.mixture, atol=1e-5)
    measured = result.score()
    np.testing.assert_allclose(measured.measures["sdr_improvement"], 0, atol=1e-3)
    np.testing.assert_allclose(
        measured.measures["sdr"], measured.measures["sdr_mixture"], atol=1e-3
    )


def test_results_do_not_depend_on_batches_or_count(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    ratio = {"model.mask": "ratio", "train.loss": "l2", "model.output_activation": "sigmoid"}
    params = with_values(tiny_params, ratio)
    player = player_of(params, bias=0.0)
    many = separated(player, tiny_videos, params, 5)
    for batch, count in ((1, 2), (3, 5)):
        changed = with_values(params, {"train.batch_size": batch, "workers": 2})
        for one, other in zip(separated(player, tiny_videos, changed, count), many, strict=False):
            assert one.videos == other.videos
            np.testing.assert_allclose(one.estimates, other.estimates, atol=1e-6)
            assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_loss_is_that_of_the_mixture_alone(tiny_videos: list[Video], tiny_params: Params) -> None:
    player = player_of(tiny_params, bias=0.0)
    made = separated(player, tiny_videos, tiny_params, 3)
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    for result in made:
        mixture = reader.middle(result.videos)
        with torch.inference_mode():
            spectra = player.spectra(torch.from_numpy(mixture.audio)[None])
            logits = player(
                spectra.magnitude, normalize_frames(torch.from_numpy(mixture.frames)[None])
            ).logits
            truth = player.true_masks(spectra)
        loss = separation_loss(logits, spectra, truth, tiny_params.model, tiny_params.train)
        assert result.loss == pytest.approx(float(loss), rel=1e-4)


def test_threshold_applies_to_binary_masks_only(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    # The masks are about sigmoid(1) = 0.73 everywhere.
    player = player_of(tiny_params, bias=1.0)
    loudness = []
    for threshold in (0.5, 0.9):
        rule = MaskRule.of(tiny_params.model.mask, threshold)
        [result] = separate_mixtures(player, tiny_videos, tiny_params, 1, SEED, rule, CPU)
        loudness.append(np.abs(result.estimates).max())
    assert loudness[0] > 0.01
    assert loudness[1] == 0
    params = with_values(tiny_params, {"model.mask": "ratio", "train.loss": "l1"})
    player = player_of(params, bias=1.0)
    rule = MaskRule.of(params.model.mask, 0.9)
    [result] = separate_mixtures(player, tiny_videos, params, 1, SEED, rule, CPU)
    np.testing.assert_allclose(result.estimates[0], 0.731 * result.mixture, atol=0.02)


def test_power_replaces_the_threshold(tiny_videos: list[Video], tiny_params: Params) -> None:
    params = with_values(tiny_params, {"evaluate.mask_power": 2.0, "evaluate.mask_threshold": 0.9})
    player = player_of(params, bias=1.0)
    rule = evaluation_rule(params)
    [result] = separate_mixtures(player, tiny_videos, params, 1, SEED, rule, CPU)
    for estimate in result.estimates:
        np.testing.assert_allclose(estimate, 0.5 * result.mixture, atol=0.02)
    np.testing.assert_allclose(result.masks, 0.731, atol=0.05)


def test_true_masks_separate_far_better_than_the_mixture(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    player = player_of(tiny_params)
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    improvements, interference = [], []
    for videos in evaluation_videos(tiny_videos, tiny_params.mixture, 5, seed=0):
        audio = torch.from_numpy(reader.middle(videos).audio)[None]
        spectra = player.spectra(audio)
        masks = player.true_masks(spectra)
        estimates = separate(spectra.mixture, masks, tiny_params.spectrogram, BINARY)[0].numpy()
        truth = audio[0, :, :LENGTH].numpy()
        mixture = np.broadcast_to(truth.sum(axis=0), truth.shape)
        sdr, sir, _ = bss_eval(truth, np.stack([estimates, mixture]))
        improvements.append(sdr[0] - sdr[1])
        interference.append(sir[0])
    assert np.mean(improvements) > 8
    assert np.mean(interference) > 12


def test_unreadable_mixture_is_skipped_with_its_reason(
    tmp_path: Path, tiny_videos: list[Video], tiny_params: Params
) -> None:
    bad = tmp_path / tiny_videos[1].category / tiny_videos[1].audio.name
    bad.parent.mkdir()
    shutil.copy(tiny_videos[1].audio, bad)
    bad.write_bytes(bad.read_bytes()[:800])
    videos = list(tiny_videos)
    videos[1] = replace(tiny_videos[1], audio=bad)
    player = player_of(tiny_params)
    whole = separated(player, tiny_videos, tiny_params, 8)
    broken = separated(player, videos, tiny_params, 8)
    assert [result.number for result in broken] == list(range(8))
    left_out = 0
    for before, after in zip(whole, broken, strict=True):
        if tiny_videos[1] in before.videos:
            left_out += 1
            assert isinstance(after, SkippedMixture)
            assert after.reason == f"{bad}: shorter than its header says"
        else:
            np.testing.assert_allclose(after.estimates, before.estimates, atol=1e-6)
    assert left_out > 0
    results = evaluation_summary(result.score() for result in broken)
    assert results["mixtures"]["counted"] == 8 - left_out
    assert results["mixtures"]["left_out"] == left_out


def test_the_caller_is_never_in_inference_mode(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    results = separate_mixtures(
        player_of(tiny_params), tiny_videos, tiny_params, 5, SEED, BINARY, CPU
    )
    next(results)
    assert not torch.is_inference_mode_enabled()
    weight = torch.ones(2, requires_grad=True)
    (2 * weight).sum().backward()
    assert weight.grad.tolist() == [2, 2]


def test_model_is_measured_in_evaluation_mode(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    player = player_of(tiny_params).train()
    before = {name: value.clone() for name, value in player.state_dict().items()}
    separated(player, tiny_videos, tiny_params, 2)
    for name, value in player.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_score_has_every_measure_of_every_source() -> None:
    result = separation()
    measured = result.score()
    assert isinstance(measured, Score)
    assert measured.measures.keys() == set(MEASURES)
    sdr, sir, sar = bss_eval(result.truth, result.estimates)
    mixture = bss_eval(result.truth, np.stack([result.mixture] * 2)).sdr
    for name, expected in (("sdr", sdr), ("sir", sir), ("sar", sar), ("sdr_mixture", mixture)):
        np.testing.assert_allclose(measured.measures[name], expected, atol=1e-6)
    np.testing.assert_allclose(measured.measures["sdr_improvement"], sdr - mixture, atol=1e-6)
    # Leakage at 0.3 of the amplitude is 10.5 dB below the source.
    np.testing.assert_allclose(measured.measures["si_sdr"], 10.5, atol=0.7)
    np.testing.assert_allclose(measured.measures["sdr_mixture"], 0, atol=1.5)


def test_unmeasurable_mixture_is_skipped_with_its_reason() -> None:
    truth, estimates = separation().truth, separation().estimates
    silent, constant = truth.copy(), truth.copy()
    silent[1], constant[0] = 0, 0.25
    for changes, reason in (
        ({"sources": silent}, "cello/b is silent"),
        ({"sources": constant}, "flute/a is silent"),
        ({"sources": silent, "estimates": 0 * estimates}, "cello/b is silent"),
    ):
        made = separation(number=7, **changes).score()
        assert isinstance(made, SkippedMixture)
        assert (made.number, made.reason) == (7, reason)


def test_silence_is_not_rewarded() -> None:
    """With one good mixture and nine with a muted source, the mean was that of the good one."""
    good = separation(0, estimates=separation(0).truth + 0.01 * separation(0).truth[::-1])
    muted = []
    for number in range(1, 10):
        estimates = separation(number).estimates.copy()
        estimates[1] = 0
        muted.append(separation(number, estimates=estimates))
    made = evaluation_summary(result.score() for result in [good, *muted])
    assert made["mixtures"] == {"counted": 10, "left_out": 0, "reasons": {}}
    assert made["silent_estimates"] == 9
    assert made["category"]["cello"]["silent_estimates"] == 9
    assert made["category"]["flute"]["silent_estimates"] == 0
    scores = [result.score() for result in muted]
    for score_of in scores:
        assert isinstance(score_of, Score)
        assert score_of.silent.tolist() == [False, True]
        sdr, mixture = (score_of.measures[name][1] for name in ("sdr", "sdr_mixture"))
        assert sdr == pytest.approx(min(0, mixture), abs=1e-4)
        assert np.isnan(score_of.measures["sar"][1])
    cello = [good.score().measures["sdr"][1], *(one.measures["sdr"][1] for one in scores)]
    assert made["category"]["cello"]["sdr"]["mean"] == pytest.approx(np.mean(cello))
    assert made["category"]["cello"]["sdr"]["mean"] < 6
    # SAR is a mean over the sounding estimates.
    assert made["category"]["cello"]["sar"]["mean"] == good.score().measures["sar"][1]
    json.dumps(made, allow_nan=False)


def test_model_that_returns_no_numbers_is_measured_as_silent(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    player = player_of(tiny_params, bias=float("nan"))
    params = with_values(tiny_params, {"model.mask": "ratio", "train.loss": "l1"})
    made = evaluation_summary(one.score() for one in separated(player, tiny_videos, params, 2))
    assert made["silent_estimates"] == 4
    assert made["sdr"]["mean"] <= 0
    assert made["sar"] == {"mean": None, "median": None}
    assert made["loss"] is None
    json.dumps(made, allow_nan=False)


def test_quiet_sounds_are_counted() -> None:
    quiet = separation(sources=1e-4 * separation().truth, estimates=1e-4 * separation().estimates)
    assert isinstance(quiet.score(), Score)


def test_skipped_mixture_has_no_score() -> None:
    unreadable = SkippedMixture(1, "a.wav: holds no sound")
    assert unreadable.score() is unreadable


def test_summary_counts_and_averages_over_sources() -> None:
    results = [
        score(0, ("flute/a", "cello/a"), start=0.0, loss=0.2),
        SkippedMixture(1, "tuba/a is silent"),
        score(2, ("cello/b", "tuba/b"), start=4.0, loss=0.6),
        SkippedMixture(3, "x.wav: holds no sound"),
    ]
    made = evaluation_summary(iter(results))
    # The first measure, sdr, is 0 and 1 in the first mixture, 4 and 5 in the other.
    assert made["sdr"] == {"mean": 2.5, "median": 2.5}
    assert made["sir"] == {"mean": 12.5, "median": 12.5}
    assert made["loss"] == pytest.approx(0.4)
    assert made["mixtures"] == {
        "counted": 2,
        "left_out": 2,
        "reasons": {"1": "tuba/a is silent", "3": "x.wav: holds no sound"},
    }
    assert list(made["category"]) == ["cello", "flute", "tuba"]
    assert made["category"]["cello"]["sdr"] == {"mean": 2.5, "median": 2.5}
    assert made["category"]["flute"]["sdr"] == {"mean": 0.0, "median": 0.0}
    assert made["category"]["tuba"]["sar"] == {"mean": 25.0, "median": 25.0}
    assert made["category"]["tuba"].keys() == {*MEASURES, "silent_estimates"}


def test_summary_equals_a_plain_computation() -> None:
    rng = np.random.default_rng(0)
    names = ["flute", "cello", "tuba"]
    results = []
    for number in range(30):
        pair = [f"{names[at]}/{number}" for at in rng.choice(3, 2, replace=False)]
        made = score(number, tuple(pair), start=0.0)
        values = {name: rng.normal(size=2) for name in MEASURES}
        results.append(replace(made, measures=values))
    rows = [
        (video.category, result.measures["sir"][at])
        for result in results
        for at, video in enumerate(result.videos)
    ]
    made = evaluation_summary(results)
    assert made["sir"]["mean"] == pytest.approx(sum(value for _, value in rows) / 60)
    for name in names:
        own = sorted(value for category, value in rows if category == name)
        assert made["category"][name]["sir"]["mean"] == pytest.approx(sum(own) / len(own))
        middle = (own[(len(own) - 1) // 2] + own[len(own) // 2]) / 2
        assert made["category"][name]["sir"]["median"] == pytest.approx(middle)


def test_no_measurable_mixture_is_a_user_error() -> None:
    left_out = [SkippedMixture(0, "a.wav: holds no sound"), SkippedMixture(1, "b.wav: missing")]
    with pytest.raises(UserError, match=r"none of 2 mixtures .*: a\.wav: holds no sound"):
        evaluation_summary(left_out)
    with pytest.raises(UserError, match="there are no mixtures"):
        evaluation_summary([])
