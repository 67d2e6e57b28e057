import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sop.dataset.catalogue import Entry
from sop.dataset.youtube import fetch
from sop.errors import LeftOut
from sop.params import MusicParams, Params


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, params: Params) -> Iterator[tuple[Path, MusicParams]]:
    """A folder, and parameters that make its files `<id>.mp4` the videos."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{{id}}.mp4"
        music = params.dataset.music
        yield folder, music.model_copy(update={"video_url": url, "timeout_seconds": 5.0})
        server.shutdown()


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["--IXKwloYLE", "-_-TDDxoaAc", "8DHG_hVSw1o"])
def test_a_video_is_fetched_byte_for_byte(
    name: str, tmp_path: Path, site: tuple[Path, MusicParams], make_video: Callable
) -> None:
    folder, params = site
    video = make_video(folder / f"{name}.mp4")
    fetch(Entry("flute_violin", name), params, tmp_path / "out")
    assert files(tmp_path / "out") == [f"flute_violin/{name}.mp4"]
    assert (tmp_path / "out/flute_violin" / f"{name}.mp4").read_bytes() == video.read_bytes()


def test_what_is_not_there_is_left_out(tmp_path: Path, site: tuple[Path, MusicParams]) -> None:
    with pytest.raises(LeftOut, match="404") as caught:
        fetch(Entry("flute", "aaaaaaaaaaa"), site[1], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 160
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("text", [b"<html><body>gone</body></html>", b"", b"\0" * 5000])
def test_what_is_no_video_is_left_out(
    text: bytes, tmp_path: Path, site: tuple[Path, MusicParams]
) -> None:
    folder, params = site
    (folder / "aaaaaaaaaaa.mp4").write_bytes(text)
    with pytest.raises(LeftOut):
        fetch(Entry("flute", "aaaaaaaaaaa"), params, tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_a_server_that_is_gone(tmp_path: Path, params: Params) -> None:
    music = params.dataset.music.model_copy(update={"video_url": "http://127.0.0.1:9/{id}.mp4"})
    with pytest.raises(LeftOut, match="refused"):
        fetch(Entry("flute", "aaaaaaaaaaa"), music, tmp_path / "out")


def test_another_container_becomes_mp4(
    tmp_path: Path, site: tuple[Path, MusicParams], make_video: Callable
) -> None:
    folder, params = site
    make_video(folder / "aaaaaaaaaaa.mkv", "-c", "copy")
    url = params.video_url.replace(".mp4", ".mkv")
    fetch(
        Entry("flute", "aaaaaaaaaaa"),
        params.model_copy(update={"video_url": url}),
        tmp_path / "out",
    )
    assert files(tmp_path / "out") == ["flute/aaaaaaaaaaa.mp4"]


def test_an_old_video_stays_when_the_new_one_cannot_be_had(
    tmp_path: Path, site: tuple[Path, MusicParams], make_video: Callable
) -> None:
    folder, params = site
    video = make_video(folder / "aaaaaaaaaaa.mp4")
    fetch(Entry("flute", "aaaaaaaaaaa"), params, tmp_path / "out")
    kept = shutil.move(video, tmp_path / "kept.mp4")
    with pytest.raises(LeftOut):
        fetch(Entry("flute", "aaaaaaaaaaa"), params, tmp_path / "out")
    assert (tmp_path / "out/flute/aaaaaaaaaaa.mp4").read_bytes() == kept.read_bytes()
