import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sop.download.container import _codecs, to_mp4
from sop.download.local import LocalVideo, find_videos
from sop.media.decoding import PictureOutput, decode, probe
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
    assert "leaves the folder" in found["all"]


def test_links_to_folders_never_lead_in_a_circle(tmp_path: Path) -> None:
    inside = touch(tmp_path / "flute" / "deep" / "a.mp4")
    (tmp_path / "same").symlink_to(tmp_path / "flute")
    (tmp_path / "all").symlink_to(tmp_path)
    (inside.parent / "up").symlink_to(tmp_path / "flute")
    videos, unusable = find_videos(tmp_path)
    assert [(video.category, video.id) for video in videos] == [
        *(("flute", "deep__a"), ("same", "deep__a"))
    ]
    assert {Path(row.source).name for row in unusable} == {"all", "up"}
    assert all("only a category may be one" in row.reason for row in unusable)


def test_nested_folders(tmp_path: Path) -> None:
    touch(tmp_path / "id00012" / "21Uxsk56VDQ" / "00001.mp4")
    touch(tmp_path / "id00012" / "_0hbj8NhV-A" / "00001.mp4")
    touch(tmp_path / "id00015" / "0fijmz4vTVU" / "00002.mp4")
    touch(tmp_path / "id00015" / "0fijmz4vTVU" / "00002.txt")
    videos, unusable = find_videos(tmp_path)
    assert [(video.category, video.id) for video in videos] == [
        ("id00012", "21Uxsk56VDQ__00001"),
        ("id00012", "_0hbj8NhV-A__00001"),
        ("id00015", "0fijmz4vTVU__00002"),
    ]
    assert unusable == []
    videos, _ = find_videos(tmp_path, "talker")
    assert {video.category for video in videos} == {"talker"}
    assert next(video.id for video in videos) == "id00012__21Uxsk56VDQ__00001"


def test_names_of_nested_files_are_unique_and_do_not_depend_on_others(tmp_path: Path) -> None:
    places = [
        *(
            "f/a/b__c.mp4",
            "f/a__b/c.mp4",
            "f/a/b/c.mp4",
            "f/a_/_b.mp4",
            "f/a__/b.mp4",
            "f/a/__b.mp4",
        ),
        *("f/a/.b.mp4", "f/..x/y.mp4", "f/a b/c d.mp4", "f/a.b/c.d.mp4"),
    ]
    alone = {}
    for place in places:
        touch(tmp_path / place)
        for video in find_videos(tmp_path)[0]:
            alone.setdefault(video.path, video.id)
    videos, unusable = find_videos(tmp_path)
    assert unusable == []
    assert {video.path: video.id for video in videos} == alone
    # Two of them are hidden.
    assert len({video.id for video in videos}) == len(videos) == len(places) - 2
    assert all("/" not in video.id for video in videos)
    assert {video.id for video in videos} >= {"a__b__c", "a b__c d", "a.b__c.d"}


def test_a_name_that_is_too_long_with_its_folders(tmp_path: Path) -> None:
    touch(tmp_path / "flute" / ("x" * 150) / f"{'y' * 100}.mp4")
    assert "and those of its folders are longer than 200" in reasons(tmp_path)[f"{'y' * 100}.mp4"]


def test_sounds_beside_videos_are_no_videos(tmp_path: Path) -> None:
    for name in (
        *("flute/1.mp4", "flute/1.wav", "flute/2.mp4", "flute/3.wav"),
        *("videos/a/4.mp4", "audios/a/4.flac", "s1/video/5.mpg", "s1/audio/5.wav"),
        *("tuba/6.mp4", "horn/6.wav"),
    ):
        touch(tmp_path / name)
    videos, unusable = find_videos(tmp_path)
    assert unusable == []
    sounds = {
        video.path.relative_to(tmp_path).as_posix(): video.sound
        and video.sound.relative_to(tmp_path).as_posix()
        for video in videos
    }
    assert sounds == {
        "flute/1.mp4": "flute/1.wav",
        "flute/2.mp4": None,
        "flute/3.wav": None,
        "horn/6.wav": None,
        "s1/video/5.mpg": "s1/audio/5.wav",
        "tuba/6.mp4": None,
        "videos/a/4.mp4": "audios/a/4.flac",
    }


def test_a_sound_outside_of_the_folder_is_not_used(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside.wav")
    touch(tmp_path / "folder" / "flute" / "1.mp4")
    (tmp_path / "folder" / "flute" / "1.wav").symlink_to(outside)
    (video,), _ = find_videos(tmp_path / "folder")
    assert video.sound is None
    assert "leaves the folder" in reasons(tmp_path / "folder")["1.wav"]


def test_unusable_names_and_files(tmp_path: Path) -> None:
    touch(tmp_path / "flute" / "line\nbreak.mp4")
    touch(tmp_path / "flute" / f"{'x' * 240}.mp4")
    os.mkfifo(tmp_path / "flute" / "pipe.mp4")
    touch(tmp_path / "flute" / os.fsdecode(b"latin-\xe9.mp4"))
    videos, unusable = find_videos(tmp_path)
    assert videos == []
    assert sorted(r.reason.split(";")[0] for r in unusable) == [
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


def samples(path: Path) -> bytes:
    command = [binary(), "-v", "error", "-i", path, "-map", "0:a", "-f", "s16le", "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("own_sound", "ending"), [("none", "mp4"), ("silent", "mp4"), ("none", "mkv"), ("none", "webm")]
)
def test_a_silent_video_gets_the_sound_beside_it(
    own_sound: str, ending: str, tmp_path: Path, make_video: Callable
) -> None:
    codecs = ("-c:v", "libvpx", "-c:a", "libvorbis") if ending == "webm" else ("-c:v", "copy")
    quiet = ("-an",) if own_sound == "none" else ("-af", "volume=0")
    video = make_video(tmp_path / f"a.{ending}", *codecs, *quiet)
    sound = make_video(tmp_path / "a.wav", "-vn", "-ac", "2", "-af", "tremolo")
    to_mp4(video, tmp_path / "b.mp4", Limits(), sound)
    assert samples(tmp_path / "b.mp4") == samples(sound)
    assert (pictures_hash(tmp_path / "b.mp4") == pictures_hash(video)) == (ending != "webm")
    assert probe(tmp_path / "b.mp4", Limits()).seconds == pytest.approx(2.5, abs=0.1)


def test_a_compressed_sound_is_copied(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4", "-an", "-c", "copy")
    sound = make_video(tmp_path / "a.m4a", "-vn", "-c:a", "aac")
    to_mp4(video, tmp_path / "b.mp4", Limits(), sound)
    assert samples(tmp_path / "b.mp4") == samples(sound)
    assert "aac" in probe(tmp_path / "b.mp4", Limits()).format


def test_a_video_with_sound_keeps_it(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4")
    sound = make_video(tmp_path / "a.wav", "-vn", "-af", "tremolo")
    to_mp4(video, tmp_path / "b.mp4", Limits(), sound)
    assert (tmp_path / "b.mp4").read_bytes() == video.read_bytes()


def test_a_sound_that_is_none_is_named(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "a.mp4", "-an", "-c", "copy")
    text = touch(tmp_path / "a.wav")
    with pytest.raises(LeftOut, match=r"its sound a\.wav is not a sound that ffmpeg reads"):
        to_mp4(video, tmp_path / "b.mp4", Limits(), text)
    pictures = make_video(tmp_path / "a.m4a", "-an", "-c", "copy", "-f", "mp4")
    with pytest.raises(LeftOut, match=r"its sound a\.m4a contains no sound"):
        to_mp4(video, tmp_path / "b.mp4", Limits(), pictures)
    cut = make_video(tmp_path / "c.mp4", "-an", "-c", "copy", "-movflags", "+faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(LeftOut, match="cut off"):
        to_mp4(cut, tmp_path / "b.mp4", Limits(), make_video(tmp_path / "c.wav", "-vn"))


def test_a_part_begins_and_ends_exactly(
    tmp_path: Path, clock_video: Callable, read_clock: Callable
) -> None:
    video = clock_video(tmp_path / "a.mp4", "10", 4.0)
    to_mp4(video, tmp_path / "b.mp4", Limits(), clip=(0.8, 2.3))
    found = probe(tmp_path / "b.mp4", Limits())
    assert found.seconds == pytest.approx(1.5, abs=0.05)
    jpegs = list(decode(tmp_path / "b.mp4", found, None, PictureOutput(10, 72, 2), Limits()))
    shown = [read_clock(np.asarray(Image.open(io.BytesIO(jpeg)))) for jpeg in jpegs]
    assert shown == list(range(8, 23))
    heard = np.frombuffer(samples(tmp_path / "b.mp4"), "<i2")
    assert np.abs(heard.astype(int)).argmax() / 22050 == pytest.approx(0.2, abs=0.005)


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
