import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sop.download.container import _codecs, to_mp4
from sop.download.local import LocalVideo, find_videos
from sop.media.decoding import probe
from sop.media.ffmpeg import Header, Limits, binary, probe_header
from sop.params import Params
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError


def reasons(folder: Path) -> dict[str, str]:
    return {Path(video.source).name: video.reason for video in find_videos(folder)[1]}


def pictures_hash(video: Path) -> bytes:
    """Of the stream of pictures, as it is stored."""
    command = [binary(), "-v", "error", "-i", video, "-map", "0:v", "-c", "copy", "-f", "md5", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_categories_and_flat_files_are_found(tmp_path: Path) -> None:
    touch(tmp_path / "flute" / "one.MOV")
    touch(tmp_path / "flute" / ".hidden.mp4")
    touch(tmp_path / ".hidden" / "two.mp4")
    for name in ("Thumbs.db", "desktop.ini", "one.MOV~", ".DS_Store"):
        touch(tmp_path / name)
        touch(tmp_path / "flute" / name)
    touch(tmp_path / "a.b.mkv")
    videos, unusable = find_videos(tmp_path)
    assert videos == [
        LocalVideo(tmp_path / "a.b.mkv", "unlabelled", "a.b"),
        LocalVideo(tmp_path / "flute" / "one.MOV", "flute", "one"),
    ]
    assert unusable == []


def test_two_files_with_the_same_name(tmp_path: Path) -> None:
    touch(tmp_path / "flute" / "one.avi")
    touch(tmp_path / "flute" / "one.mp4")
    videos, _ = find_videos(tmp_path)
    assert [video.path.name for video in videos] == ["one.avi"]
    assert reasons(tmp_path) == {"one.mp4": "one.avi has the same name; rename one of them"}


def test_links(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside.mp4")
    folder = tmp_path / "folder"
    inside = touch(folder / "flute" / "inside.mp4")
    (folder / "flute" / "linked.mp4").symlink_to(inside)
    (folder / "flute" / "leaves.mp4").symlink_to(outside)
    (folder / "flute" / "missing.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "all").symlink_to(tmp_path)
    videos, _ = find_videos(folder)
    assert [video.id for video in videos] == ["inside", "linked"]
    found = reasons(folder)
    assert "leaves the folder" in found["leaves.mp4"]
    assert "missing file" in found["missing.mp4"]
    assert "leaves the folder" in found["outside.mp4"]


def test_unusable_names_and_files(tmp_path: Path) -> None:
    touch(tmp_path / "flute" / "line\nbreak.mp4")
    touch(tmp_path / "flute" / f"{'x' * 240}.mp4")
    touch(tmp_path / "flute" / "deeper" / "a.mp4")
    os.mkfifo(tmp_path / "flute" / "pipe.mp4")
    touch(tmp_path / "flute" / os.fsdecode(b"latin-\xe9.mp4"))
    videos, unusable = find_videos(tmp_path)
    assert videos == []
    assert sorted(r.reason.split(";")[0] for r in unusable) == [
        "a folder inside a category",
        "its name contains control characters or is not UTF-8",
        "its name contains control characters or is not UTF-8",
        "its name is longer than 200 bytes",
        "not an ordinary file",
    ]


@pytest.mark.parametrize("made", [False, True])
def test_missing_or_empty_folder(made: bool, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    if made:
        folder.mkdir()
    with pytest.raises(UserError, match=r"put videos there as <category>/<name>\.mp4") as caught:
        find_videos(folder)
    assert str(folder) in str(caught.value)


def test_an_mp4_is_copied_byte_for_byte(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4")
    to_mp4(video, tmp_path / "b.mp4", Limits())
    assert (tmp_path / "b.mp4").read_bytes() == video.read_bytes()


@pytest.mark.parametrize(
    ("ending", "codecs", "copied"),
    [
        ("mkv", ("-c", "copy"), True),
        ("mov", ("-c", "copy"), True),
        ("avi", ("-c:v", "mpeg4", "-c:a", "libmp3lame"), True),
        ("webm", ("-c:v", "libvpx", "-c:a", "libvorbis"), False),
        ("wmv", ("-c:v", "wmv2", "-c:a", "wmav2"), False),
    ],
)
def test_other_containers_become_mp4(
    ending: str, codecs: tuple[str, ...], copied: bool, tmp_path: Path, make_video: Callable
) -> None:
    video = make_video(tmp_path / f"a.{ending}", *codecs)
    written = []
    for name in ("one.mp4", "two.mp4"):
        to_mp4(video, tmp_path / name, Limits())
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert "mp4" in probe_header(tmp_path / "one.mp4", Limits()).containers
    assert probe(tmp_path / "one.mp4", Limits()).seconds == pytest.approx(2.5, abs=0.1)
    assert (pictures_hash(video) == pictures_hash(tmp_path / "one.mp4")) == copied


def test_a_container_named_mp4_that_is_another_is_converted(
    tmp_path: Path, make_video: Callable
) -> None:
    video = make_video(tmp_path / "a.mp4", "-c", "copy", "-f", "matroska")
    to_mp4(video, tmp_path / "b.mp4", Limits())
    assert "mp4" in probe_header(tmp_path / "b.mp4", Limits()).containers


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_odd_size(codec: str, tmp_path: Path, make_video: Callable) -> None:
    codecs = ("-vf", "scale=95:71", "-c:v", codec, "-deadline", "realtime", "-c:a", "libvorbis")
    video = make_video(tmp_path / "a.webm", *codecs)
    assert probe_header(video, Limits()).size == (95, 71)
    to_mp4(video, tmp_path / "b.mp4", Limits())
    found = probe(tmp_path / "b.mp4", Limits())
    assert found.seconds == pytest.approx(2.5, abs=0.1)
    assert probe_header(tmp_path / "b.mp4", Limits()).size in [(96, 72), (95, 71)]


def test_memory_for_a_conversion(tmp_path: Path, ffmpeg_run: Callable) -> None:
    video = tmp_path / "a.webm"
    ffmpeg_run(
        *("-f", "lavfi", "-i", "testsrc2=s=1280x720:r=25:d=2.4", "-f", "lavfi", "-i", "sine=d=2.4"),
        *("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "16", "-c:a", "libvorbis", video),
    )
    outcomes = set()
    for mib in (40, 110, 140):
        try:
            to_mp4(video, tmp_path / "b.mp4", Limits.of_parameters(60.0, mib))
        except LeftOutForNow as reason:
            expected = f"ffmpeg needs more memory than {mib} MiB (extract.memory_limit_mib)"
            assert str(reason) == expected
            outcomes.add(mib)
    assert {40, 110} <= outcomes
    to_mp4(video, tmp_path / "b.mp4", Limits())


def test_large_pictures_are_converted_in_less_memory(default_params: Params) -> None:
    limit = default_params.extract.memory_limit_mib << 20
    for width, height in ((3840, 2160), (4096, 2304)):
        header = Header((), None, "", (width, height), None, ())
        held = int(_codecs(header)["rc-lookahead"]) * width * height * 1.5
        assert held < limit / 4
    assert "rc-lookahead" not in _codecs(Header((), None, "", (1920, 1080), None, ()))


def test_half_a_file_is_not_made_to_look_whole(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mkv", "-c", "copy")
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(LeftOut, match="cut off"):
        to_mp4(video, tmp_path / "b.mp4", Limits())
    assert not (tmp_path / "b.mp4").exists()
