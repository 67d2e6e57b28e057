import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sop.extract.extraction import extract, extract_video
from sop.runtime.errors import LeftOut
from sop.runtime.parallel import Workers
from tests.support.disks import run_with_disks
from tests.support.extraction import PARAMS, Folders, from_nothing

MOTION = {"motion_rate": 16.0}
WITH_MOTION = PARAMS.model_copy(update=MOTION)


@pytest.fixture
def folders(tmp_path: Path, make_video: Callable) -> Folders:
    """Two videos of 2.5 s in two categories."""
    folders = Folders(tmp_path / "data")
    make_video(folders.videos / "flute" / "a.mp4")
    make_video(folders.videos / "tuba" / "b.mp4", "-vf", "hflip", "-c:a", "copy")
    return folders


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name, when in after.items() if before.get(name) != when}


def test_one_track_per_video(folders: Folders) -> None:
    summary = folders.extract(**MOTION)
    assert {name for name in folders.tree() if name.startswith("motion/")} == {
        *("motion/flute/a.npy", "motion/tuba/b.npy", "motion/manifest.json")
    }
    track = np.load(folders.motion / "flute/a.npy", allow_pickle=False)
    assert track.dtype == np.uint8
    # 96 x 72 pixels become 32 x 24.
    assert track.shape == (40, 24, 32)
    assert track.std() > 20
    np.testing.assert_allclose(
        np.load(folders.motion / "tuba/b.npy")[..., ::-1].astype(float), track, atol=30
    )
    assert summary["motion_frames"] == 80
    assert summary["bytes"]["motion"] == 2 * (128 + 40 * 24 * 32)


def test_sounds_and_frames_are_the_same_with_motion(folders: Folders, tmp_path: Path) -> None:
    without = folders.extract()
    plain = folders.tree()
    assert plain.pop("motion/manifest.json") == b"{}\n"
    tree = from_nothing(folders, tmp_path / "with", **MOTION)
    assert {name: data for name, data in tree.items() if not name.startswith("motion")} == plain
    assert "motion_frames" not in without
    assert without["bytes"].keys() == {"audio", "frames"}


@pytest.mark.parametrize("change", [{"motion_rate": 12.5}, {"motion_height": 32}])
def test_changed_parameters_make_only_tracks_stale(
    change: dict[str, Any], folders: Folders, tmp_path: Path
) -> None:
    folders.extract(**MOTION)
    before = folders.times()
    folders.extract(**MOTION | change)
    assert changed(before, folders.times()) == {"motion/flute/a.npy", "motion/tuba/b.npy"}
    assert folders.tree() == from_nothing(folders, tmp_path / "again", **MOTION | change)


def test_tracks_come_and_go_with_their_rate(folders: Folders, tmp_path: Path) -> None:
    folders.extract()
    before = folders.times()
    folders.extract(**MOTION)
    after = folders.times()
    assert changed(before, after) == {"motion/flute/a.npy", "motion/tuba/b.npy"}
    assert folders.extract(**MOTION)["videos"] == 2
    assert folders.times() == after
    folders.extract()
    assert folders.times() == before
    assert folders.tree() == from_nothing(folders, tmp_path / "again")


def test_missing_and_damaged_tracks_are_made_again(folders: Folders) -> None:
    folders.extract(**MOTION)
    whole, before = folders.tree(), folders.times()
    (folders.motion / "flute/a.npy").unlink()
    track = folders.motion / "tuba/b.npy"
    track.write_bytes(track.read_bytes()[:-1])
    (folders.motion / "tuba" / ".part-1-b.y4m").write_bytes(b"x")
    folders.extract(**MOTION)
    assert folders.tree() == whole
    assert changed(before, folders.times()) == {"motion/flute/a.npy", "motion/tuba/b.npy"}


def test_a_changed_video_changes_its_track(folders: Folders, make_video: Callable) -> None:
    folders.extract(**MOTION)
    before = np.load(folders.motion / "flute/a.npy")
    make_video(folders.videos / "flute/a.mp4", "-vf", "negate", "-c:a", "copy")
    folders.extract(**MOTION)
    after = np.load(folders.motion / "flute/a.npy")
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] < -0.9


def test_video_left_out_has_no_track(folders: Folders, make_video: Callable) -> None:
    make_video(folders.videos / "flute" / "silent.mp4", "-c:v", "copy", "-af", "volume=0")
    summary = folders.extract()
    assert folders.extract(**MOTION)["left_out"] == summary["left_out"]
    assert not (folders.motion / "flute/silent.npy").exists()
    make_video(folders.videos / "tuba/b.mp4", "-an", "-c", "copy")
    folders.extract(**MOTION)
    assert {path.name for path in folders.motion.glob("*/*")} == {"a.npy"}
    assert {path.name for path in folders.frames.glob("*/*")} == {"a.zip"}


def test_failure_keeps_the_old_track(tmp_path: Path, make_video: Callable) -> None:
    audio, frames, motion = (tmp_path / name for name in ("a.wav", "a.zip", "a.npy"))
    extract_video(make_video(tmp_path / "a.mp4"), audio, frames, WITH_MOTION, motion)
    before = motion.read_bytes()
    cut = make_video(tmp_path / "b.mp4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(LeftOut):
        extract_video(cut, audio, frames, WITH_MOTION, motion)
    assert motion.read_bytes() == before
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp4", ".wav", ".zip", ".npy"}


def test_a_track_alone_equals_that_of_a_whole_extraction(
    tmp_path: Path, make_video: Callable
) -> None:
    video = make_video(tmp_path / "a.mp4")
    whole, alone = tmp_path / "whole.npy", tmp_path / "alone.npy"
    extract_video(video, tmp_path / "a.wav", tmp_path / "a.zip", WITH_MOTION, whole)
    made = extract_video(video, None, None, WITH_MOTION, alone)
    assert (made.samples, made.frames, made.motion_frames) == (None, None, 40)
    assert alone.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("rate", [16.0, 12.5, 8.0])
def test_frames_show_the_middles_of_their_intervals(
    rate: float,
    tmp_path: Path,
    clock_video: Callable[..., Path],
    read_clock: Callable[[NDArray[np.uint8]], int],
) -> None:
    video, track = clock_video(tmp_path / "clock.mp4", "30", 4.0), tmp_path / "a.npy"
    params = PARAMS.model_copy(update={"motion_rate": rate, "motion_height": 36})
    extract_video(video, None, None, params, track)
    shown = [read_clock(frame) for frame in np.load(track)]
    seconds = (np.arange(round(4 * rate)) + 0.5) / rate
    assert len(shown) == len(seconds)
    np.testing.assert_allclose((np.array(shown) + 0.5) / 30, seconds, atol=0.5 / 30 + 1e-6)


def test_wide_pictures_are_squeezed_as_frames_are(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "wide.mp4", "-vf", "scale=960:72,setsar=1", "-c:a", "copy")
    extract_video(video, None, None, WITH_MOTION, tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").shape[1:] == (24, 96)


def test_a_rate_needs_a_folder(folders: Folders) -> None:
    places = (folders.videos, folders.audio, folders.frames)
    with pytest.raises(ValueError, match="motion_rate"):
        extract(WITH_MOTION, *places, Workers(1), folders.hashes)


def test_tracks_linked_to_a_cache_stay(folders: Folders, tmp_path: Path) -> None:
    folders.extract(**MOTION)
    kept, place = tmp_path / "cache.npy", folders.motion / "flute/a.npy"
    os.link(place, kept)
    old = kept.read_bytes()
    folders.extract(motion_rate=8.0)
    assert kept.read_bytes() == old
    assert place.read_bytes() != old


FULL = """
from sop.extract.extraction import extract_video
from sop.runtime.errors import UserError
from tests.support.extraction import PARAMS

root = Path(sys.argv[1])
params = PARAMS.model_copy(update={'motion_rate': 60.0, 'motion_height': 72})
sound = root / 'audio/a.wav'
for name, wav in (('motion', None), ('motion', sound), ('audio', sound)):
    with full(root / name):
        try:
            extract_video(root / 'a.mp4', wav, None, params, root / 'motion/a.npy')
        except UserError as error:
            print(str(error).partition(':')[0], names(root))
"""


def test_full_disk_is_named(tmp_path: Path, make_video: Callable) -> None:
    make_video(tmp_path / "a.mp4")
    done = run_with_disks(FULL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path / name} ['a.mp4']" for name in ("motion/a.npy", "motion/a.npy", "audio/a.wav")
    ]


def test_pictures_of_several_days_make_no_long_track(tmp_path: Path, make_video: Callable) -> None:
    late = ("-bsf:v", "setts=ts=TS+N*1e8", "-c:a", "copy")
    video = make_video(tmp_path / "days.mp4", "-c", "copy", *late)
    made = extract_video(video, tmp_path / "a.wav", None, WITH_MOTION, tmp_path / "a.npy")
    assert made.motion_frames == 40
