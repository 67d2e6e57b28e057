import io
import zipfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from sop.dataset.clips import read_frames
from sop.dataset.index import TRAIN, VALIDATION, Video
from sop.dataset.mixtures import (
    MixtureReader,
    MixtureSampler,
    TrainingMixtures,
    collate,
    evaluation_videos,
)
from sop.dataset.seeding import generator
from sop.params import Params
from sop.runtime.errors import LeftOut, UserError
from tests.support.experiment import with_values

SEED = 5
REPEATS = 3
BATCH = 4
MOTION_RATE = 16.0
MOTION = {"extract.motion_rate": MOTION_RATE, "mixture.motion_size": 20}
# Of 16383 samples at 11025 Hz.
MOTION_FRAMES = 24


def mixtures_of(
    videos: list[Video], params: Params, seed: int = SEED, motion: bool = False
) -> TrainingMixtures:
    reader = MixtureReader(params.mixture, params.extract, motion)
    return TrainingMixtures(videos, reader, REPEATS, BATCH, seed)


def paper(*names: str) -> list[Video]:
    """Videos that are never opened; `flute+violin/a` is a duet."""
    return [
        Video(Path(f"audio/{name}.wav"), Path(f"frames/{name}.zip"), 24, duet_of(name))
        for name in names
    ]


def duet_of(name: str) -> tuple[str, ...]:
    instruments = tuple(name.partition("/")[0].split("+"))
    return instruments if len(instruments) > 1 else ()


@pytest.fixture
def ramps(tmp_path: Path) -> Callable[..., Video]:
    """Makes a video whose sound tells where in it a window lies, and each frame its number.

    Frame n of its motion track has the value n.
    """

    def make(name: str, seconds: float = 8.0, level: float = 0.4) -> Video:
        audio, frames = tmp_path / f"{name}.wav", tmp_path / f"{name}.zip"
        audio.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio, np.linspace(0, level, round(seconds * 11025)), 11025, "FLOAT")
        count = round(seconds * 8)
        with zipfile.ZipFile(frames, "w") as archive:
            for number in range(1, count + 1):
                archive.writestr(f"{number:06d}.jpg", grey_jpeg(number))
        numbers = np.arange(round(seconds * MOTION_RATE), dtype=np.uint8)
        track = frames.with_suffix(".npy")
        np.save(track, np.tile(numbers[:, None, None], (1, 24, 32)))
        return Video(audio, frames, count, motion=track)

    return make


def grey_jpeg(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (64, 48), 3 * number).save(content, "JPEG", quality=95)
    return content.getvalue()


def assert_same(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(first.audio, second.audio)
    np.testing.assert_array_equal(first.frames, second.frames)
    assert first.videos == second.videos


def test_item_has_sounds_and_frames_of_each_source(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    mixture = mixtures_of(tiny_videos, tiny_params)[0]
    assert mixture.audio.shape == (2, 16383)
    assert mixture.audio.dtype == np.float32
    assert mixture.frames.shape == (2, 2, 32, 32, 3)
    assert mixture.frames.dtype == np.uint8
    assert len(mixture.videos) == 2
    assert mixture.left_out == ()
    assert np.abs(mixture.audio).max(axis=1).min() > 0.01


def begins(audio: NDArray[np.float32]) -> float:
    """The second at which a sound of `ramps` begins."""
    samples = audio.astype(np.float64)
    return float(samples[0] / ((samples[-1] - samples[0]) / (len(samples) - 1)) / 11025)


def numbers_of(motion: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers of the motion frames of `ramps`, which are the same everywhere in a frame."""
    assert (motion == motion[:, :1, :1]).all()
    return motion[:, 0, 0].astype(int)


def test_default_mixtures_stay_what_they_were(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    """Names, volumes, moments and frames of an earlier version: (same_category, item) by item."""
    videos = [ramps(f"i{number % 3}/v{number}") for number in range(6)]
    expected = {
        (False, 0): ("v5 v3", [1.1229, 0.9546], [6.0695, 5.9446], [53, 52]),
        (False, 5): ("v4 v0", [1.049, 0.731], [5.8196, 4.8196], [51, 43]),
        (False, 19): ("v1 v5", [1.4477, 0.9492], [3.8195, 3.9445], [35, 36]),
        (True, 0): ("v5 v3", [1.1229, 0.9546], [6.0695, 5.9446], [53, 52]),
        (True, 5): ("v4 v1", [1.049, 0.731], [5.8196, 4.8196], [51, 43]),
        (True, 19): ("v1 v4", [1.4477, 0.9492], [3.8195, 3.9445], [35, 36]),
    }
    for (same_category, item), (names, volumes, seconds, numbers) in expected.items():
        params = with_values(tiny_params, {"mixture.same_category": same_category})
        # An epoch of 16 mixtures.
        mixture = mixtures_of(videos, params)[item]
        assert " ".join(video.audio.stem for video in mixture.videos) == names
        audio = mixture.audio.astype(np.float64)
        rise = (audio[:, 10000] - audio[:, 0]) / 10000 * 2 * 88199 / 0.4
        np.testing.assert_allclose(rise, volumes, atol=1e-4)
        np.testing.assert_allclose(audio[:, 0] / rise * 2 * 8 / 0.4, seconds, atol=1e-4)
        shown = mixture.frames[:, 0].mean(axis=(1, 2, 3)) / 3
        np.testing.assert_array_equal(shown.round(), numbers)
        assert mixture.heard.tolist() == [True, True]
        assert mixture.motion is None


def test_motion_is_read_beside_the_same_mixture(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, MOTION)
    videos = [ramps(f"i{number}/v") for number in range(4)]
    moving, still = mixtures_of(videos, params, motion=True), mixtures_of(videos, params)
    for item in range(8):
        assert_same(moving[item], still[item])
        motion = moving[item].motion
        assert motion.shape == (2, MOTION_FRAMES, 20, 20)
        assert motion.dtype == np.uint8
        assert still[item].motion is None


@pytest.mark.parametrize("margin", [1.5, 0.0])
def test_motion_frames_cover_the_samples_that_were_read(
    ramps: Callable[..., Video], tiny_params: Params, margin: float
) -> None:
    """Also at the ends of a video, where the window of the sound is moved inside."""
    params = with_values(
        tiny_params, MOTION | {"mixture.margin_seconds": margin, "mixture.frames": 1}
    )
    videos = [ramps(f"i{number}/v") for number in range(2)]
    reader = MixtureReader(params.mixture, params.extract, motion=True)
    mixtures = TrainingMixtures(videos, reader, 20, 8, SEED)
    starts = []
    for item in range(len(mixtures)):
        mixture = mixtures[item]
        for audio, motion in zip(mixture.audio, mixture.motion, strict=True):
            begin, numbers = begins(audio), numbers_of(motion)
            np.testing.assert_array_equal(np.diff(numbers), 1)
            middle = (numbers[0] + 0.5) / MOTION_RATE
            assert abs(middle - (begin + 0.5 / MOTION_RATE)) <= 0.5 / MOTION_RATE + 1e-3
            starts.append(begin)
    if margin == 0:
        assert min(starts) == 0
        assert max(starts) == pytest.approx(8 - 16383 / 11025, abs=1e-3)


def test_motion_is_cut_and_mirrored_as_the_frames_are(tmp_path: Path, tiny_params: Params) -> None:
    params = with_values(
        tiny_params, MOTION | {"mixture.image_size": 80, "mixture.motion_size": 40}
    )
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (6, 8), np.uint8))
    content = io.BytesIO()
    picture.resize((116, 88), Image.Resampling.BICUBIC).save(content, "JPEG", quality=98)
    small = np.asarray(picture.resize((58, 44), Image.Resampling.BICUBIC))
    videos = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        places = [tmp_path / name / f"v.{suffix}" for suffix in ("wav", "zip", "npy")]
        soundfile.write(places[0], np.full(11025 * 4, 0.1), 11025)
        with zipfile.ZipFile(places[1], "w") as archive:
            for number in range(1, 33):
                archive.writestr(f"{number:06d}.jpg", content.getvalue())
        np.save(places[2], np.tile(small, (64, 1, 1)))
        videos.append(Video(*places[:2], 32, motion=places[2]))
    mixtures = mixtures_of(videos, params, motion=True)
    for item in range(6):
        mixture = mixtures[item]
        for frames, motion in zip(mixture.frames, mixture.motion, strict=True):
            seen = frames[0].mean(axis=2).reshape(40, 2, 40, 2).mean(axis=(1, 3))
            assert np.corrcoef(seen.ravel(), motion[5].ravel())[0, 1] > 0.98


def test_video_without_a_track_is_left_out(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, MOTION)
    videos = [ramps(f"i{number}/v") for number in range(4)]
    videos[0].motion.unlink()
    mixtures = mixtures_of(videos, params, motion=True)
    reasons = [reason for item in range(8) for reason in mixtures[item].left_out]
    assert reasons
    assert set(reasons) == {
        f"{videos[0].motion}: no such motion track; set extract.motion_rate, "
        "then run `dvc repro extract`"
    }


def test_size_of_a_mixture_is_that_of_its_arrays(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, MOTION)
    videos = [ramps(f"i{number}/v") for number in range(2)]
    for motion in (False, True):
        mixtures = mixtures_of(videos, params, motion=motion)
        mixture = mixtures[0]
        arrays = [mixture.audio, mixture.frames, mixture.heard]
        arrays += [mixture.motion] if motion else []
        assert mixtures.reader.mixture_bytes == sum(array.nbytes for array in arrays)


def test_items_are_the_same_in_any_order(tiny_videos: list[Video], tiny_params: Params) -> None:
    forward = mixtures_of(tiny_videos, tiny_params)
    backward = mixtures_of(tiny_videos, tiny_params)
    epoch = len(forward)
    items = [0, 7, epoch - 1, epoch, 3 * epoch + 7]
    expected = {item: forward[item] for item in items}
    for item in reversed(items):
        assert_same(backward[item], expected[item])


def test_epochs_and_seeds_differ(tiny_videos: list[Video], tiny_params: Params) -> None:
    mixtures = mixtures_of(tiny_videos, tiny_params)
    others = mixtures_of(tiny_videos, tiny_params, seed=SEED + 1)
    firsts = [
        [mixtures[item].videos for item in range(6)],
        [mixtures[len(mixtures) + item].videos for item in range(6)],
        [others[item].videos for item in range(6)],
    ]
    for first, second in pairwise([*firsts, firsts[0]]):
        assert first != second


def test_same_videos_are_mixed_otherwise_in_another_epoch(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    mixtures = mixtures_of(tiny_videos[:2], tiny_params)
    epochs = [mixtures[epoch * len(mixtures)] for epoch in range(6)]
    assert len({mixture.videos for mixture in epochs}) <= 2
    assert len({mixture.audio.tobytes() for mixture in epochs}) == 6
    assert len({mixture.frames.tobytes() for mixture in epochs}) == 6


def test_an_epoch_is_whole_steps_and_at_least_one(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    lengths = {(20, 3, 8): 56, (20, 1, 20): 20, (20, 1, 7): 14, (3, 1, 16): 16}
    for (videos, repeats, batch), length in lengths.items():
        mixtures = TrainingMixtures(tiny_videos[:videos], reader, repeats, batch, SEED)
        assert len(mixtures) == length


def test_source_0_runs_over_the_list_in_a_new_order_each_epoch(
    monkeypatch: pytest.MonkeyPatch, tiny_params: Params
) -> None:
    videos = paper(*(f"i{n}/v" for n in range(20)))
    mixtures = mixtures_of(videos, tiny_params)
    assert len(mixtures) == REPEATS * len(videos)
    read: list[Video] = []

    def remember(drawn: list[Video], rng: np.random.Generator, **_: Any) -> None:
        read.append(drawn[0])
        raise LeftOut("never opened")

    monkeypatch.setattr(mixtures.reader, "random", remember)
    epochs = []
    for epoch in range(2):
        firsts = []
        for position in range(len(mixtures)):
            read.clear()
            with pytest.raises(UserError):
                mixtures[epoch * len(mixtures) + position]
            firsts.append(read[0])
        assert Counter(firsts) == dict.fromkeys(videos, REPEATS)
        epochs.append(firsts)
    assert epochs[0] != epochs[1]
    assert epochs[0] != videos * REPEATS


@pytest.mark.parametrize("same_category", [True, False])
def test_no_video_is_mixed_with_itself(tiny_params: Params, same_category: bool) -> None:
    videos = paper("flute/a", "flute/b", "cello/a", "tuba/a")
    params = with_values(
        tiny_params, {"mixture.sources": 3, "mixture.same_category": same_category}
    ).mixture
    sampler = MixtureSampler(videos, params, TRAIN)
    met = set()
    for item in range(300):
        drawn = sampler.sample(item % 4, generator(SEED, "test", item))
        assert drawn[0] == videos[item % 4]
        assert len({video.name for video in drawn}) == 3
        met |= {(video.name, other.name) for video in drawn for other in drawn}
    assert (("flute/a", "flute/b") in met) == same_category
    assert ("flute/a", "cello/a") in met


def test_instruments_of_duets_do_not_meet_again(tiny_params: Params) -> None:
    videos = paper(
        *("flute/a", "violin/a", "acoustic_guitar/a", "flute+violin/a"),
        *("acoustic_guitar+violin/a", "tuba/a"),
    )
    sampler = MixtureSampler(videos, tiny_params.mixture, TRAIN)
    partners: dict[str, set[str]] = {}
    for item in range(600):
        first, second = sampler.sample(item % 6, generator(SEED, "test", item))
        partners.setdefault(first.category, set()).add(second.category)
    assert partners["flute+violin"] == {"acoustic_guitar", "tuba"}
    assert partners["acoustic_guitar+violin"] == {"flute", "tuba"}
    assert partners["violin"] == {"flute", "acoustic_guitar", "tuba"}
    assert len(partners["tuba"]) == 5


def test_duet_of_one_instrument_does_not_meet_that_instrument(tiny_params: Params) -> None:
    videos = paper("flute/a", "flute+flute/a", "cello+cello/a", "tuba/a")
    sampler = MixtureSampler(videos, tiny_params.mixture, TRAIN)
    partners = {sampler.sample(1, generator(SEED, "t", n))[1].category for n in range(50)}
    assert partners == {"cello+cello", "tuba"}


def test_every_other_video_is_drawn_equally_often(tiny_params: Params) -> None:
    videos = paper(*(f"i{n}/v" for n in range(5)))
    sampler = MixtureSampler(videos, tiny_params.mixture, TRAIN)
    seconds = Counter(sampler.sample(0, generator(SEED, "t", n))[1] for n in range(2000))
    assert seconds.keys() == set(videos[1:])
    assert min(seconds.values()) > 400


def test_an_underscore_does_not_make_a_duet(tiny_params: Params) -> None:
    videos = paper("bass_clarinet/a", "bass/a", "clarinet/a")
    sampler = MixtureSampler(videos, tiny_params.mixture, TRAIN)
    partners = {sampler.sample(0, generator(SEED, "t", n))[1].category for n in range(50)}
    assert partners == {"bass", "clarinet"}


def test_too_few_videos_or_instruments_are_a_users_mistake(tiny_params: Params) -> None:
    alike = paper("flute/a", "flute/b", "flute/c")
    with pytest.raises(
        UserError,
        match=r"^val\.csv: mixture\.sources: 2 is not possible with 1 instrument in this list "
        r"\(flute 3\); add videos, change index\.train_fraction or the lists of index\.split, "
        r"or set mixture\.same_category: true$",
    ):
        MixtureSampler(alike, tiny_params.mixture, VALIDATION)
    params = with_values(tiny_params, {"mixture.same_category": True, "mixture.sources": 4})
    with pytest.raises(UserError, match=r"mixture\.sources: 4 .* 3 videos") as caught:
        MixtureSampler(alike, params.mixture, TRAIN)
    assert "same_category" not in str(caught.value)
    with pytest.raises(UserError, match="0 instruments"):
        MixtureSampler([], tiny_params.mixture, TRAIN)
    # Three instruments, of which any two videos share one.
    crossed = MixtureSampler(
        paper("flute+violin/a", "tuba+violin/a", "flute+tuba/a"), tiny_params.mixture, TRAIN
    )
    with pytest.raises(UserError, match=r"train\.csv: no other instrument.*flute\+violin/a"):
        crossed.sample(0, generator(SEED, "test"))


def moments(mixtures: TrainingMixtures) -> NDArray[np.float64]:
    """The seconds that lie in the middle of the first sources' sounds, from their ramps."""
    found = []
    for item in range(len(mixtures)):
        audio = mixtures[item].audio[0].astype(np.float64)
        slope = (audio[-1] - audio[0]) / (len(audio) - 1)
        found.append(audio[len(audio) // 2] / slope / 11025)
    return np.array(found)


def test_training_moments_keep_their_margin(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, {"mixture.margin_seconds": 2.0})
    videos = [ramps(f"i{n}/v") for n in range(2)]
    mixtures = TrainingMixtures(videos, MixtureReader(params.mixture, params.extract), 60, 8, SEED)
    seconds = moments(mixtures)
    # Frames 17 to 48 of 64 have two seconds on either side.
    assert seconds.min() == pytest.approx(16.5 / 8, abs=0.01)
    assert seconds.max() == pytest.approx(47.5 / 8, abs=0.01)
    assert len(np.unique(seconds.round(2))) > 25


def test_frames_of_a_clip_lie_within_its_video_and_stride_apart(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(
        tiny_params,
        {"mixture.margin_seconds": 0.0, "mixture.frames": 3, "mixture.frame_stride": 20},
    )
    videos = [ramps(f"i{n}/v") for n in range(2)]
    mixtures = mixtures_of(videos, params)
    for item in range(12):
        numbers = mixtures[item].frames[0].mean(axis=(1, 2, 3)) / 3
        assert numbers[0] >= 0.5
        np.testing.assert_allclose(np.diff(numbers), 20, atol=1)


def test_sound_and_frames_are_of_the_same_moment(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(tiny_params, {"mixture.frames": 1, "mixture.margin_seconds": 1.0})
    videos = [ramps(f"i{n}/v", level=0.4) for n in range(2)]
    mixtures = TrainingMixtures(videos, MixtureReader(params.mixture, params.extract), 20, 8, SEED)
    seconds = moments(mixtures)
    for item, second in enumerate(seconds):
        number = mixtures[item].frames[0].mean() / 3
        assert second == pytest.approx((number - 0.5) / 8, abs=0.5 / 8)


def test_video_shorter_than_its_margins_is_taken_in_the_middle(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    params = with_values(
        tiny_params,
        {"mixture.margin_seconds": 5.0, "mixture.frames": 3, "mixture.frame_stride": 30},
    )
    videos = [ramps(f"i{n}/v", seconds=4.0) for n in range(2)]
    mixture = mixtures_of(videos, params)[0]
    numbers = mixture.frames[0].mean(axis=(1, 2, 3)) / 3
    np.testing.assert_allclose(numbers, [1, 16, 32], atol=0.7)


def test_frames_of_a_clip_share_their_crop_and_clips_do_not(
    tmp_path: Path, tiny_params: Params
) -> None:
    pattern = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pattern).resize((192, 144)).save(content, "JPEG")
    videos = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "v.wav", np.full(11025 * 4, 0.1), 11025)
        with zipfile.ZipFile(tmp_path / name / "v.zip", "w") as archive:
            for number in range(1, 33):
                archive.writestr(f"{number:06d}.jpg", content.getvalue())
        videos.append(Video(tmp_path / name / "v.wav", tmp_path / name / "v.zip", 32))
    mixtures = mixtures_of(videos, tiny_params)
    clips = []
    for item in range(4):
        for frames in mixtures[item].frames:
            np.testing.assert_array_equal(frames[0], frames[1])
            clips.append(frames[0].tobytes())
    assert len(set(clips)) == len(clips)
    centre = read_frames(videos[0].frames, [1], 32)[0].tobytes()
    assert centre not in clips


def test_volume_clipping_and_division(ramps: Callable[..., Video], tiny_params: Params) -> None:
    sources = 3
    params = with_values(tiny_params, {"mixture.sources": sources, "mixture.audio_samples": 81919})
    videos = [ramps(f"i{n}/v", level=0.8) for n in range(sources)]
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(videos, reader, 40, 8, SEED)
    volumes, clipped = [], 0
    for item in range(24):
        for audio in mixtures[item].audio.astype(np.float64) * sources:
            # The ramp rises by 0.8 in the file's 88200 samples.
            rise = (audio[10000] - audio[0]) / 10000
            volumes.append(rise * 88199 / 0.8)
            unclipped = audio[0] + rise * np.arange(81919)
            clipped += unclipped[-1] > 1
            np.testing.assert_allclose(audio, unclipped.clip(max=1), atol=1e-3)
    assert clipped > 0
    assert 0.5 <= min(volumes) < 0.6
    assert 1.4 < max(volumes) <= 1.5
    assert np.mean(volumes) == pytest.approx(1, abs=0.1)


def test_evaluation_takes_the_middle_as_it_is(
    ramps: Callable[..., Video], tiny_params: Params
) -> None:
    videos = [ramps(f"i{n}/v") for n in range(2)]
    mixture = MixtureReader(tiny_params.mixture, tiny_params.extract).middle(videos)
    for video, audio, frames in zip(videos, mixture.audio, mixture.frames, strict=True):
        # Frame 32 of 64 covers second 31.5 / 8.
        whole, _ = soundfile.read(video.audio, dtype="float32")
        first = int(31.5 / 8 * 11025) - 16383 // 2
        np.testing.assert_array_equal(audio, whole[first : first + 16383] / 2)
        np.testing.assert_array_equal(frames, read_frames(video.frames, [30, 32], 32))


def test_evaluation_videos_are_fixed_by_the_seed(tiny_params: Params) -> None:
    videos = paper(*(f"i{n}/v" for n in range(7)))
    many = list(evaluation_videos(videos, tiny_params.mixture, 30, SEED))
    assert len(many) == 30
    assert list(evaluation_videos(videos, tiny_params.mixture, 30, SEED)) == many
    assert list(evaluation_videos(videos, tiny_params.mixture, 11, SEED)) == many[:11]
    assert list(evaluation_videos(videos, tiny_params.mixture, 30, SEED + 1)) != many
    firsts = [drawn[0] for drawn in many]
    assert set(firsts[:7]) == set(videos)
    assert firsts[:7] == firsts[7:14]
    assert many[:7] != many[7:14]


def test_unreadable_clip_is_replaced(ramps: Callable[..., Video], tiny_params: Params) -> None:
    videos = [ramps(f"i{n}/v") for n in range(6)]
    videos[0].audio.write_bytes(videos[0].audio.read_bytes()[:5000])
    with zipfile.ZipFile(videos[1].frames, "w") as archive:
        for number in range(1, 65):
            archive.writestr(f"{number:06d}.jpg", b"no picture")
    mixtures = mixtures_of(videos, tiny_params)
    named = set()
    for item in range(len(mixtures)):
        mixture = mixtures[item]
        assert not {videos[0], videos[1]} & set(mixture.videos)
        assert np.abs(mixture.audio).max(axis=1).min() > 0.01
        assert mixture.frames.mean(axis=(1, 2, 3, 4)).min() > 1
        named |= {reason.partition(".zip/")[0].partition(": ")[0] for reason in mixture.left_out}
        assert mixtures[item].left_out == mixture.left_out
        assert_same(mixtures[item], mixture)
    assert named == {str(videos[0].audio), str(videos[1].frames.with_suffix(""))}


def test_training_gives_up_when_nothing_is_readable(tiny_params: Params) -> None:
    with pytest.raises(UserError, match=r"20 clips in a row are unreadable: frames/.*zip"):
        mixtures_of(paper("a/v", "b/v"), tiny_params)[0]


def test_unreadable_clip_of_evaluation(ramps: Callable[..., Video], tiny_params: Params) -> None:
    videos = [ramps("a/v"), ramps("b/v")]
    videos[1].audio.write_bytes(b"garbage")
    with pytest.raises(LeftOut, match=f"{videos[1].audio}: not readable as sound"):
        MixtureReader(tiny_params.mixture, tiny_params.extract).middle(videos)


def test_batch_stacks_mixtures_and_keeps_what_was_left_out(
    tiny_videos: list[Video], tiny_params: Params
) -> None:
    mixtures = mixtures_of(tiny_videos, tiny_params)
    items = [mixtures[0]._replace(left_out=("a", "b")), mixtures[1], mixtures[2]]
    items[2] = items[2]._replace(left_out=("c",))
    batch = collate(items)
    assert batch.audio.shape == (3, 2, 16383)
    assert batch.audio.dtype == torch.float32
    assert batch.frames.shape == (3, 2, 2, 32, 32, 3)
    assert batch.frames.dtype == torch.uint8
    np.testing.assert_array_equal(batch.audio[1], items[1].audio)
    np.testing.assert_array_equal(batch.frames[2], items[2].frames)
    assert batch.left_out == ("a", "b", "c")
    assert batch.heard.dtype == torch.bool
    assert batch.heard.shape == (3, 2)
    assert batch.heard.all()
    assert batch.motion is None


def test_batch_stacks_motion(ramps: Callable[..., Video], tiny_params: Params) -> None:
    params = with_values(tiny_params, MOTION)
    mixtures = mixtures_of([ramps("a/v"), ramps("b/v")], params, motion=True)
    items = [mixtures[0], mixtures[1]._replace(heard=np.array([False, True]))]
    batch = collate(items)
    assert batch.motion.shape == (2, 2, MOTION_FRAMES, 20, 20)
    assert batch.motion.dtype == torch.uint8
    np.testing.assert_array_equal(batch.motion[1], items[1].motion)
    assert batch.heard.tolist() == [[True, True], [False, True]]
