import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sop.dataset.index import read_split
from sop.download import published_lists
from sop.download.fetch_settings import access_of, check_fetch_settings
from sop.download.manifest import VideoRow, read_manifest, write_manifest
from sop.extract.extraction import extract
from sop.params import Params, load_params
from sop.runtime.errors import UserError
from sop.runtime.hashes import sha256
from sop.runtime.parallel import Workers
from tests.support.downloads import changed, download, local, rows, times, tree
from tests.support.server import Server, file_of, serving, status
from tests.support.stress import repeats

ROOT = Path(__file__).parents[2]
TINY = {
    **dict.fromkeys(("same_duets", "resting_solos", "resting_duets", "talkers", "talker_pairs"), 0),
    **{"solos": 1, "duets": 1, "seconds": 2.0, "width": 64, "height": 48, "frame_rate": 12},
}
CLIPS = ROOT.parent / "shared" / "music-clips"


@pytest.fixture
def own(tmp_path: Path, make_video: Callable) -> Path:
    """A folder of the user's own videos."""
    folder = tmp_path / "own"
    make_video(folder / "flute" / "a, b.mp4")
    make_video(folder / "tuba" / "-c.mkv", "-c", "copy")
    make_video(folder / "flat 'n %d.mp4")
    return folder


@pytest.mark.slow
def test_synthetic_videos(params: Params, tmp_path: Path) -> None:
    params = changed(params, synthetic=TINY)
    summary = download(params, tmp_path / "one")
    assert (summary["source"], summary["listed"], summary["videos"]) == ("synthetic", 11, 11)
    ((category, instruments),) = summary["duets"].items()
    assert category == "_".join(instruments)
    files = tree(tmp_path / "one")
    assert len([name for name in files if name.endswith(".mp4")]) == 11
    assert len([name for name in files if name.endswith(".truth.npz")]) == 11
    before = times(tmp_path / "one")
    assert download(params, tmp_path / "one") == summary
    assert times(tmp_path / "one") == before
    # One more duet: only it is rendered, and the tree is as if made from nothing.
    more = changed(params, synthetic={"duets": 2})
    download(more, tmp_path / "one")
    after = times(tmp_path / "one")
    assert len([name for name in after if before.get(name) != after[name]]) == 2
    download(params, tmp_path / "one")
    assert tree(tmp_path / "one") == files
    # Videos of other kinds are added likewise.
    more = changed(params, synthetic={"same_duets": 1, "resting_duets": 1, "talkers": 1})
    summary = download(more, tmp_path / "one")
    assert len(summary["duets"]) == 3
    assert {len(set(instruments)) for instruments in summary["duets"].values()} == {1, 2}
    after = times(tmp_path / "one")
    assert len([name for name in after if before.get(name) != after[name]]) == 6


def test_local_videos(params: Params, own: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    summary = download(local(params, own), videos)
    assert summary["duets"] == {}
    assert sorted(tree(videos)) == [
        *("flute/a, b.mp4", "manifest.csv", "tuba/-c.mp4", "unlabelled/flat 'n %d.mp4")
    ]
    assert (videos / "flute/a, b.mp4").read_bytes() == (own / "flute/a, b.mp4").read_bytes()
    assert summary["videos"] == 3
    assert summary["category"]["flute"] == {"done": 1, "unavailable": 0, "failed": 0}
    assert [(row["category"], row["id"], row["status"]) for row in rows(videos)] == [
        ("flute", "a, b", "done"),
        ("tuba", "-c", "done"),
        ("unlabelled", "flat 'n %d", "done"),
    ]


def test_changed_local_videos(
    params: Params, own: Path, tmp_path: Path, make_video: Callable
) -> None:
    videos = tmp_path / "videos"
    download(local(params, own), videos)
    before = times(videos)
    make_video(own / "flute" / "new.mp4")
    (own / "flat 'n %d.mp4").unlink()
    make_video(own / "tuba" / "-c.mkv", "-c:v", "copy", "-c:a", "aac")
    (videos / "flute" / ".part-7-x.mp4").write_bytes(b"x")
    (videos / "flute" / "foreign.mp4").write_bytes(b"x")
    download(local(params, own), videos)
    after = times(videos)
    assert {n for n in after if before.get(n) != after[n]} == {"flute/new.mp4", "tuba/-c.mp4"}
    assert not (videos / "unlabelled").exists()
    download(local(params, own), tmp_path / "again")
    assert tree(videos) == tree(tmp_path / "again")


def test_missing_damaged_and_unlisted_files(params: Params, own: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    download(local(params, own), videos)
    whole = tree(videos)
    (videos / "tuba/-c.mp4").unlink()
    (videos / "flute/a, b.mp4").write_bytes(b"short")
    download(local(params, own), videos)
    assert tree(videos) == whole
    for text in ("", "nonsense", "category,id\nx,y\n", 'a,"b\n'):
        (videos / "manifest.csv").write_text(text)
        download(local(params, own), videos)
        assert tree(videos) == whole


def test_unusable_files_are_left_out(
    params: Params,
    own: Path,
    tmp_path: Path,
    make_video: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (own / "flute" / "notes.doc").write_text("not a video")
    (own / "flute" / "gone.mp4").symlink_to(own / "nowhere.mp4")
    (own / "tuba" / "-c.mp4").symlink_to("/etc/passwd")
    make_video(own / "tuba" / "mute.mkv", "-an", "-c", "copy")
    make_video(own / "flute" / "a, b.mov", "-c", "copy")
    make_video(own / "flute" / "line\nbreak.mp4")
    (own / "flute" / "notes.txt").write_text("not even taken for a video")
    summary = download(local(params, own), tmp_path / "videos")
    assert summary["videos"] == 3
    reasons = {
        Path(name).name: reason for name, reason in summary["unavailable"]["reasons"].items()
    }
    assert reasons.keys() == {
        *("notes.doc", "gone.mp4", "-c.mp4", "mute.mkv", "a, b.mp4", r"line\nbreak.mp4")
    }
    assert "not a video" in reasons["notes.doc"]
    assert "missing file" in reasons["gone.mp4"]
    assert "leaves the folder" in reasons["-c.mp4"]
    assert "no sound" in reasons["mute.mkv"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert len(said) == 6
    assert f"left out: {own / 'tuba' / 'mute.mkv'}: contains no sound" in said
    left_out = [row for row in rows(tmp_path / "videos") if row["status"] == "unavailable"]
    assert len(left_out) == 6
    assert all(row["reason"] for row in left_out)
    assert download(local(params, own), tmp_path / "videos") == summary


def test_folders_of_speakers_become_one_category(
    params: Params, tmp_path: Path, make_video: Callable
) -> None:
    own = tmp_path / "mp4"
    for person in ("id00012", "id00015"):
        make_video(own / person / "21Uxsk56VDQ" / "00001.mp4")
    make_video(own / "s1" / "video" / "mpg_6000" / "bbaf2n.mpg", "-c:v", "mpeg1video", "-r", "25")
    folder = {"folder": str(own), "category": "talker"}
    summary = download(changed(params, source="local", local=folder), tmp_path / "videos")
    assert summary["category"] == {"talker": {"done": 3, "unavailable": 0, "failed": 0}}
    assert sorted(tree(tmp_path / "videos"))[1:] == [
        "talker/id00012__21Uxsk56VDQ__00001.mp4",
        "talker/id00015__21Uxsk56VDQ__00001.mp4",
        "talker/s1__video__mpg_6000__bbaf2n.mp4",
    ]


def test_a_change_of_the_sound_beside_a_video_is_noticed(
    params: Params, tmp_path: Path, make_video: Callable
) -> None:
    own, videos = tmp_path / "FAIR-Play", tmp_path / "videos"
    for name in ("000001", "000002"):
        make_video(own / "videos" / f"{name}.mp4", "-an", "-c", "copy")
        make_video(own / "binaural_audios" / f"{name}.wav", "-vn", "-ac", "2")
    (own / "splits" / "split1").mkdir(parents=True)
    (own / "splits" / "split1" / "train.h5").write_bytes(b"x")
    summary = download(local(params, own), videos)
    assert summary["unavailable"]["count"] == 0
    assert [row["format"] for row in rows(videos)] == 2 * ["h264 96x72, flac 22050 Hz stereo"]
    before = times(videos)
    make_video(own / "binaural_audios" / "000002.wav", "-vn", "-af", "volume=0.5")
    download(local(params, own), videos)
    after = times(videos)
    assert {n for n in after if before.get(n) != after[n]} == {"videos/000002.mp4"}
    (own / "binaural_audios" / "000001.wav").unlink()
    reasons = download(local(params, own), videos)["unavailable"]["reasons"]
    assert list(reasons.values()) == ["contains no sound"]


def test_a_list_gives_files_their_categories_and_parts(
    params: Params, tmp_path: Path, make_video: Callable
) -> None:
    own, videos = tmp_path / "AVE_Dataset", tmp_path / "videos"
    make_video(own / "AVE" / "RUhOCu3LNXM.mp4")
    make_video(own / "AVE" / "not_in_list.mp4")
    annotations = own / "Annotations.txt"
    annotations.write_text(
        "Category&VideoID&Quality&StartTime&EndTime\nChurch bell&RUhOCu3LNXM&good&1&2\n"
        "Bark&RUhOCu3LNXM&good&0&1\nBark&gone5678901&good&0&10\n"
        "Bark&RUhOCu3LNXM&good&5&9\n"
    )
    place = {"folder": str(own), "by_list": True}
    of_ave = changed(params, source="local", local=place, lists={"own": str(annotations)})
    summary = download(of_ave, videos)
    assert sorted(tree(videos)) == [
        *("Bark/RUhOCu3LNXM_0-1.mp4", "Church_bell/RUhOCu3LNXM_1-2.mp4", "manifest.csv")
    ]
    done = [row for row in rows(videos) if row["status"] == "done"]
    assert [float(row["seconds"]) for row in done] == pytest.approx([1, 1], abs=0.05)
    assert summary["unavailable"]["reasons"] == {
        "gone5678901": "no file of this name in dataset.local.folder",
        str(own / "AVE" / "RUhOCu3LNXM.mp4"): "nothing between 5 and 9 s: it is 2.5 s long",
    }
    before = times(videos)
    annotations.write_text(annotations.read_text().replace("&good&0&1\n", "&good&1&2\n"))
    assert download(of_ave, videos)["videos"] == 2
    assert times(videos).keys() - before.keys() == {"Bark/RUhOCu3LNXM_1-2.mp4"}
    one = {"folder": str(own), "by_list": True}
    lists = {"own": str(annotations), "categories": ["Church_bell"]}
    chosen = download(changed(params, source="local", local=one, lists=lists), videos)
    assert chosen["category"].keys() == {"Church_bell"}


def test_listed_file_is_the_one_in_the_folder_of_its_category(
    params: Params, tmp_path: Path, make_video: Callable
) -> None:
    own, videos = tmp_path / "own", tmp_path / "videos"
    first = make_video(own / "flute" / "a.mp4")
    second = make_video(own / "tuba" / "a.mp4", "-t", "1", "-c", "copy")
    (own / "list.csv").write_text("category,id\nflute,a\ntuba,a\nviolin,a\n")
    place = {"folder": str(own), "by_list": True}
    of_list = changed(params, source="local", local=place, lists={"own": str(own / "list.csv")})
    summary = download(of_list, videos)
    assert (videos / "flute" / "a.mp4").read_bytes() == first.read_bytes()
    assert (videos / "tuba" / "a.mp4").read_bytes() == second.read_bytes()
    assert summary["unavailable"]["reasons"] == {
        "a": f"{first} and {second} have this name; rename one of them"
    }


def test_files_of_vggsound_are_parts_already(
    params: Params, tmp_path: Path, make_video: Callable
) -> None:
    own, videos = tmp_path / "own", tmp_path / "videos"
    video = make_video(own / "scratch" / "---g-f_I2yQ_000001.mp4")
    listed = tmp_path / "vggsound.csv"
    listed.write_text('---g-f_I2yQ,1,"heart sounds, heartbeat",test\n--0PQM4-hqg,30,hail,train\n')
    place = {"folder": str(own), "by_list": True}
    of_list = changed(params, source="local", local=place, lists={"own": str(listed)})
    assert download(of_list, videos)["unavailable"]["count"] == 1
    copy = videos / "heart_sounds_heartbeat" / "---g-f_I2yQ_1-11.mp4"
    assert copy.read_bytes() == video.read_bytes()
    split = read_split(params.index.split, videos / "splits.json")
    assert {side: [entry.name for entry in entries] for side, entries in split.items()} == {
        "test": ["heart_sounds_heartbeat/---g-f_I2yQ_1-11"],
        "train": ["hail/--0PQM4-hqg_30-40"],
    }
    # Lists of the parameters come first.
    (tmp_path / "test.csv").write_text("---g-f_I2yQ\n")
    named = {"folder": str(tmp_path), "test": "test.csv"}
    listed_split = params.index.split.model_copy(update=named)
    assert read_split(listed_split, videos / "splits.json").keys() == {"test"}
    # A drawn split leaves nothing of it.
    listed.write_text("category,id\nhail,---g-f_I2yQ\n")
    place = {"folder": str(own), "by_list": True}
    make_video(own / "---g-f_I2yQ.mp4")
    download(changed(params, source="local", local=place, lists={"own": str(listed)}), videos)
    assert sorted(tree(videos)) == ["hail/---g-f_I2yQ.mp4", "manifest.csv"]
    assert read_split(params.index.split, videos / "splits.json") == {}


def test_no_usable_video(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.local\.folder"):
        download(local(params, tmp_path / "nowhere"), tmp_path / "videos")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.mp4").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"0 of 1 videos downloaded; for example .*a\.mp4: not a video"
    ):
        download(local(params, tmp_path / "own"), tmp_path / "videos")


def test_local_folder_is_never_written_to(params: Params, own: Path, tmp_path: Path) -> None:
    before = tree(own)
    for folder in (own, own.parent):
        with pytest.raises(UserError, match="is where this stage writes"):
            download(local(params, own), folder)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(UserError, match="is where this stage writes"):
        download(local(params, tmp_path / "link"), own)
    assert tree(own) == before


def test_missing_folder_keeps_old_videos(params: Params, own: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    download(local(params, own), videos)
    before = tree(videos)
    with pytest.raises(UserError):
        download(local(params, tmp_path / "nowhere"), videos)
    assert tree(videos) == before


@pytest.fixture(scope="module")
def served_site(
    tmp_path_factory: pytest.TempPathFactory, make_video: Callable
) -> Iterator[tuple[Params, Server]]:
    """Parameters of a server of two lists and their videos, one of which is missing."""
    folder = tmp_path_factory.mktemp("site")
    lists = {
        published_lists.MUSIC_SOLOS: {
            "flute": ["-aaaaaaaaaa", "bbbbbbbbbbb"],
            "tuba": ["ccccccccccc"],
        },
        published_lists.MUSIC_DUETS: {"flute tuba": ["ddddddddddd"]},
    }
    for name in ("-aaaaaaaaaa", "bbbbbbbbbbb", "ddddddddddd"):
        make_video(folder / f"{name}.mp4")
    with pytest.MonkeyPatch.context() as patch, serving(folder) as server:
        for name, videos in lists.items():
            (folder / name).write_text(json.dumps({"videos": videos}))
            patch.setitem(published_lists.SHA256, name, sha256(folder / name))
        fetch = {
            "video_url": f"{server.root}/{{id}}.mp4",
            "stall_timeout_seconds": 1.0,
            "retries": 0,
            "backoff_seconds": 0.0,
        }
        published = {"published": f"{server.root}/{{file}}"}
        params = load_params(ROOT / "params.yaml")
        yield changed(params, source="music", lists=published, fetch=fetch), server


@pytest.fixture
def music(served_site: tuple[Params, Server]) -> tuple[Params, Server]:
    """The parameters and the server, which nobody has asked yet."""
    _, server = served_site
    server.answers.clear()
    server.asked.clear()
    return served_site


@pytest.fixture(scope="module")
def first_download(
    served_site: tuple[Params, Server], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder of all lists and videos, and the summary of their download."""
    root = tmp_path_factory.mktemp("first")
    return root, download(served_site[0], root / "videos")


@pytest.fixture
def downloaded(first_download: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the downloaded videos, with the lists beside it."""
    for name in ("videos", "lists"):
        shutil.copytree(first_download[0] / name, tmp_path / name)
    return tmp_path / "videos"


def asked_for(server: Server) -> set[str]:
    return {name for name, _ in server.asked}


def test_published_lists_from_a_server(
    music: tuple[Params, Server],
    first_download: tuple[Path, dict[str, Any]],
    downloaded: Path,
    make_video: Callable,
) -> None:
    params, server = music
    summary = first_download[1]
    assert sorted(tree(downloaded)) == [
        *("flute/-aaaaaaaaaa.mp4", "flute/bbbbbbbbbbb.mp4", "flute_tuba/ddddddddddd.mp4"),
        "manifest.csv",
    ]
    assert (summary["listed"], summary["videos"]) == (4, 3)
    assert summary["duets"] == {"flute_tuba": ("flute", "tuba")}
    assert summary["category"]["tuba"] == {"done": 0, "unavailable": 1, "failed": 0}
    url = params.dataset.fetch.video_url.replace("{id}", "ccccccccccc")
    assert "404" in summary["unavailable"]["reasons"][url]
    gone, done = rows(downloaded)[3], rows(downloaded)[0]
    assert (gone["id"], gone["status"], gone["source"]) == ("ccccccccccc", "unavailable", url)
    assert done["format"] == "h264 96x72, aac 22050 Hz mono"
    assert float(done["seconds"]) == pytest.approx(2.5, abs=0.1)
    # Downloaded and unavailable videos and the lists are not requested again.
    late = make_video(server.folder / "ccccccccccc.mp4")
    try:
        before = tree(downloaded)
        assert download(params, downloaded) == summary
        assert tree(downloaded) == before
        assert asked_for(server) == set()
        # Unless the parameters say so.
        retried = changed(params, fetch={"retry_unavailable": True})
        assert download(retried, downloaded)["videos"] == 4
        assert asked_for(server) == {"ccccccccccc.mp4"}
    finally:
        late.unlink()
    again = download(params, downloaded)
    assert again["videos"] == 4
    without = changed(params, lists={"duets": False})
    assert download(without, downloaded)["listed"] == 3
    assert not (downloaded / "flute_tuba").exists()


@pytest.mark.slow
def test_temporary_failures_are_retried(
    music: tuple[Params, Server], downloaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, server = music
    server.answers["bbbbbbbbbbb.mp4"] = status(503)
    (downloaded / "flute" / "bbbbbbbbbbb.mp4").unlink()
    summary = download(params, downloaded)
    assert summary["category"]["flute"] == {"done": 1, "unavailable": 0, "failed": 1}
    assert summary["failed"]["count"] == summary["unavailable"]["count"] == 1
    said = capsys.readouterr().out
    assert "1 of 4 videos failed temporarily; `dvc repro --force download`" in said
    server.answers.clear()
    server.asked.clear()
    assert download(params, downloaded)["videos"] == 3
    assert asked_for(server) == {"bbbbbbbbbbb.mp4"}


def test_categories_and_max_per_category(music: tuple[Params, Server], tmp_path: Path) -> None:
    params, _ = music
    few = changed(params, lists={"categories": ["flute", "flute_tuba"], "max_per_category": 1})
    download(few, tmp_path / "videos")
    assert [(row["category"], row["id"]) for row in rows(tmp_path / "videos")] == [
        *(("flute", "-aaaaaaaaaa"), ("flute_tuba", "ddddddddddd"))
    ]
    with pytest.raises(UserError, match=r"categories: 'oboe' .* has flute, tuba, flute_tuba"):
        download(changed(params, lists={"categories": ["oboe"]}), tmp_path / "videos")


@pytest.mark.slow
def test_own_list(music: tuple[Params, Server], tmp_path: Path) -> None:
    params, server = music
    (server.folder / "My clip.mp4").write_bytes((server.folder / "bbbbbbbbbbb.mp4").read_bytes())
    place = tmp_path / "list.csv"
    place.write_text(
        f"category,id,url,begin,end\nflute,-aaaaaaaaaa,,,\nhorn,,{server.root}/My%20clip.mp4,,\n"
        "horn,bbbbbbbbbbb,,0.5,1.5\n"
    )
    own = changed(params, source="list", lists={"own": str(place)})
    summary = download(own, tmp_path / "videos")
    assert summary["videos"] == 3
    names = [row["id"] for row in rows(tmp_path / "videos")]
    assert names[0] == "-aaaaaaaaaa"
    assert names[1].startswith("My_clip_")
    assert names[2] == "bbbbbbbbbbb_0.5-1.5"
    assert float(rows(tmp_path / "videos")[2]["seconds"]) == pytest.approx(1.0, abs=0.1)


def test_min_success_fraction(music: tuple[Params, Server], downloaded: Path) -> None:
    params, _ = music
    strict = changed(params, fetch={"min_success_fraction": 0.9})
    with pytest.raises(
        UserError, match=r"3 of 4 videos downloaded.*min_success_fraction requires 90%"
    ):
        download(strict, downloaded)
    before = times(downloaded)
    assert len(before) == 3
    download(params, downloaded)
    assert times(downloaded) == before


@pytest.mark.slow
def test_lost_network(music: tuple[Params, Server], downloaded: Path, tmp_path: Path) -> None:
    params, _ = music
    for name in ("flute/-aaaaaaaaaa.mp4", "flute/bbbbbbbbbbb.mp4"):
        (tmp_path / "videos" / name).unlink()
    before = times(tmp_path / "videos")
    lost = changed(
        params,
        fetch={
            "video_url": "http://127.0.0.1:9/{id}.mp4",
            "min_success_fraction": 0.0,
            "parallel_downloads": 1,
        },
    )
    with pytest.raises(UserError, match=r"no network: .*; 0 of 4 are downloaded and kept"):
        download(lost, tmp_path / "videos")
    assert times(tmp_path / "videos") == before
    with pytest.raises(UserError, match="cannot be downloaded"):
        (tmp_path / "lists" / published_lists.MUSIC_SOLOS).unlink()
        download(
            changed(params, lists={"published": "http://127.0.0.1:9/{file}"}), tmp_path / "videos"
        )
    assert times(tmp_path / "videos") == before


NETSCAPE = "# Netscape HTTP Cookie File\n"
COOKIE = "127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\tsecret\n"


def test_settings_of_the_download_are_checked_first(
    music: tuple[Params, Server], tmp_path: Path
) -> None:
    params, server = music
    cookies = tmp_path / "cookies.txt"

    def refused(message: str, **fetch: Any) -> None:
        with pytest.raises(UserError, match=message) as caught:
            download(changed(params, fetch=fetch), tmp_path / "videos")
        assert "\n" not in str(caught.value)

    refused(r"fetch\.cookies: .*none.txt not found", cookies=str(tmp_path / "none.txt"))
    for content, message in (
        (b'[{"domain": "x"}]', "is not a cookie file in Netscape format, it is JSON; export it"),
        (b"session=secret; other=1\n", "is not a cookie file in Netscape format; export it"),
        (b"\xff\xfe#\0", "is not a text file in UTF-8"),
        (NETSCAPE.encode(), "contains no cookies"),
        ((NETSCAPE + COOKIE.replace("\t", " ")).encode(), "contains no cookies"),
    ):
        cookies.write_bytes(content)
        refused(rf"fetch\.cookies: .*cookies\.txt {message}", cookies=str(cookies))
    refused(r"fetch\.format: 'best\+\+best' is not a format selector", format="best++best")
    refused(r"fetch\.format: .* is not a format selector", format="bv*[height<=?480")
    refused(r"fetch\.yt_dlp: outtmpl is not allowed", yt_dlp={"outtmpl": "/etc/x"})
    refused(r"fetch\.yt_dlp: yt-dlp does not accept", yt_dlp={"http_headers": "mine"})
    assert asked_for(server) == set()
    # Nothing is checked for a source that downloads nothing.
    check_fetch_settings(changed(params, source="local", fetch={"format": "best++best"}).dataset)


@pytest.mark.slow
def test_new_cookies_ask_again_for_what_required_a_log_in(
    music: tuple[Params, Server], downloaded: Path, tmp_path: Path
) -> None:
    params, server = music
    cookies = tmp_path / "cookies.txt"
    (downloaded / "flute" / "bbbbbbbbbbb.mp4").unlink()

    def answer(handler: Any) -> None:
        known = "session=secret" in (handler.headers.get("Cookie") or "")
        video = file_of(server.folder / "bbbbbbbbbbb.mp4")
        (video if known else status(403))(handler)

    server.answers["bbbbbbbbbbb.mp4"] = answer
    assert download(params, downloaded)["videos"] == 2
    server.asked.clear()
    assert download(params, downloaded)["videos"] == 2
    assert asked_for(server) == set()
    for value, videos in (("wrong", 2), ("secret", 3)):
        cookies.write_text(NETSCAPE + COOKIE.replace("secret", value))
        server.asked.clear()
        with_cookies = changed(params, fetch={"cookies": str(cookies)})
        assert download(with_cookies, downloaded)["videos"] == videos
        # The video that is gone is not asked for.
        assert asked_for(server) == {"bbbbbbbbbbb.mp4"}
    assert "secret" not in (downloaded / "manifest.csv").read_text()


def test_access_is_the_cookies_and_the_address_of_the_proxy(params: Params, tmp_path: Path) -> None:
    (tmp_path / "cookies.txt").write_text("one")

    def access(**fetch: Any) -> str:
        return access_of(changed(params, fetch=fetch).dataset.fetch)

    found = [
        access(),
        access(proxy="http://host:1"),
        access(proxy="http://other:1"),
        access(cookies=str(tmp_path / "cookies.txt")),
    ]
    (tmp_path / "cookies.txt").write_text("two")
    found.append(access(cookies=str(tmp_path / "cookies.txt")))
    assert len(set(found)) == len(found)
    assert found[1] == access(proxy="http://user:password@host:1")


def test_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    row = VideoRow("flute", "a", "done", "", 2.5, 100, "h264", "a.mp4", "sha256:0")
    write_manifest([row], tmp_path)
    path = tmp_path / "manifest.csv"
    assert read_manifest(tmp_path) == [row]
    path.write_text(path.read_text().replace(",access\n", "\n").replace("sha256:0,", "sha256:0"))
    assert path.read_text().endswith(",made_from\nflute,a,done,,2.5,100,h264,a.mp4,sha256:0\n")
    assert read_manifest(tmp_path) == [row]


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
def test_real_clips(params: Params, tmp_path: Path) -> None:
    # All 55 in the stress test.
    chosen = sorted(CLIPS.glob("*/*.mp4"))[:: repeats(6, 1)]
    for clip in chosen:
        copy = tmp_path / "clips" / clip.relative_to(CLIPS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, copy)
    clips = {f"{clip.parent.name}/{clip.stem}" for clip in chosen}
    summary = download(local(params, tmp_path / "clips"), tmp_path / "videos")
    assert summary["videos"] == len(clips)
    folders = [tmp_path / name for name in ("videos", "audio", "frames")]
    extracted = extract(params.extract, *folders, Workers(2), tmp_path / "hashes.sqlite")
    made = {f"{place.parent.name}/{place.stem}" for place in folders[1].glob("*/*.wav")}
    assert made | extracted["left_out"]["reasons"].keys() == clips
    assert extracted["left_out"]["count"] <= 1
