import subprocess
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image, ImageDraw
from scipy.signal import istft, resample_poly, stft

from sop.download.synthetic import INSTRUMENTS, PlannedVideo, Truth, plan, read_truth, render
from sop.download.synthetic.melody import Note, Rest, melody, melody_with_rests
from sop.download.synthetic.pen import Pen
from sop.download.synthetic.player import Look, Pose, draw_player, idle, look, poses
from sop.download.synthetic.scene import RenderedScene
from sop.download.synthetic.sound import stems
from sop.download.synthetic.timbre import synthesize
from sop.media.ffmpeg import binary

SEED = 3
WIDTH, HEIGHT, RATE = 96, 72, 22050
FORMAT = {"seconds": 2.5, "width": WIDTH, "height": HEIGHT, "frame_rate": 12, "sample_rate": RATE}


def settings(**numbers: int) -> SimpleNamespace:
    """Parameters of short videos, with these numbers of videos and none of other kinds."""
    kinds = ("solos", "duets", "same_duets", "resting_solos", "resting_duets")
    none = dict.fromkeys((*kinds, "talkers", "talker_pairs"), 0)
    return SimpleNamespace(**none | FORMAT | numbers)


PARAMS = settings(solos=1, duets=5)
SOLO = PlannedVideo("trumpet", "trumpet_000", ("trumpet",), 0)
DUET = PlannedVideo("cello_flute", "cello_flute_000", ("cello", "flute"), 0)
SAME = PlannedVideo("flute_flute", "flute_flute_000", ("flute", "flute"), 0)
RESTING_SOLO = PlannedVideo("violin", "violin_rest_000", ("violin",), 0, rests=True)
RESTING_DUET = PlannedVideo("cello_flute", "cello_flute_rest_000", ("cello", "flute"), 0, resting=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for video in (SOLO, DUET, SAME, RESTING_SOLO, RESTING_DUET):
        render(video, PARAMS, SEED, folder)
    return folder


def truth_of(folder: Path, video: PlannedVideo) -> Truth:
    return read_truth(folder / video.category / f"{video.name}.truth.npz")


def decoded_sound(path: Path) -> np.ndarray:
    command = [binary(), "-v", "error", "-i", str(path), "-ac", "1", "-f", "s16le", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, "<i2").astype(np.float64)


def decoded_frames(path: Path) -> np.ndarray:
    command = [binary(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


def scene_of(
    *instruments: str, index: int = 0, frames: int = 24, empty: bool = False
) -> RenderedScene:
    """A scene of these players, or the same scene without them."""
    rng = np.random.default_rng([SEED, index])
    melodies = [melody(instrument, frames / 12, rng) for instrument in instruments]
    return RenderedScene(
        () if empty else instruments,
        () if empty else melodies,
        width=WIDTH,
        height=HEIGHT,
        frame_rate=12,
        frames=frames,
        rng=rng,
    )


def solo_sound(instrument: str, index: int) -> np.ndarray:
    """Three seconds at 11025 Hz, RMS 1."""
    rng = np.random.default_rng([SEED, index, INSTRUMENTS.index(instrument)])
    (stem,) = stems([instrument], [melody(instrument, 3.0, rng)], 3.0, RATE, rng)
    sound = resample_poly(stem.astype(np.float64), 1, 2)
    return sound / sound.std()


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    target = (estimate @ source) / (source @ source) * source
    return float(10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2)))


def test_ten_instruments_in_alphabetical_order():
    assert len(INSTRUMENTS) == 10
    assert tuple(sorted(INSTRUMENTS)) == INSTRUMENTS


def test_plan():
    planned = plan(PARAMS, SEED)
    assert len(planned) == 10 * PARAMS.solos + PARAMS.duets
    assert len({video.name for video in planned}) == len(planned)
    for video in planned:
        assert video.category == "_".join(video.instruments)
        assert video.name == f"{video.category}_{video.index:03d}"
        assert list(video.instruments) == sorted(set(video.instruments))


def test_more_videos_keep_the_earlier_ones():
    fewer = plan(settings(solos=2, duets=7), SEED)
    more = plan(settings(solos=5, duets=30), SEED)
    assert fewer[:20] == more[:20]
    assert fewer[20:] == more[50:57]
    for kind in ("same_duets", "resting_solos", "resting_duets"):
        fewer = plan(settings(**{kind: 3}), SEED)
        more = plan(settings(**{kind: 13, "solos": 1}), SEED)[10:]
        assert fewer == more[: len(fewer)]


def test_names_are_unique():
    kinds = {"duets": 60, "same_duets": 40, "resting_solos": 3, "resting_duets": 60}
    planned = plan(settings(solos=3, **kinds), SEED)
    assert len(planned) == 30 + 60 + 40 + 30 + 60
    assert len({video.name for video in planned}) == len(planned)
    assert all(video.category == "_".join(video.instruments) for video in planned)


def test_every_instrument_has_its_resting_solos():
    planned = plan(settings(resting_solos=2), SEED)
    assert [video.category for video in planned] == [*INSTRUMENTS, *INSTRUMENTS]
    assert all(video.rests and video.resting is None for video in planned)
    assert planned[0].name == "accordion_rest_000"


def test_duets_of_one_instrument_use_all_instruments_evenly():
    planned = plan(settings(same_duets=20), SEED)
    assert all(len(set(video.instruments)) == 1 for video in planned)
    for first in (0, 10):
        played = [video.instruments[0] for video in planned[first : first + 10]]
        assert sorted(played) == list(INSTRUMENTS)
        assert played != list(INSTRUMENTS)


def test_resting_duets_alternate_between_two_instruments_and_one():
    planned = plan(settings(resting_duets=20), SEED)
    assert [len(set(video.instruments)) for video in planned] == [2, 1] * 10
    for kind, times in ((planned[::2], 2), (planned[1::2], 1)):
        played = [name for video in kind for name in set(video.instruments)]
        assert all(played.count(instrument) == times for instrument in INSTRUMENTS)
    assert {video.resting for video in planned} == {0, 1}


def test_duets_use_all_instruments_evenly():
    duets = plan(settings(duets=10), SEED)
    played = [instrument for video in duets for instrument in video.instruments]
    assert all(played.count(instrument) == 2 for instrument in INSTRUMENTS)


def test_another_seed_plans_other_duets():
    params = settings(duets=10)
    assert plan(params, 1) != plan(params, 2)


@pytest.mark.parametrize(
    "video", [SOLO, DUET, SAME, RESTING_SOLO, RESTING_DUET], ids=lambda video: video.name
)
def test_rendering_is_reproducible(videos: Path, tmp_path: Path, video):
    render(video, PARAMS, SEED, tmp_path)
    for name in (f"{video.name}.mp4", f"{video.name}.truth.npz"):
        again = tmp_path / video.category / name
        assert again.read_bytes() == (videos / video.category / name).read_bytes()
    assert len(list((tmp_path / video.category).iterdir())) == 2


def test_a_video_depends_on_its_name_and_the_seed(videos: Path, tmp_path: Path):
    render(PlannedVideo("trumpet", "trumpet_001", ("trumpet",), 1), PARAMS, SEED, tmp_path)
    render(SOLO, PARAMS, SEED + 1, tmp_path)
    stem = truth_of(videos, SOLO).stems
    for name in ("trumpet_001", "trumpet_000"):
        other = read_truth(tmp_path / "trumpet" / f"{name}.truth.npz").stems
        assert not np.array_equal(stem, other)


def test_earlier_videos_stay_as_they_are(videos: Path):
    """Another order of random choices would change all of these numbers, of before the rests."""
    solo, duet = truth_of(videos, SOLO), truth_of(videos, DUET)
    early = [[9832, -5308, -796, 2255, 430], [3048, -5344, 1548, -758, 6260]]
    assert_allclose(solo.stems[:, 5000:35000:7000], [[-8414, -9, 16689, -928, 1500]], atol=2)
    assert_allclose(duet.stems[:, 5000:35000:7000], early, atol=2)
    assert_allclose(solo.boxes[:, 14], [[21.7, 18.24, 55.77, 58.1]], atol=0.01)
    places = [[57.21, 20.07, 85.35, 60.11], [5.05, 10.6, 41.22, 55.74]]
    assert_allclose(duet.boxes[:, 14], places, atol=0.01)
    colours = {SOLO: [[91, 101, 107], [107, 112, 123]], DUET: [[113, 95, 90], [115, 92, 89]]}
    for video, corners in colours.items():
        frame = decoded_frames(videos / video.category / f"{video.name}.mp4")[14]
        upper = frame[:24].reshape(24, 3, 32, 3).mean(axis=(0, 2))
        assert_allclose(upper[[0, 2]], corners, atol=1)
        with np.load(videos / video.category / f"{video.name}.truth.npz") as file:
            assert file.files == [field.name for field in fields(Truth) if field.name != "rests"]


def test_truth_without_rests_is_read(videos: Path):
    """As every file was written before there were rests."""
    truth = truth_of(videos, DUET)
    assert truth.rests.shape == (2, truth.boxes.shape[1])
    assert not truth.rests.any()
    assert truth.resting == (False, False)


def test_players_of_one_instrument_play_and_look_differently(videos: Path):
    truth = truth_of(videos, SAME)
    first, second = (
        set(truth.onsets_seconds[truth.onset_instruments == number].tolist()) for number in (0, 1)
    )
    assert first
    assert second
    assert not first & second
    rng = np.random.default_rng(SEED)
    assert look("flute", rng) != look("flute", rng)


def test_resting_player_of_a_duet_is_marked_and_silent(videos: Path):
    truth = truth_of(videos, RESTING_DUET)
    assert truth.resting == (False, True)
    assert truth.rests.all(axis=1).tolist() == [False, True]
    assert truth.rests.any(axis=1).tolist() == [False, True]
    assert truth.stems[0].any()
    assert not truth.stems[1].any()
    assert set(truth.onset_instruments.tolist()) == {0}


def test_solo_rests_for_a_while(videos: Path):
    truth = truth_of(videos, RESTING_SOLO)
    assert truth.resting == (False,)
    assert 0.2 < truth.rests.mean() < 0.55
    (resting,) = truth.rests
    samples = np.repeat(resting, RATE // truth.frame_rate)
    stem = truth.stems[0, : len(samples)].astype(float)
    assert stem[samples].std() < 0.3 * stem[~samples].std()


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("seconds", [2.0, 6.0])
def test_no_note_sounds_in_a_long_rest(instrument: str, seconds: float):
    middles = []
    for index in range(30):
        rng = np.random.default_rng([SEED, index])
        notes, rests = melody_with_rests(instrument, seconds, rng)
        assert notes
        assert notes == sorted(notes, key=lambda note: note.onset_seconds)
        assert len(rests) in (1, 2)
        total = sum(end - begin for begin, end in rests)
        assert 0.25 * seconds <= total <= 0.5 * seconds
        assert all(-1e-9 <= begin < end <= seconds + 1e-9 for begin, end in rests)
        for played in notes:
            ends = played.onset_seconds + played.seconds
            assert played.seconds > 0.05
            assert ends <= seconds + 1e-9
            for begin, end in rests:
                assert ends <= begin + 1e-9 or played.onset_seconds >= end - 1e-9
        middles.append(any(begin < seconds / 2 < end for begin, end in rests))
    assert any(middles)
    assert not all(middles)


def test_player_at_rest_neither_strikes_nor_bows():
    times = np.arange(0, 6, 1 / 16)
    notes = [Note(onset, 0.3, 220.0 + onset, 0.8) for onset in (0.2, 0.7, 4.5, 5.0)]
    motion = np.sin(2 * np.pi * 0.25 * times)
    resting = idle([Rest(1.2, 4.4)], times, motion, motion, held=0.3)
    followed = poses(notes, times, 0.0, resting)
    inside = [pose for pose, second in zip(followed, times, strict=True) if 1.5 < second < 4.1]
    bows = np.array([pose.bow for pose in inside])
    assert all(pose.level == 0 and pose.strike < 0.01 and pose.rest == 1 for pose in inside)
    assert {pose.count for pose in inside} == {2}
    playing = np.abs(np.diff([pose.bow for pose in followed[4:14]])).mean()
    assert 0 < np.abs(np.diff(bows)).mean() < 0.3 * playing
    assert followed[4] == poses(notes, times, 0.0)[4]


def test_player_that_rests_all_through_holds_its_instrument():
    times = np.arange(0, 6, 1 / 16)
    resting = idle([Rest(-1, 7)], times, np.sin(times), np.cos(times), held=0.6)
    waiting = poses([], times, 0.5, resting)
    assert all((pose.level, pose.strike, pose.count) == (0, 0, 0) for pose in waiting)
    assert all(0.4 < pose.pitch < 0.8 for pose in waiting)
    assert len({pose.bow for pose in waiting}) > 10


def test_videos_of_instruments_stay_as_they_were(videos: Path):
    """Sound, boxes and pixels of the first release, but for the rounding of other processors."""
    truth = truth_of(videos, SOLO)
    samples = truth.stems[0, 20000:20006].astype(int)
    assert samples == pytest.approx([-13881, -14495, -13417, -11927, -9448, -5478], abs=1)
    assert truth.boxes[0, 5] == pytest.approx([20.72069, 22.55306, 55.10580, 63.08994], abs=1e-4)
    frame = decoded_frames(videos / SOLO.category / f"{SOLO.name}.mp4")[5].astype(float)
    assert frame.mean(axis=(0, 1)) == pytest.approx([101.3, 107.2, 114.6], abs=0.5)


@pytest.mark.parametrize("video", [SOLO, DUET], ids=lambda video: video.name)
def test_file_is_h264_and_aac_of_the_right_length(videos: Path, video):
    path = videos / video.category / f"{video.name}.mp4"
    seen = subprocess.run([binary(), "-i", str(path)], capture_output=True, text=True).stderr
    assert "Video: h264" in seen
    assert "yuv420p" in seen
    assert f"{WIDTH}x{HEIGHT}" in seen
    assert "Audio: aac" in seen
    assert len(decoded_frames(path)) == round(PARAMS.seconds * PARAMS.frame_rate)
    assert len(decoded_sound(path)) == pytest.approx(PARAMS.seconds * RATE, abs=2048)


@pytest.mark.parametrize("video", [SOLO, DUET], ids=lambda video: video.name)
def test_stems_sum_to_the_sound_of_the_file(videos: Path, video):
    stem_sum = truth_of(videos, video).stems.sum(axis=0).astype(np.float64)
    sound = decoded_sound(videos / video.category / f"{video.name}.mp4")
    length = min(len(sound), len(stem_sum))
    assert si_sdr(sound[:length], stem_sum[:length]) > 15
    assert 0.45 * 32767 < np.abs(stem_sum).max() < 0.91 * 32767


def test_duet_stems_are_alike_in_loudness(videos: Path):
    loudness = truth_of(videos, DUET).stems.astype(np.float64).std(axis=1)
    assert abs(20 * np.log10(loudness[0] / loudness[1])) < 3.1


def test_truth_is_complete_and_needs_no_pickle(videos: Path):
    truth = truth_of(videos, DUET)
    frames = round(PARAMS.seconds * PARAMS.frame_rate)
    assert truth.instruments == DUET.instruments
    assert truth.stems.shape == (2, round(PARAMS.seconds * RATE))
    assert truth.stems.dtype == np.int16
    assert (truth.sample_rate, truth.frame_rate) == (RATE, PARAMS.frame_rate)
    assert truth.boxes.shape == (2, frames, 4)
    assert truth.boxes.dtype == np.float32
    assert np.all(np.diff(truth.onsets_seconds) >= 0)
    assert set(truth.onset_instruments.tolist()) == {0, 1}


def test_failure_of_ffmpeg(tmp_path: Path):
    odd = SimpleNamespace(**vars(PARAMS) | {"width": 97})
    with pytest.raises(RuntimeError, match=r"trumpet_000\.mp4: ffmpeg failed: .*width"):
        render(SOLO, odd, SEED, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_box_encloses_the_player(instrument: str):
    (boxes,) = scene_of(instrument).boxes
    left, top, right, bottom = boxes.T
    assert np.all((left >= 0) & (top >= 0) & (right <= WIDTH) & (bottom <= HEIGHT))
    heights = bottom - top
    assert np.all((heights > 0.35 * HEIGHT) & (heights < 0.95 * HEIGHT))
    drawn = _where_the_player_is(instrument, frame=7)
    assert np.abs(drawn - boxes[7]).max() <= 2


def _where_the_player_is(instrument: str, frame: int) -> np.ndarray:
    """Box of the pixels that differ when the player is left out."""
    scene, empty = scene_of(instrument), scene_of(instrument, empty=True)
    different = np.abs(_frame(scene, frame) - _frame(empty, frame)).max(axis=-1) > 0
    rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _frame(scene: RenderedScene, frame: int) -> np.ndarray:
    raw = list(scene.frames())[frame]
    return np.frombuffer(raw, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("change", [{"strike": 1.0}, {"level": 1.0, "pitch": 0.8, "count": 1}])
def test_player_moves_with_the_notes(instrument: str, change: dict[str, float]):
    assert _moved_pixels(instrument, change) > 20


@pytest.mark.parametrize("instrument", ["accordion", "cello", "violin"])
def test_bow_and_bellows_move(instrument: str):
    assert _moved_pixels(instrument, {"bow": 0.5}) > 50


def _moved_pixels(instrument: str, change: dict[str, float]) -> int:
    silent = Pose(level=0.0, strike=0.0, bow=-0.5, pitch=0.2, count=0)
    style = look(instrument, np.random.default_rng(SEED))
    still = _portrait(instrument, style, silent)
    moved = _portrait(instrument, style, replace(silent, **change))
    return int((np.abs(moved - still).max(axis=-1) > 40).sum())


def _portrait(instrument: str, style: Look, pose: Pose) -> np.ndarray:
    image = Image.new("RGB", (160, 120))
    draw_player(Pen(ImageDraw.Draw(image), (80.0, 15.0), 90.0), instrument, style, pose)
    return np.asarray(image, dtype=int)


def test_poses_follow_the_notes():
    notes = [Note(0.5, 0.4, 220.0, 0.8), Note(1.0, 0.4, 440.0, 0.8)]
    before, first, later, second = poses(notes, np.array([0.4, 0.5, 0.8, 1.0]), 0.0)
    assert (before.level, before.strike, before.count) == (0.0, 0.0, 0)
    assert (first.strike, first.count, first.pitch) == (1.0, 1, 0.0)
    assert later.level == pytest.approx(0.8)
    assert later.strike < 0.1
    assert (second.strike, second.count, second.pitch) == (1.0, 2, 1.0)


@pytest.mark.parametrize("index", range(5))
def test_duet_boxes_do_not_overlap(index: int):
    first, second = scene_of(*DUET.instruments, index=index).boxes
    width = np.minimum(first[:, 2], second[:, 2]) - np.maximum(first[:, 0], second[:, 0])
    height = np.minimum(first[:, 3], second[:, 3]) - np.maximum(first[:, 1], second[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (first, second)]
    assert np.all(shared / (areas[0] + areas[1] - shared) < 0.05)


def test_order_of_duets_is_random():
    order = [np.diff(scene_of(*DUET.instruments, index=i).boxes[:, 0, 0])[0] > 0 for i in range(12)]
    assert any(order)
    assert not all(order)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_melody(instrument: str):
    for index in range(10):
        notes = melody(instrument, 12.0, np.random.default_rng([SEED, index]))
        moments = np.arange(0, 12, 0.01)
        sounding = np.zeros(len(moments), dtype=bool)
        for played in notes:
            end = played.onset_seconds + played.seconds
            assert played.onset_seconds >= 0
            assert end <= 12.0 + 1e-9
            sounding |= (moments >= played.onset_seconds) & (moments < end)
        assert sounding.mean() >= 0.65
        assert all(sounding[i : i + 300].any() for i in range(len(moments) - 300))


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("pitch_hz", [110.0, 1200.0])
def test_note(instrument: str, pitch_hz: float):
    sound = synthesize(instrument, Note(0.0, 0.5, pitch_hz, 0.8), np.random.default_rng(SEED), RATE)
    assert sound.dtype == np.float32
    assert sound.shape == (RATE // 2,)
    assert np.isfinite(sound).all()
    assert np.abs(sound[-5:]).max() < 0.02 * np.abs(sound).max()
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert power[-len(power) // 20 :].sum() < 1e-3 * power.sum()


def test_masks_separate_better_than_a_cutoff():
    rng = np.random.default_rng(SEED)
    by_mask, by_cutoff = [], []
    for index in range(12):
        pair = rng.choice(INSTRUMENTS, 2, replace=False)
        sources = [solo_sound(str(instrument), index) for instrument in pair]
        mixture = sources[0] + sources[1]
        before = np.mean([si_sdr(mixture, source) for source in sources])
        spectra = [stft(source, nperseg=1022, noverlap=766)[2] for source in sources]
        mask = np.abs(spectra[0]) > np.abs(spectra[1])
        by_mask.append(_after(mask, spectra, sources) - before)
        rows = np.arange(len(mask))[:, None]
        splits = [np.broadcast_to(rows < bin_, mask.shape) for bin_ in (15, 30, 60, 100)]
        by_cutoff.append(
            max(_after(m, spectra, sources) for split in splits for m in (split, ~split)) - before
        )
    assert np.median(by_mask) > 10
    assert np.median(by_cutoff) < 4


def _after(mask: np.ndarray, spectra: list[np.ndarray], sources: list[np.ndarray]) -> float:
    mixture = spectra[0] + spectra[1]
    length = len(sources[0])
    return float(
        np.mean(
            [
                si_sdr(istft(part * mixture, nperseg=1022, noverlap=766)[1][:length], source)
                for part, source in zip((mask, ~mask), sources, strict=True)
            ]
        )
    )
