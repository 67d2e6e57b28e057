from pathlib import Path

import numpy as np
import pytest
import soundfile

from sop.dataset.index import Video
from sop.download.synthetic.truth import Truth, write_truth
from sop.localize.scenes import SHIFT_SECONDS, PlannedScene, make_scene, plan_scenes
from sop.params import Params

RATE = 11025
LEFT, RIGHT = (0.0, 0.0, 20.0, 40.0), (40.0, 10.0, 80.0, 60.0)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return tmp_path


def video_of(videos: Path, name: str, instruments: tuple[str, ...], resting: int = -1) -> Video:
    """A video whose truth is on disk: player n sounds as a constant n + 1."""
    players = len(instruments)
    stems = np.arange(1, players + 1)[:, None] * np.full((players, 3 * RATE), 1000)
    rests = np.zeros((players, 4), dtype=bool)
    if resting >= 0:
        rests[resting] = True
        stems[resting] = 0
    # A sound that can be recognised after it was moved.
    stems[:, : RATE // 10] *= 2
    truth = Truth(
        instruments,
        stems.astype(np.int16),
        sample_rate=RATE,
        frame_rate=4,
        width=80,
        height=60,
        boxes=np.tile(np.array([LEFT, RIGHT][:players], np.float32)[:, None], (1, 4, 1)),
        onsets_seconds=np.zeros(0),
        onset_instruments=np.zeros(0, dtype=np.int64),
        rests=rests,
    )
    category = "_".join(instruments)
    path = videos / category / f"{name}.truth.npz"
    path.parent.mkdir(exist_ok=True)
    write_truth(path, truth)
    audio = videos / "audio" / category / f"{name}.wav"
    audio.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(audio, stems.sum(axis=0).astype(np.int16), RATE)
    return Video(audio, videos / f"{name}.zip", 12)


def kinds(planned: list[PlannedScene]) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.kind, one.heard) for one in planned if not one.shifted]


def test_videos_without_truth_make_no_scene(videos: Path) -> None:
    video = Video(videos / "a/x.wav", videos / "a/x.zip", 8)
    assert plan_scenes([video], [video], videos, 10) == []


def test_each_kind_of_video_has_its_scenes(videos: Path) -> None:
    duets = [
        video_of(videos, "a", ("flute", "tuba")),
        video_of(videos, "b", ("flute", "tuba")),
        video_of(videos, "c", ("flute", "flute")),
        video_of(videos, "d", ("flute", "tuba"), resting=0),
        video_of(videos, "e", ("talker", "talker")),
    ]
    solos = [video_of(videos, "f", ("flute",)), video_of(videos, "g", ("talker",))]
    planned = plan_scenes(duets, solos, videos, 10)
    assert kinds(planned) == [
        *(("duet", (0, 1)), ("distractor", (0,)), ("duet", (0, 1)), ("distractor", (1,))),
        *(("same_duet", (0, 1)), ("unheard_same", (0,))),
        *(("talker_pair", (0, 1)), ("unheard_talker", (0,))),
        ("unheard_resting", (1,)),
        ("talker", (0,)),
        *(("solo", (0,)), ("silent", ())),
    ]
    shifted = [one.kind for one in planned if one.shifted]
    assert shifted == ["same_duet", "unheard_same", "talker_pair", "unheard_talker"]


def test_limit_holds_for_each_kind_and_spreads_over_the_list(videos: Path) -> None:
    names = ("cello", "flute", "tuba", "violin")
    duets = [video_of(videos, f"{name}{n}", (name, name)) for name in names for n in range(2)]
    duets += [video_of(videos, "a", ("flute", "tuba"))]
    solos = [video_of(videos, f"s{n}", ("flute",)) for n in range(3)]
    planned = plan_scenes(duets, solos, videos, 2)
    same = [one.video.category for one in planned if one.kind == "same_duet" and not one.shifted]
    assert same == ["cello_cello", "tuba_tuba"]
    assert [one.kind for one in planned].count("duet") == 1
    assert [one.video.name for one in planned if one.kind == "solo"] == ["flute/s0", "flute/s1"]
    assert plan_scenes(duets, solos, videos, 0) == []


def test_muted_player_is_seen_and_not_heard(videos: Path, tiny_params: Params) -> None:
    video = video_of(videos, "a", ("flute", "flute"))
    scene = make_scene(PlannedScene(video, "unheard_same", (1,)), videos, tiny_params.extract)
    assert scene.boxes == ((0.5, pytest.approx(1 / 6), 1.0, 1.0),)
    assert scene.mute_boxes == ((0.0, 0.0, 0.25, pytest.approx(2 / 3)),)
    heard = scene.recording.sound(RATE, RATE + 5)
    np.testing.assert_allclose(heard, 2000 / 2**15, rtol=1e-3)
    np.testing.assert_array_equal(scene.stems[0, RATE : RATE + 5], heard)


def test_resting_player_is_seen_and_not_heard(videos: Path, tiny_params: Params) -> None:
    video = video_of(videos, "a", ("flute", "tuba"), resting=1)
    (planned,) = plan_scenes([video], [], videos, 1)
    scene = make_scene(planned, videos, tiny_params.extract)
    assert (len(scene.boxes), len(scene.mute_boxes), len(scene.stems)) == (1, 1, 1)
    np.testing.assert_allclose(scene.recording.sound(RATE, RATE + 5), 1000 / 2**15, rtol=1e-3)


def test_silence_has_no_mute_player(videos: Path, tiny_params: Params) -> None:
    video = video_of(videos, "a", ("flute",))
    scene = make_scene(PlannedScene(video, "silent", ()), videos, tiny_params.extract)
    assert (scene.boxes, scene.mute_boxes, len(scene.stems)) == ((), (), 0)
    assert not scene.recording.sound(0, RATE).any()


def test_shifted_sound_is_late(videos: Path, tiny_params: Params) -> None:
    video = video_of(videos, "a", ("flute", "flute"))
    planned = PlannedScene(video, "same_duet", (0, 1), shifted=True)
    scene = make_scene(planned, videos, tiny_params.extract)
    begin = round(SHIFT_SECONDS * RATE)
    early, late = (scene.recording.sound(at + 50, at + 55) for at in (0, begin))
    np.testing.assert_allclose(early, 3000 / 2**15, rtol=1e-3)
    np.testing.assert_allclose(late, 6000 / 2**15, rtol=1e-3)
    np.testing.assert_allclose(scene.stems.sum(axis=0)[begin + 50 : begin + 55], late)
    assert scene.shifted
