"""Mixtures of one category, silent sources and shifted frames."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sop.dataset.index import Video
from sop.dataset.mixtures import MixtureReader, evaluation_videos
from sop.evaluate.intervals import mean_interval
from sop.evaluate.measures import LEAK_FLOOR_DB, MEASURES, is_at_rest, leak
from sop.evaluate.motion import (
    ANY,
    DIFFERENT,
    RESTING,
    SAME,
    SHIFT_SECONDS,
    MotionResults,
    leak_summary,
    measure_motion,
    motion_summary,
    plain_categories,
    plain_kind,
    too_few_videos,
)
from sop.evaluate.records import evaluation_rule
from sop.evaluate.results import write_results
from sop.evaluate.validation import (
    PLAIN,
    Leak,
    MixtureKind,
    Score,
    SeparatedMixture,
    SkippedMixture,
    separate_mixtures,
)
from sop.model.pixelplayer import PixelPlayer, build, normalize_frames, separation_loss
from sop.params import Params
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SEED = 1234
ONE_SILENT = MixtureKind(one_silent=True)


def player_of(params: Params, bias: float) -> PixelPlayer:
    """Return an untrained model whose masks are about sigmoid(bias) everywhere."""
    player = build(params.model, params.spectrogram, seed=0)
    torch.nn.init.constant_(player.synthesizer.bias, bias)
    return player.eval()


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def video(name: str) -> Video:
    return Video(Path(f"audio/{name}.wav"), Path(f"frames/{name}.zip"), 24)


def separation(levels: tuple[float, ...], gain: float = 0.5, **changes: Any) -> SeparatedMixture:
    """Return a mixture of sources of these amplitudes; all estimates are the mixture, scaled."""
    names = ("flute/a", "cello/b", "tuba/c")[: len(levels)]
    sources = noise(len(levels), 4096) * np.array(levels, np.float32)[:, None]
    mixture = sources.sum(axis=0)
    made = SeparatedMixture(
        number=7,
        videos=tuple(map(video, names)),
        sources=sources,
        mixture=mixture,
        estimates=np.stack([gain * mixture] * len(levels)),
        masks=np.full((len(levels), 256, 8), gain, np.float32),
        loss=0.5,
    )
    return replace(made, **changes)


def score(number: int, improvement: float, *names: str) -> Score:
    values = {name: np.full(len(names), improvement) for name in MEASURES}
    return Score(number, tuple(map(video, names)), 0.5, values, np.zeros(len(names), bool))


def silent(number: int, decibels: float, *names: str) -> SkippedMixture:
    return SkippedMixture(number, f"{names[0]} is at rest", (Leak(names, decibels),))


def separated(
    player: PixelPlayer, videos: list[Video], params: Params, count: int, kind: MixtureKind
) -> list[SeparatedMixture]:
    made = list(
        separate_mixtures(player, videos, params, count, SEED, evaluation_rule(params), CPU, kind)
    )
    assert all(isinstance(one, SeparatedMixture) for one in made)
    return made


@pytest.mark.parametrize(("gain", "decibels"), [(1, 0), (0.1, -20), (2, 6.02), (0, -100)])
def test_leak_is_the_energy_relative_to_the_mixture(gain: float, decibels: float) -> None:
    mixture = noise(4096)
    assert leak(gain * mixture, mixture) == pytest.approx(decibels, abs=0.01)
    assert leak(1e-9 * mixture, mixture) == LEAK_FLOOR_DB


@pytest.mark.parametrize("silent_one", [0, 1])
def test_silent_source_has_no_score_but_a_leak(silent_one: int) -> None:
    levels = (0.0, 1.0) if silent_one == 0 else (1.0, 0.0)
    made = separation(levels).score()
    assert isinstance(made, SkippedMixture)
    assert made.reason == f"{('flute/a', 'cello/b')[silent_one]} is silent"
    [found] = made.leaks
    assert found.videos == ("flute/a", "cello/b")
    assert found.decibels == pytest.approx(-6.02, abs=0.01)


def test_leak_needs_another_source_that_is_heard() -> None:
    assert separation((0.0, 0.0)).score().leaks == ()
    assert isinstance(separation((1.0, 1.0)).score(), Score)
    resting = separation((1e-4, 1e-4), rest_is_silence=True).score()
    assert resting == SkippedMixture(7, "every source is at rest")


def test_every_silent_source_has_a_leak() -> None:
    assert len(separation((1.0, 0.0, 0.0)).score().leaks) == 2


def test_masks_that_are_not_finite_are_not_rewarded() -> None:
    made = separation((0.0, 1.0), gain=0.0)
    masks = made.masks.copy()
    masks[0, 3, 3] = np.nan
    assert made.score().leaks[0].decibels == LEAK_FLOOR_DB
    assert replace(made, masks=masks).score().leaks[0].decibels == 0
    # With evaluate.mask_power, a share depends on the masks of all sources.
    assert replace(made, masks=masks[::-1]).score().leaks[0].decibels == 0


def test_noise_of_a_source_at_rest_has_no_score_where_rest_is_silence() -> None:
    """Its SDR would be that of the noise of its recording."""
    quiet = separation((1.0, 0.005))
    assert isinstance(quiet.score(), Score)
    made = replace(quiet, rest_is_silence=True).score()
    assert isinstance(made, SkippedMixture)
    assert made.reason == "cello/b is at rest"
    assert len(made.leaks) == 1
    assert isinstance(separation((1.0, 0.05), rest_is_silence=True).score(), Score)


def test_rest_is_relative_to_the_mixture_and_to_full_scale() -> None:
    sources = noise(2, 4096)
    assert is_at_rest(sources * np.float32([[1], [0.005]])).tolist() == [False, True]
    assert is_at_rest(sources * np.float32([[0.1], [0.05]])).tolist() == [False, False]
    assert is_at_rest(sources * np.float32([[1e-3], [1e-3]])).tolist() == [True, True]


def test_mixture_with_a_source_at_rest_has_no_record(tmp_path: Path, tiny_params: Params) -> None:
    """Denoising would be chosen by the SDR of noise."""
    heard = separation((1.0, 1.0), number=1)
    quiet = separation((1.0, 0.005), rest_is_silence=True)
    scores = write_results([heard, quiet], tiny_params, tmp_path / "sounds", tmp_path / "plots")
    assert [type(one) for one in scores] == [Score, SkippedMixture]
    assert [path.stem for path in (tmp_path / "sounds/records").iterdir()] == ["0001"]
    table = (tmp_path / "plots/mixtures.csv").read_text().splitlines()
    assert len(table) == 3


def test_sources_are_silent_in_turn(tiny_videos: list[Video], tiny_params: Params) -> None:
    player = player_of(tiny_params, bias=50.0)
    plain = separated(player, tiny_videos, tiny_params, 4, PLAIN)
    muted = separated(player, tiny_videos, tiny_params, 4, ONE_SILENT)
    for before, after in zip(plain, muted, strict=True):
        assert after.videos == before.videos
        mute = after.number % 2
        assert not after.truth[mute].any()
        np.testing.assert_array_equal(after.truth[1 - mute], before.truth[1 - mute])
        # Full masks let everything through.
        assert after.score().leaks[0].decibels == pytest.approx(0, abs=1e-3)


def test_leak_is_that_of_the_evaluated_estimate(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    """Masks are about 0.27: a binary one is 0 everywhere, a ratio mask takes 11.4 dB."""
    ratio = with_values(tiny_params, {"model.mask": "ratio", "train.loss": "l1"})
    for params, decibels in ((tiny_params, LEAK_FLOOR_DB), (ratio, -11.4)):
        [made] = separated(player_of(params, bias=-1.0), tiny_videos, params, 1, ONE_SILENT)
        assert made.score().leaks[0].decibels == pytest.approx(decibels, abs=1)


def test_mixtures_of_one_category(tiny_videos: list[Video], tiny_params: Params) -> None:
    kind = MixtureKind(same_category=True)
    made = separated(player_of(tiny_params, 0.0), tiny_videos, tiny_params, 5, kind)
    for result in made:
        assert len({video.category for video in result.videos}) == 1
        assert len({video.name for video in result.videos}) == 2


def test_shifted_mixtures_are_measured_against_the_true_sounds(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, {"model.mask": "ratio", "train.loss": "l1"})
    player = player_of(params, bias=0.0)
    # The videos last 3 s, their clips 1.5 s.
    kind = MixtureKind(shift_seconds=0.5)
    [plain] = separated(player, tiny_videos, params, 1, PLAIN)
    [shifted] = separated(player, tiny_videos, params, 1, kind)
    np.testing.assert_array_equal(shifted.truth, plain.truth)
    assert np.abs(shifted.masks - plain.masks).max() > 1e-6
    mixture = MixtureReader(params.mixture, params.extract).middle(plain.videos, 0.5)
    assert not mixture.heard.any()
    with torch.inference_mode():
        spectra = player.spectra(torch.from_numpy(mixture.audio)[None])
        frames = normalize_frames(torch.from_numpy(mixture.frames)[None])
        logits = player(spectra.magnitude, frames).logits
        targets = player.true_masks(spectra)
    np.testing.assert_allclose(shifted.masks, player.masks(logits)[0].numpy(), atol=1e-6)
    loss = separation_loss(logits, spectra, targets, params.model, params.train)
    assert shifted.loss == pytest.approx(float(loss), rel=1e-4)


def test_nothing_is_measured_unless_asked_for(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    player = player_of(tiny_params, bias=0.0)
    assert measure_motion(player, tiny_videos, tiny_params, [], CPU) == {}
    assert plain_kind(tiny_params.evaluate) == PLAIN
    for key in ("same_category", "silent"):
        asked = with_values(tiny_params, {f"evaluate.{key}": 3})
        assert plain_kind(asked.evaluate) == PLAIN._replace(rest_is_silence=True)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [({"evaluate.same_category": 3}, {SAME}), ({"evaluate.silent": 2}, {"silent_leak"})],
)
def test_only_what_is_asked_for_is_measured(
    tiny_videos: list[Video], tiny_params: Params, asked: dict[str, int], keys: set[str]
) -> None:
    params = with_values(tiny_params, asked)
    player = player_of(params, bias=0.0)
    plain = [one.score() for one in separated(player, tiny_videos, params, 4, PLAIN)]
    made = measure_motion(player, tiny_videos, params, plain, CPU)
    assert made.keys() == {"sdr_improvement", "shifted"} | keys
    assert made["shifted"].keys() == {"seconds", DIFFERENT} | keys
    [count] = asked.values()
    assert made["shifted"][DIFFERENT]["mixtures"]["counted"] == count
    if SAME in keys:
        assert made[SAME]["mixtures"]["counted"] == 3
    else:
        assert made["silent_leak"][SAME]["mixtures"]["counted"] == 2
    json.dumps(made, allow_nan=False)


def test_mixtures_are_named_by_what_they_are(tiny_videos: list[Video], tiny_params: Params) -> None:
    several = with_values(tiny_params, {"mixture.same_category": True}).mixture
    one = [video for video in tiny_videos if video.category == "flute"]
    assert plain_categories(tiny_videos, tiny_params.mixture) == DIFFERENT
    assert plain_categories(tiny_videos, several) == ANY
    assert plain_categories(one, several) == SAME


def test_listed_mixtures_are_named_by_their_videos(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    flutes, cellos = (
        [video for video in tiny_videos if video.category == name][:2]
        for name in ("flute", "cello")
    )
    duet = replace(cellos[0], duet_of=("cello", "flute"))
    across = [flutes[0], cellos[0]]
    for listed, expected in (
        ([across, "x is not there"], DIFFERENT),
        ([flutes, cellos, "x is not there"], SAME),
        ([across, flutes], ANY),
        ([[flutes[0], duet]], ANY),
    ):
        for several in (False, True):
            params = with_values(tiny_params, {"mixture.same_category": several}).mixture
            assert plain_categories(tiny_videos, params, listed) == expected


def test_listed_mixtures_of_one_category_have_drawn_silent_ones_beside(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, {"evaluate.silent": 2, "evaluate.same_category": 2})
    listed = [[video for video in tiny_videos if video.category == "flute"][:2]]
    player = player_of(params, bias=0.0)
    settings = (1, SEED, evaluation_rule(params), CPU, plain_kind(params.evaluate), listed)
    made = separate_mixtures(player, tiny_videos, params, *settings)
    result = measure_motion(player, tiny_videos, params, [one.score() for one in made], CPU, listed)
    assert list(result["shifted"]) == ["seconds", SAME, "silent_leak"]
    assert list(result["silent_leak"]) == [DIFFERENT, SAME]
    assert SAME not in result, "the main mixtures are of one category: no others are measured"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (3, "1 category has fewer, for example {}; these are left out; add videos"),
        (2, "2 categories have fewer, for example cello; none can be mixed; add videos"),
    ],
)
def test_too_few_videos_of_a_category_are_logged(
    tiny_videos: list[Video],
    tiny_params: Params,
    caplog: pytest.LogCaptureFixture,
    count: int,
    said: str,
) -> None:
    caplog.set_level("INFO", "sop")
    params = with_values(tiny_params, {"evaluate.same_category": 2})
    flutes, cellos = (
        [video for video in tiny_videos if video.category == name] for name in ("flute", "cello")
    )
    videos = [*flutes[: count - 1], cellos[0]]
    player = player_of(params, bias=0.0)
    plain = [one.score() for one in separated(player, videos, params, 2, PLAIN)]
    measure_motion(player, videos, params, plain, CPU)
    assert "evaluate: mixtures of one category need 2 videos of it: " in caplog.text
    assert said.format("cello") in caplog.text


@pytest.mark.parametrize(
    ("categories", "silent", "separation"),
    [({"flute"}, [SAME], [SAME]), ({"flute", "cello"}, [ANY, SAME], [ANY, SAME])],
    ids=["one", "two"],
)
def test_mixtures_of_one_category_are_measured_once(
    tiny_videos: list[Video],
    tiny_params: Params,
    categories: set[str],
    silent: list[str],
    separation: list[str],
) -> None:
    asked = {"mixture.same_category": True, "evaluate.silent": 2, "evaluate.same_category": 2}
    params = with_values(tiny_params, asked)
    videos = [video for video in tiny_videos if video.category in categories]
    player = player_of(params, bias=0.0)
    plain = [one.score() for one in separated(player, videos, params, 4, PLAIN)]
    made = measure_motion(player, videos, params, plain, CPU)
    assert list(made["silent_leak"]) == silent
    assert list(made["shifted"]) == ["seconds", *separation, "silent_leak"]
    assert [name for name in separation if name in made] == separation[1:]
    # The change is that of the plain mixtures.
    assert made["shifted"][separation[0]]["change"] is not None


def test_summary_of_motion() -> None:
    plain = [score(n, 6.0 + n, f"flute/{n}", f"cello/{n}") for n in range(8)]
    late = [score(n, 5.0 + n, f"flute/{n}", f"cello/{n}") for n in range(1, 7)]
    same = [score(n, 3.0, f"flute/{n}", f"flute/{n + 9}") for n in range(7)]
    same_late = [score(n, -4.0, f"flute/{n}", f"flute/{n + 9}") for n in range(7)]
    rest = silent(8, -33.0, "cello/8", "flute/8")
    muted = [silent(n, level, "tuba/1", "cello/1") for n, level in enumerate((-30.0, -10.0, -25.0))]
    unread = SkippedMixture(3, "x.wav: holds no sound")
    in_time = MotionResults({DIFFERENT: [*plain, rest], SAME: same}, {DIFFERENT: [*muted, unread]})
    shifted = MotionResults({DIFFERENT: late, SAME: same_late}, {DIFFERENT: muted[:1]})
    made = motion_summary(in_time, shifted, ["oboe"])
    expected = mean_interval([6.0 + n for n in range(8)], [(f"f/{n}", f"c/{n}") for n in range(8)])
    assert made["sdr_improvement"]["mean"] == 9.5
    assert made["sdr_improvement"]["low"] == pytest.approx(expected.low)
    assert made["sdr_improvement"]["high"] == pytest.approx(expected.high)
    assert made[SAME]["sdr_improvement"] == {"mean": 3.0, "median": 3.0, "low": 3.0, "high": 3.0}
    assert made[SAME]["categories"] == {"left_out": 1, "too_few_videos": ["oboe"]}
    leaks = made["silent_leak"]
    assert leaks.keys() == {DIFFERENT, RESTING}
    assert leaks[DIFFERENT]["median"] == -25
    assert leaks[DIFFERENT]["below_20_db"] == pytest.approx(2 / 3)
    assert leaks[DIFFERENT]["mixtures"] == {
        "counted": 3,
        "left_out": 1,
        "reasons": {"3": "x.wav: holds no sound"},
    }
    assert leaks[RESTING]["median"] == -33
    assert leaks[RESTING]["mixtures"]["counted"] == 1
    control = made["shifted"]
    assert control["seconds"] == SHIFT_SECONDS
    # Over the six mixtures that are in both.
    assert control[DIFFERENT]["change"] == {"mean": -1.0, "low": -1.0, "high": -1.0}
    assert control[SAME]["change"]["mean"] == -7
    assert control["silent_leak"].keys() == {DIFFERENT}


def test_summary_without_a_measured_mixture() -> None:
    """No category has two videos, and every clip is unreadable."""
    unread = [SkippedMixture(0, "x.wav: holds no sound")]
    results = MotionResults({DIFFERENT: unread, SAME: []}, {DIFFERENT: unread, SAME: []})
    made = motion_summary(results, results, [])
    assert made[SAME]["sdr"] == {"mean": None, "median": None}
    assert set(made[SAME]["sdr_improvement"].values()) == {None}
    assert made[SAME]["mixtures"]["counted"] == 0
    assert made["silent_leak"][SAME]["median"] is None
    assert made["shifted"][SAME]["change"] is None
    json.dumps(made, allow_nan=False)


def test_leaks_of_few_videos_have_no_interval() -> None:
    made = leak_summary([Leak(("flute/a", "cello/b"), -30.0)] * 5)
    assert made == {"median": -30.0, "low": None, "high": None, "below_20_db": 1.0}


def test_categories_with_too_few_videos(tiny_videos: list[Video], tiny_params: Params) -> None:
    few = [video for video in tiny_videos if video.category in ("flute", "cello")][:3]
    alone = next(name for name in ("flute", "cello") if [v.category for v in few].count(name) == 1)
    assert too_few_videos(few, 2) == [alone]
    drawn = list(evaluation_videos(few, tiny_params.mixture, 4, SEED, same_category=True))
    assert {video.category for videos in drawn for video in videos} == {"flute", "cello"} - {alone}
