import json
import os
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sop.dataset.clips import read_audio, read_frames
from sop.extract.extraction import extract, extract_video
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.parallel import Workers
from tests.support.extraction import PARAMS, Folders, from_nothing
from tests.support.stress import repeats

ROOT = Path(__file__).parents[2]
ODD_NAMES = (
    "two words",
    'quote\'s "both"',
    "-dash",
    "--help",
    "comma,comma",
    "100%d %(id)s",
    "naïve 二胡 ё",
    "colon:pipe|semi;",
    "[brackets]{}*?",
    "$HOME `id` \\back",
)


@pytest.fixture
def folders(tmp_path: Path, make_video: Callable) -> Folders:
    """Two videos in two categories."""
    folders = Folders(tmp_path / "data")
    make_video(folders.videos / "flute" / "a.mp4")
    make_video(folders.videos / "cello_flute" / "b.mp4", "-vf", "hflip", "-c:a", "copy")
    return folders


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name, when in after.items() if before.get(name) != when}


def test_one_wav_and_one_zip_per_video(folders: Folders) -> None:
    summary = folders.extract()
    assert sorted(folders.tree()) == [
        "audio/cello_flute/b.wav",
        "audio/flute/a.wav",
        "audio/manifest.json",
        "frames/cello_flute/b.zip",
        "frames/flute/a.zip",
        "frames/manifest.json",
        "motion/manifest.json",
    ]
    with wave.open(str(folders.audio / "flute/a.wav")) as sound:
        assert sound.getparams()[:3] == (1, 2, 11025)
        seconds = sound.getnframes() / 11025
    with zipfile.ZipFile(folders.frames / "flute/a.zip") as archive:
        entries = archive.infolist()
    assert [e.filename for e in entries] == [f"{n:06d}.jpg" for n in range(1, len(entries) + 1)]
    assert {e.compress_type for e in entries} == {zipfile.ZIP_STORED}
    assert abs(len(entries) / 8 - seconds) <= 1 / 8
    assert summary["videos"] == 2
    assert summary["category"] == {"cello_flute": 1, "flute": 1}
    assert summary["frames"] == 2 * len(entries)
    assert summary["audio_hours"] == pytest.approx(2 * seconds / 3600, abs=1e-4)
    assert summary["left_out"] == {"count": 0, "reasons": {}}
    assert read_audio(folders.audio / "flute/a.wav", 1.0, 4096, 11025).std() > 0.01
    assert read_frames(folders.frames / "flute/a.zip", [1, len(entries)], 32).std() > 10


def test_extraction_is_reproducible(folders: Folders, tmp_path: Path) -> None:
    folders.extract()
    assert folders.tree() == from_nothing(folders, tmp_path / "again")


def test_up_to_date_files_are_kept(folders: Folders) -> None:
    first = folders.extract()
    before = folders.times()
    assert folders.extract() == first
    assert folders.times() == before


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"frame_rate": 4.0}, "frames"),
        ({"frame_height": 32, "jpeg_quality": 9}, "frames"),
        ({"sample_rate": 8000}, "audio"),
    ],
)
def test_changed_parameters(
    change: dict[str, Any], again: str, folders: Folders, tmp_path: Path
) -> None:
    folders.extract()
    before = folders.times()
    folders.extract(**change)
    files = changed(before, folders.times())
    assert len(files) == 2
    assert all(name.startswith(again) for name in files)
    assert folders.tree() == from_nothing(folders, tmp_path / "again", **change)


def test_added_changed_and_removed_videos(
    folders: Folders, tmp_path: Path, make_video: Callable
) -> None:
    folders.extract()
    before = folders.times()
    make_video(folders.videos / "tuba" / "c.mp4")
    make_video(folders.videos / "flute" / "a.mp4", "-vf", "negate", "-c:a", "copy")
    (folders.videos / "cello_flute" / "b.mp4").unlink()
    summary = folders.extract()
    assert summary["category"] == {"flute": 1, "tuba": 1}
    assert changed(before, folders.times()) == {
        *("audio/flute/a.wav", "audio/tuba/c.wav", "frames/flute/a.zip", "frames/tuba/c.zip")
    }
    assert not (folders.audio / "cello_flute").exists()
    assert folders.tree() == from_nothing(folders, tmp_path / "again")


def test_missing_damaged_and_foreign_files(folders: Folders) -> None:
    folders.extract()
    whole = folders.tree()
    (folders.audio / "flute/a.wav").unlink()
    (folders.frames / "flute/a.zip").write_bytes(b"short")
    (folders.frames / "flute" / "foreign.zip").write_bytes(b"x")
    (folders.audio / "flute" / ".part-1-a.wav").write_bytes(b"x")
    folders.extract()
    assert folders.tree() == whole
    (folders.audio / "manifest.json").write_text('{"flute/a": 3}')
    folders.extract()
    assert folders.tree() == whole


def test_files_linked_to_a_cache(folders: Folders, tmp_path: Path) -> None:
    folders.extract()
    kept = tmp_path / "cache.zip"
    place = folders.frames / "flute/a.zip"
    os.link(place, kept)
    place.chmod(0o444)
    old = kept.read_bytes()
    folders.extract(frame_rate=4.0)
    assert kept.read_bytes() == old
    assert place.read_bytes() != old


def test_odd_file_names(
    tmp_path: Path, make_video: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Relative paths, so that a name with a dash could be taken for an option.
    monkeypatch.chdir(tmp_path)
    for name in ODD_NAMES:
        make_video(tmp_path / "videos" / "-odd 'category'" / f"{name}.mp4")
    places = [Path(name) for name in ("videos", "audio", "frames")]
    summary = extract(PARAMS, *places, Workers(2), Path("hashes.sqlite"))
    assert summary["left_out"]["reasons"] == {}
    assert {path.stem for path in Path("audio").glob("*/*.wav")} == set(ODD_NAMES)
    assert {path.stem for path in Path("frames").glob("*/*.zip")} == set(ODD_NAMES)


def damaged(video: Path) -> None:
    """Turn bytes of the middle of a file."""
    data = bytearray(video.read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 3, len(data), 300):
        data[place] ^= 0xFF
    video.write_bytes(data)


@pytest.mark.slow
def test_reasons_of_unusable_videos(
    folders: Folders, make_video: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders.videos / "flute"
    make_video(folder / "no sound.mp4", "-an", "-c", "copy")
    make_video(folder / "no pictures.mp4", "-vn", "-c", "copy")
    make_video(folder / "silent.mp4", "-c:v", "copy", "-af", "volume=0")
    make_video(folder / "nearly silent.mp4", "-c:v", "copy", "-af", "volume=-60dB")
    (folder / "text.mp4").write_text("not a video\n" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    cut = make_video(folder / "cut.mp4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    head = make_video(folder / "cut in the header.mp4")
    head.write_bytes(head.read_bytes()[:500])
    damaged(make_video(folder / "damaged.mp4"))
    summary = folders.extract()
    reasons = summary["left_out"]["reasons"]
    expected = {
        "no sound": "contains no sound",
        "no pictures": "contains no pictures",
        "silent": "silent: no sample reaches -70 dB",
        "nearly silent": "silent: no sample reaches -70 dB",
        "text": "not a video that ffmpeg reads",
        "empty": "not a video that ffmpeg reads",
        "gone": "No such file",
        "cut": "cut off",
        "cut in the header": "not a video that ffmpeg reads",
        "damaged": "damaged",
    }
    assert {name.removeprefix("flute/") for name in reasons} == set(expected)
    said = capsys.readouterr().out.splitlines()
    for name, reason in expected.items():
        assert reason in reasons[f"flute/{name}"]
        line = f"left out: {folder / name}.mp4: {reasons[f'flute/{name}']}"
        assert line in said
        assert not (folders.audio / f"flute/{name}.wav").exists()
        assert not (folders.frames / f"flute/{name}.zip").exists()
    assert summary["videos"] == 2
    assert not any(".part-" in name for name in folders.tree())
    assert folders.extract() == summary


def test_video_that_becomes_unusable(folders: Folders, make_video: Callable) -> None:
    folders.extract()
    make_video(folders.videos / "flute/a.mp4", "-an", "-c", "copy")
    folders.extract()
    assert {path.name for path in folders.audio.glob("*/*")} == {"b.wav"}
    assert {path.name for path in folders.frames.glob("*/*")} == {"b.zip"}


def test_no_usable_video(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    with pytest.raises(UserError, match=f"{folders.videos}: contains no videos"):
        folders.extract()
    (folders.videos / "flute").mkdir()
    (folders.videos / "flute/a.mp4").write_bytes(b"x")
    with pytest.raises(
        UserError, match="none of 1 videos is usable, for example flute/a: not a video"
    ):
        folders.extract()


def test_failure_keeps_old_files(tmp_path: Path, make_video: Callable) -> None:
    audio, frames = tmp_path / "a.wav", tmp_path / "a.zip"
    extract_video(make_video(tmp_path / "a.mp4"), audio, frames, PARAMS)
    before = audio.read_bytes(), frames.read_bytes()
    cut = make_video(tmp_path / "b.mp4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(LeftOut):
        extract_video(cut, audio, frames, PARAMS)
    assert (audio.read_bytes(), frames.read_bytes()) == before


def test_manifest(folders: Folders) -> None:
    folders.extract()
    rows = json.loads((folders.frames / "manifest.json").read_text())
    assert list(rows) == ["cello_flute/b", "flute/a"]
    assert "frame_rate=8 " in rows["flute/a"]["made_with"]
    assert rows["flute/a"]["bytes"] == (folders.frames / "flute/a.zip").stat().st_size


@pytest.mark.slow
def test_only_changed_videos_of_many_are_extracted(tmp_path: Path, make_video: Callable) -> None:
    count = repeats(12, 200)
    folders = Folders(tmp_path / "data")
    master = make_video(tmp_path / "master.mp4").read_bytes()
    for number in range(count):
        place = folders.videos / f"category{number % 4}" / f"{number:03d}.mp4"
        place.parent.mkdir(exist_ok=True)
        # A box without meaning makes each another file.
        place.write_bytes(master + bytes([0, 0, 0, 9]) + b"free" + bytes([number]))
    folders.extract()
    before = folders.times()
    assert len(before) == 2 * count
    (folders.videos / "category3/003.mp4").write_bytes(master)
    (folders.videos / "category2/002.mp4").touch()
    (folders.videos / "category1/001.mp4").unlink()
    folders.extract()
    after = folders.times()
    assert changed(before, after) == {"audio/category3/003.wav", "frames/category3/003.zip"}
    assert before.keys() - after.keys() == {"audio/category1/001.wav", "frames/category1/001.zip"}
    folders.extract(frame_rate=4.0)
    again = changed(after, folders.times())
    assert len(again) == count - 1
    assert all(name.startswith("frames/") for name in again)
    assert folders.tree() == from_nothing(folders, tmp_path / "again", frame_rate=4.0)


def test_unusable_video_is_not_decoded_again(
    folders: Folders, make_video: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(folders.videos / "flute" / "silent.mp4", "-c:v", "copy", "-af", "volume=0")
    summary = folders.extract()
    tried = []
    monkeypatch.setattr(
        "sop.extract.extraction.extract_video",
        lambda video, *rest: tried.append(video.stem) or extract_video(video, *rest),
    )
    assert folders.extract() == summary
    assert tried == []
    make_video(folders.videos / "flute" / "silent.mp4")
    assert folders.extract()["videos"] == 3
    assert tried == ["silent"]
