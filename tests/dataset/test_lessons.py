"""Mixtures of one category, and sources that are seen but not heard."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sop.dataset.index import TRAIN, VALIDATION, Video
from sop.dataset.mixtures import (
    MixtureReader,
    MixtureSampler,
    Shares,
    TrainingMixtures,
    collate,
    evaluation_videos,
)
from sop.dataset.seeding import generator
from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.distributed import ProcessGroup
from sop.train.loader import training_batches
from tests.dataset.test_mixtures import MOTION, MOTION_RATE, begins, numbers_of, paper, ramps
from tests.support.experiment import with_values

SEED = 5
BATCH = 4

__all__ = ["ramps"]


def mixtures_of(
    videos: list[Video], params: Params, motion: bool = False, repeats: int = 6, **shares: Any
) -> TrainingMixtures:
    reader = MixtureReader(params.mixture, params.extract, motion)
    return TrainingMixtures(videos, reader, repeats, BATCH, SEED, Shares(**shares))


@pytest.fixture
def moving(tiny_params: Params) -> Params:
    return with_values(tiny_params, MOTION)


@pytest.fixture
def six(ramps: Callable[..., Video]) -> list[Video]:
    """Two videos of 8 s of each of three instruments."""
    return [ramps(f"i{number % 3}/v{number}") for number in range(6)]


def shares_of(params: Params, **values: Any) -> Shares:
    train = with_values(params, {f"train.{name}": value for name, value in values.items()}).train
    return Shares.of_parameters(train)


def test_the_default_parameters_are_the_published_shares(tiny_params: Params) -> None:
    assert shares_of(tiny_params) == Shares()
    found = shares_of(tiny_params, share_ramp=0.25, epochs=8, silent_share=0.1)
    assert found == Shares(None, 0.1, 0.0, 2.0)
    found = shares_of(tiny_params, motion_start=0.5, epochs=8, shifted_share=0.1)
    assert found == Shares(None, 0.0, 0.1, 0.0, 4.0)


def test_shares_and_motion_begin_after_the_steps_of_appearance(
    six: list[Video], moving: Params
) -> None:
    shares = {"same_category": 1.0, "silent": 1.0}
    at_once = mixtures_of(six, moving, motion=True, **shares)
    later = mixtures_of(six, moving, motion=True, begin_epochs=0.3, **shares)
    # 0.3 epochs of 9 steps of 4 mixtures, rounded to steps.
    assert len(later) == 36
    assert later.motion_begin == 12
    for item in range(12):
        mixture = later[item]
        assert mixture.motion is None
        assert mixture.heard.all()
        assert len({video.category for video in mixture.videos}) == 2
    for item in range(12, 16):
        mixture, same = later[item], at_once[item]
        assert mixture.videos == same.videos
        assert not mixture.heard.all()
        np.testing.assert_array_equal(mixture.motion, same.motion)


@pytest.mark.parametrize("published", [True, False])
def test_share_of_mixtures_of_one_category(published: bool, tiny_params: Params) -> None:
    """It replaces `mixture.same_category`: all others share no instrument."""
    params = with_values(tiny_params, {"mixture.same_category": published}).mixture
    videos = paper(*(f"i{n % 4}/v{n}" for n in range(20)))
    for share in (0.0, 0.3, 1.0):
        shares = Shares(same_category=share)
        sampler = MixtureSampler(videos, params, TRAIN, shares.choices)
        alike = 0
        for item in range(600):
            rng = generator(SEED, "test", item)
            lesson = shares.draw(0.0, rng)
            first, second = sampler.sample(item % 20, rng, lesson.choice)
            assert first != second
            alike += first.category == second.category
        assert alike / 600 == pytest.approx(share, abs=0.06)


def test_a_category_with_a_single_video_is_mixed_with_another(tiny_params: Params) -> None:
    videos = paper("flute/a", "flute/b", "tuba/a")
    sampler = MixtureSampler(videos, tiny_params.mixture, TRAIN, ("same",))
    for item in range(20):
        rng = generator(SEED, "test", item)
        first, second = sampler.sample(item % 3, rng, "same")
        assert (first.category == second.category) == (first.category == "flute")


def test_more_sources_than_videos_of_a_category_are_of_other_categories(
    tiny_params: Params,
) -> None:
    params = with_values(tiny_params, {"mixture.sources": 3}).mixture
    videos = paper("flute/a", "flute/b", "tuba/a", "tuba/b", "tuba/c", "harp/a")
    sampler = MixtureSampler(videos, params, TRAIN, ("same", "different"))
    for item in range(30):
        drawn = sampler.sample(item % 6, generator(SEED, "test", item), "same")
        categories = {video.category for video in drawn}
        assert len(categories) == (1 if drawn[0].category == "tuba" else 3)


def test_a_single_category_needs_a_share_of_one(tiny_params: Params) -> None:
    videos = paper("talker/a", "talker/b", "talker/c")
    always = Shares(same_category=1.0)
    assert MixtureSampler(videos, tiny_params.mixture, TRAIN, always.choices)
    for shares in (
        Shares(same_category=0.9),
        Shares(same_category=1.0, ramp_epochs=1.0),
        Shares(same_category=1.0, begin_epochs=1.0),
    ):
        with pytest.raises(UserError, match=r"1 instrument .* train\.same_category_share: 1,"):
            MixtureSampler(videos, tiny_params.mixture, TRAIN, shares.choices)


def test_silent_source_is_seen_but_not_heard(six: list[Video], moving: Params) -> None:
    plain = mixtures_of(six, moving, motion=True)
    silent = mixtures_of(six, moving, motion=True, silent=1.0)
    numbers = set()
    for item in range(16):
        mixture, same = silent[item], plain[item]
        assert mixture.videos == same.videos
        np.testing.assert_array_equal(mixture.frames, same.frames)
        np.testing.assert_array_equal(mixture.motion, same.motion)
        (number,) = np.flatnonzero(~mixture.heard)
        numbers.add(int(number))
        assert not mixture.audio[number].any()
        # The others are as loud as in a mixture of as many sources.
        np.testing.assert_array_equal(mixture.audio[1 - number], same.audio[1 - number])
    assert numbers == {0, 1}


def test_shifted_source_is_heard_at_another_moment_than_it_is_seen(
    six: list[Video], moving: Params
) -> None:
    plain = mixtures_of(six, moving, motion=True)
    shifted = mixtures_of(six, moving, motion=True, shifted=1.0)
    distances = []
    for item in range(24):
        mixture, same = shifted[item], plain[item]
        np.testing.assert_array_equal(mixture.audio, same.audio)
        (number,) = np.flatnonzero(~mixture.heard)
        other = 1 - number
        np.testing.assert_array_equal(mixture.frames[other], same.frames[other])
        np.testing.assert_array_equal(mixture.motion[other], same.motion[other])
        # The second of two frames is in the middle of the clip; frame n has the grey value 3 n.
        seen = (mixture.frames[number, 1].mean() / 3 - 0.5) / 8
        moving_seen = numbers_of(mixture.motion[number])
        np.testing.assert_array_equal(np.diff(moving_seen), 1)
        assert (moving_seen.mean() + 0.5) / MOTION_RATE == pytest.approx(seen, abs=0.06)
        moved = moving_seen[0] - numbers_of(same.motion[number])[0]
        distances.append(moved / MOTION_RATE)
    # Up to the rounding of both to frames.
    assert np.abs(distances).min() >= 0.8 - 1 / MOTION_RATE
    assert min(distances) < 0 < max(distances)
    assert np.abs(distances).max() > 2


def test_batches_of_worker_processes_have_motion(six: list[Video], moving: Params) -> None:
    mixtures = mixtures_of(six, moving, motion=True, silent=0.5, shifted=0.5)
    params = with_values(moving, {"train.batch_size": BATCH, "workers": 2})
    batches = training_batches(
        mixtures, range(1, 4), params, ProcessGroup(0, 1, torch.device("cpu"))
    )
    for step, batch in enumerate(batches, start=1):
        expected = collate([mixtures[item] for item in range(BATCH * step, BATCH * (step + 1))])
        assert batch.left_out == expected.left_out
        for name in ("audio", "frames", "heard", "motion"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
        assert batch.heard.sum() == BATCH


def test_shift_in_a_short_video_is_as_large_as_possible(
    ramps: Callable[..., Video], moving: Params
) -> None:
    videos = [ramps(f"i{number}/v", seconds=2.0) for number in range(2)]
    mixtures = mixtures_of(videos, moving, motion=True, shifted=1.0)
    for item in range(6):
        mixture = mixtures[item]
        (number,) = np.flatnonzero(~mixture.heard)
        # Frame 1 or 16, of 16; the motion is that of the first or the last 1.5 s.
        seen = mixture.frames[number, 1].mean() / 3
        moving_seen = numbers_of(mixture.motion[number])
        assert moving_seen[0] == (0 if seen < 8 else 8)
        np.testing.assert_array_equal(np.diff(moving_seen), 1)
        assert min(abs(seen - 1), abs(seen - 16)) < 0.7


def test_no_mixture_has_both_a_silent_and_a_shifted_source() -> None:
    shares = Shares(silent=0.3, shifted=0.5)
    lessons = [shares.draw(0.0, generator(SEED, "test", item)) for item in range(2000)]
    assert not any(lesson.is_silent and lesson.is_shifted for lesson in lessons)
    assert np.mean([lesson.is_silent for lesson in lessons]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([lesson.is_shifted for lesson in lessons]) == pytest.approx(0.5, abs=0.03)
    assert all(lesson.choice is None for lesson in lessons)


def test_shares_rise_linearly() -> None:
    shares = Shares(same_category=0.8, silent=0.4, shifted=0.4, ramp_epochs=2.0)
    for progress, risen in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (5.0, 1.0)):
        lessons = [shares.draw(progress, generator(SEED, "test", item)) for item in range(2000)]
        means = [
            np.mean([lesson.choice == "same" for lesson in lessons]),
            np.mean([lesson.is_silent for lesson in lessons]),
            np.mean([lesson.is_shifted for lesson in lessons]),
        ]
        np.testing.assert_allclose(means, np.array([0.8, 0.4, 0.4]) * risen, atol=0.04)


def test_the_ramp_counts_all_epochs(six: list[Video], tiny_params: Params) -> None:
    mixtures = mixtures_of(six, tiny_params, repeats=2, silent=1.0, ramp_epochs=2.0)
    assert len(mixtures) == 12
    assert mixtures[0].heard.all()
    heard = [mixtures[item].heard.all() for item in range(1, 24)]
    assert 0 < sum(heard) < 23
    assert sum(heard[:12]) > sum(heard[12:])
    assert not any(mixtures[item].heard.all() for item in range(24, 30))


def test_evaluation_of_one_category(tiny_params: Params) -> None:
    videos = paper(*(f"i{n % 3}/v{n}" for n in range(9)), "harp/a")
    different = list(evaluation_videos(videos, tiny_params.mixture, 20, SEED))
    alike = list(evaluation_videos(videos, tiny_params.mixture, 20, SEED, same_category=True))
    assert len(alike) == 20
    assert all(first.category == second.category for first, second in alike)
    assert all(first != second for first, second in alike)
    assert all(first.category != second.category for first, second in different)
    # First videos come in turn, without the one that has no match.
    assert {first.name for first, _ in alike[:9]} == {video.name for video in videos[:9]}
    assert list(evaluation_videos(videos, tiny_params.mixture, 20, SEED, True)) == alike


def test_no_category_with_two_videos_gives_no_mixtures_of_one_category(tiny_params: Params) -> None:
    videos = paper("flute/a", "tuba/a")
    assert not list(evaluation_videos(videos, tiny_params.mixture, 20, SEED, same_category=True))
    with pytest.raises(UserError, match=r"val\.csv: mixture\.sources: 2 .* with 1 video "):
        list(evaluation_videos(videos[:1], tiny_params.mixture, 20, SEED, same_category=True))
    talkers = paper("talker/a", "talker/b")
    assert len(list(evaluation_videos(talkers, tiny_params.mixture, 3, SEED, True))) == 3
    assert VALIDATION == "val.csv"


def test_evaluation_shifts_what_is_seen(six: list[Video], moving: Params) -> None:
    reader = MixtureReader(moving.mixture, moving.extract, motion=True)
    plain, shifted = reader.middle(six[:2]), reader.middle(six[:2], shift_seconds=1.5)
    np.testing.assert_array_equal(plain.audio, shifted.audio)
    assert plain.heard.all()
    assert not shifted.heard.any()
    for before, after in zip(plain.motion, shifted.motion, strict=True):
        np.testing.assert_array_equal(numbers_of(after), numbers_of(before) + 24)
    seen = (shifted.frames.astype(float) - plain.frames).mean(axis=(2, 3, 4)) / 3
    np.testing.assert_allclose(seen, 12, atol=0.7)
    earlier = reader.middle(six[:2], shift_seconds=-1.0)
    assert numbers_of(earlier.motion[0])[0] == numbers_of(plain.motion[0])[0] - 16


def test_motion_of_the_middle_covers_its_sound(six: list[Video], moving: Params) -> None:
    mixture = MixtureReader(moving.mixture, moving.extract, motion=True).middle(six[:2])
    for audio, motion in zip(mixture.audio, mixture.motion, strict=True):
        assert numbers_of(motion)[0] == np.floor(begins(audio) * MOTION_RATE + 0.5)


def test_evaluation_silences_one_source(six: list[Video], moving: Params) -> None:
    reader = MixtureReader(moving.mixture, moving.extract, motion=True)
    plain, silent = reader.middle(six[:2]), reader.middle(six[:2], silent=1)
    np.testing.assert_array_equal(silent.audio[0], plain.audio[0])
    assert not silent.audio[1].any()
    assert silent.heard.tolist() == [True, False]
    np.testing.assert_array_equal(silent.motion, plain.motion)
    np.testing.assert_array_equal(silent.frames, plain.frames)


def test_a_source_that_rests_at_its_middle_is_read(
    ramps: Callable[..., Video], moving: Params
) -> None:
    videos = [ramps("i0/v"), ramps("i1/v", level=0.0)]
    mixture = MixtureReader(moving.mixture, moving.extract, motion=True).middle(videos)
    assert not mixture.audio[1].any()
    assert mixture.heard.all()
