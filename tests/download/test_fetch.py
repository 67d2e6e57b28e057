import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yt_dlp.utils import ExtractorError

from sop.download import ytdlp_process
from sop.download.fetch import FAILURES, fetch, format_selector, remove_stale_partials
from sop.download.published_lists import ListedVideo
from sop.download.ytdlp_process import FetchRequest, Refused, message_kind, unknown_options
from sop.download.ytdlp_process import _ranges as part_of
from sop.download.ytdlp_process import _refuse as refuse
from sop.media.ffmpeg import Limits
from sop.params import FetchParams, Params
from sop.runtime.errors import LeftOut, LeftOutForNow, NoNetwork, NotWritable
from tests.support.disks import largest_file
from tests.support.server import (
    Answer,
    Server,
    at_first,
    file_of,
    in_seconds,
    redirect,
    serving,
    stalled,
    status,
    truncated,
)

ID = "aaaaaaaaaaa"
QUICK = {
    "stall_timeout_seconds": 1.0,
    "timeout_seconds": 20.0,
    "retries": 1,
    "backoff_seconds": 0.05,
}


class Site:
    """A server, and what is fetched from it."""

    def __init__(self, server: Server, params: FetchParams, root: Path) -> None:
        self.server = server
        self.params = params.model_copy(update={"video_url": f"{server.root}/{{id}}.mp4", **QUICK})
        self.videos, self.partial = root / "videos", root / "partial"

    def fetch(self, name: str = ID, entry: ListedVideo | None = None, **changes: Any) -> Any:
        params = self.params.model_copy(update=changes)
        video = entry or ListedVideo("flute", name)
        path = self.videos / video.category / f"{video.id}.mp4"
        return fetch(video, path, params, self.partial, Limits(params.timeout_seconds))

    def request(self, stem: Path, **changes: Any) -> FetchRequest:
        """The request that a process would get."""
        params = self.params.model_copy(update=changes)
        return FetchRequest(
            url=params.video_url.replace("{id}", ID),
            stem=str(stem),
            format=format_selector(params),
            clip=None,
            params=params,
        )

    def answer(self, answer: Answer, name: str = ID) -> None:
        self.server.answers[f"{name}.mp4"] = answer

    def files(self, folder: Path) -> list[str]:
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def site(tmp_path: Path, params: Params, make_video: Callable) -> Iterator[Site]:
    make_video(tmp_path / "site" / f"{ID}.mp4")
    with serving(tmp_path / "site") as server:
        yield Site(server, params.dataset.fetch, tmp_path)


@pytest.fixture
def over() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def video_of(site: Site, name: str = ID) -> Path:
    return site.server.folder / f"{name}.mp4"


@pytest.mark.parametrize("name", ["--IXKwloYLE", "8DHG_hVSw1o"])
def test_fetched_bytes(name: str, site: Site, make_video: Callable) -> None:
    video = make_video(video_of(site, name))
    found = site.fetch(name)
    assert site.files(site.videos) == [f"flute/{name}.mp4"]
    assert (site.videos / f"flute/{name}.mp4").read_bytes() == video.read_bytes()
    assert site.files(site.partial) == []
    assert found.seconds == pytest.approx(2.5, abs=0.1)
    assert found.format == "h264 96x72, aac 22050 Hz mono"


def test_full_disk_ends_the_run_and_keeps_what_was_fetched(site: Site) -> None:
    size = video_of(site).stat().st_size
    with largest_file(size // 2), pytest.raises(NotWritable, match=r"partial/flute\.aaaaaaaaaaa"):
        site.fetch()
    assert site.files(site.videos) == []
    (part,) = site.files(site.partial)
    assert (site.partial / part).stat().st_size > 0
    site.fetch()
    assert site.files(site.videos) == [f"flute/{ID}.mp4"]


FAILING_ANSWERS = [
    (status(404), "permanent"),
    (status(401), "no access"),
    (status(403), "no access"),
    (status(410), "permanent"),
    (status(451), "no access"),
    (status(429, Retry_After="0"), "temporary"),
    (status(500), "temporary"),
    (status(503), "temporary"),
    (redirect(f"/{ID}.mp4"), "temporary"),
]


@pytest.mark.parametrize(("answer", "failure"), FAILING_ANSWERS)
def test_failures_are_permanent_or_temporary(
    answer: Answer, failure: str, site: Site, tmp_path: Path
) -> None:
    site.answer(answer)
    result = ytdlp_process.fetch(site.request(tmp_path / "fetched"))
    assert (result.file, result.failure) == ("", failure)
    assert "\n" not in result.reason
    assert len(result.reason) <= 200


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(404), LeftOut),
        (status(500), LeftOutForNow),
        (lambda handler: handler.body(b"<html><body>gone</body></html>", "text/html"), LeftOut),
        (lambda handler: handler.body(b"<html><body>gone</body></html>"), LeftOut),
        (lambda handler: handler.body(b"\0" * 5000), LeftOut),
    ],
)
def test_bad_answers_leave_no_file(answer: Answer, kind: type, site: Site) -> None:
    site.answer(answer)
    with pytest.raises(LeftOut) as caught:
        site.fetch()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200
    assert site.files(site.videos) == site.files(site.partial) == []


@pytest.mark.slow
def test_retry_after_is_respected(site: Site, tmp_path: Path) -> None:
    for number, asked in enumerate((lambda: "2", lambda: in_seconds(3))):
        site.answer(at_first([status(429, Retry_After=asked())], file_of(video_of(site))))
        began = time.monotonic()
        assert ytdlp_process.fetch(site.request(tmp_path / f"fetched{number}")).file
        assert time.monotonic() - began >= 2


@pytest.mark.slow
def test_retry_after_of_any_length_ends_with_the_time_limit(site: Site) -> None:
    site.answer(status(429, Retry_After="9" * 400))
    with pytest.raises(LeftOutForNow, match="took longer than 4 s"):
        site.fetch(timeout_seconds=4.0)


def test_retry_after_server_errors(site: Site, tmp_path: Path) -> None:
    site.answer(at_first([status(500), status(503)], file_of(video_of(site))))
    assert ytdlp_process.fetch(site.request(tmp_path / "fetched", retries=2)).file


@pytest.mark.slow
def test_stalled_server(site: Site, over: threading.Event) -> None:
    site.answer(stalled(video_of(site), over))
    began = time.monotonic()
    with pytest.raises(LeftOutForNow, match="timed out"):
        site.fetch(retries=0)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_slow_server(site: Site, over: threading.Event) -> None:
    site.answer(stalled(video_of(site), over, drip=True))
    began = time.monotonic()
    with pytest.raises(LeftOutForNow, match="took longer than 3 s"):
        site.fetch(timeout_seconds=3.0)
    assert time.monotonic() - began < 6


@pytest.mark.slow
def test_truncated_body(site: Site) -> None:
    site.answer(truncated(video_of(site), 0.6))
    with pytest.raises(LeftOutForNow):
        site.fetch()
    assert site.files(site.videos) == []
    site.answer(truncated(video_of(site), 0.6, announced=False))
    with pytest.raises(LeftOutForNow, match="cut off"):
        site.fetch()
    assert site.files(site.videos) == site.files(site.partial) == []


@pytest.mark.slow
def test_partial_file_is_resumed(site: Site) -> None:
    size = video_of(site).stat().st_size
    site.answer(truncated(video_of(site), 0.6))
    with pytest.raises(LeftOutForNow):
        site.fetch(retries=0)
    assert len(site.files(site.partial)) == 1
    site.answer(file_of(video_of(site)))
    site.server.asked.clear()
    site.fetch()
    begins = [int(wanted[6:-1]) for _, wanted in site.server.asked if wanted]
    assert max(begins) > 0.3 * size
    assert (site.videos / f"flute/{ID}.mp4").read_bytes() == video_of(site).read_bytes()


def test_only_own_folders_are_removed_from_the_partial_downloads(tmp_path: Path) -> None:
    remove_stale_partials(tmp_path / "none", [])
    for name in ("flute.a.0123abcd", "flute.b.0123abcd", "mine", "flute.c"):
        (tmp_path / "partial" / name).mkdir(parents=True)
    for name in (".DS_Store", "flute.d.0123abcd"):
        (tmp_path / "partial" / name).write_bytes(b"x")
    remove_stale_partials(tmp_path / "partial", ["flute.b.0123abcd"])
    assert sorted(path.name for path in (tmp_path / "partial").iterdir()) == [
        *(".DS_Store", "flute.b.0123abcd", "flute.c", "flute.d.0123abcd", "mine")
    ]


@pytest.mark.slow
def test_partial_file_of_another_video(site: Site, make_video: Callable) -> None:
    site.answer(truncated(video_of(site), 0.6))
    with pytest.raises(LeftOutForNow):
        site.fetch(retries=0)
    site.answer(file_of(make_video(video_of(site), "-vf", "negate", "-c:a", "copy")))
    site.fetch()
    assert (site.videos / f"flute/{ID}.mp4").read_bytes() == video_of(site).read_bytes()


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "image/png"])
def test_wrong_content_types_are_ignored(kind: str, site: Site, tmp_path: Path) -> None:
    site.answer(file_of(video_of(site), kind))
    result = ytdlp_process.fetch(site.request(tmp_path / "fetched"))
    assert Path(result.file).read_bytes() == video_of(site).read_bytes()


def test_redirects_are_followed(site: Site, make_video: Callable, tmp_path: Path) -> None:
    make_video(video_of(site, "bbbbbbbbbbb"))
    site.answer(redirect("/bbbbbbbbbbb.mp4"))
    assert ytdlp_process.fetch(site.request(tmp_path / "fetched")).file


def test_no_server_is_no_network(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NoNetwork):
        site.fetch(video_url="http://127.0.0.1:9/{id}.mp4")
    request = site.request(tmp_path / "fetched", video_url="http://no-such-host.invalid/{id}.mp4")
    assert ytdlp_process.fetch(request).failure == "no network"


def test_proxy(site: Site, tmp_path: Path) -> None:
    request = site.request(tmp_path / "fetched", proxy="http://127.0.0.1:9")
    assert ytdlp_process.fetch(request).failure == "no network"
    assert site.server.asked == []


@pytest.mark.slow
def test_clips(site: Site, clock_video: Callable) -> None:
    clock_video(video_of(site), "25", 8.0)
    found = site.fetch(entry=ListedVideo("flute", ID, clip=(3.0, 5.5)))
    assert found.seconds == pytest.approx(2.5, abs=0.1)
    found = site.fetch(clip_seconds=[1.0, 2.0])
    assert found.seconds == pytest.approx(1.0, abs=0.1)


def test_clip_from_a_server_without_ranges(site: Site) -> None:
    whole = video_of(site).read_bytes()
    # Its index at the end, which ffmpeg cannot reach without parts.
    index = whole.index(b"moov") - 4
    size = int.from_bytes(whole[index : index + 4], "big")
    moved = whole[:index] + whole[index + size :] + whole[index : index + size]
    site.answer(lambda handler: handler.body(moved))
    with pytest.raises(LeftOutForNow, match="the server may support whole files only"):
        site.fetch(clip_seconds=[0.5, 1.5], retries=0)


@pytest.mark.slow
def test_rate_limit(site: Site, tmp_path: Path) -> None:
    size = video_of(site).stat().st_size
    began = time.monotonic()
    assert ytdlp_process.fetch(site.request(tmp_path / "fetched", rate_limit=size // 2)).file
    assert time.monotonic() - began >= 1.5


def test_cookies(site: Site, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\tsecret\n"
    )
    before = cookies.read_bytes()
    sent = []

    def answer(handler: Any) -> None:
        sent.append(handler.headers.get("Cookie"))
        file_of(video_of(site))(handler)

    site.answer(answer)
    site.fetch(cookies=str(cookies))
    assert "session=secret" in sent
    assert cookies.read_bytes() == before


def test_yt_dlp_options(site: Site) -> None:
    agents = []

    def answer(handler: Any) -> None:
        agents.append(handler.headers.get("User-Agent"))
        file_of(video_of(site))(handler)

    site.answer(answer)
    site.fetch(yt_dlp={"http_headers": {"User-Agent": "mine"}})
    assert set(agents) == {"mine"}
    assert unknown_options({"sleep_interval": 3, "no_such": 1, "outtmpl": "x"}) == [
        *("no_such", "outtmpl")
    ]


def test_other_container(site: Site, make_video: Callable) -> None:
    make_video(site.server.folder / f"{ID}.mkv", "-c", "copy")
    site.fetch(video_url=f"{site.server.root}/{{id}}.mkv")
    assert site.files(site.videos) == [f"flute/{ID}.mp4"]


@pytest.mark.slow
def test_failed_fetch_keeps_the_old_video(site: Site) -> None:
    site.fetch()
    kept = (site.videos / f"flute/{ID}.mp4").read_bytes()
    site.answer(status(404))
    with pytest.raises(LeftOut):
        site.fetch()
    assert (site.videos / f"flute/{ID}.mp4").read_bytes() == kept


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Video unavailable", "permanent"),
        ("Video unavailable. This video is unavailable", "permanent"),
        ("This live stream recording is not available.", "permanent"),
        (
            "Video unavailable. This video is no longer available because the YouTube account "
            "associated with this video has been terminated",
            "permanent",
        ),
        ("This video has been removed by the uploader", "permanent"),
        (
            "Video unavailable. This video has been removed for violating YouTube's Terms of "
            "Service",
            "permanent",
        ),
        ("This video is not available", "permanent"),
        ("Video unavailable. This video isn't available anymore", "permanent"),
        (
            "This video is no longer available because the uploader has closed their YouTube "
            "account",
            "permanent",
        ),
        (
            "Video unavailable. This video contains content from X, who has blocked it on "
            "copyright grounds",
            "permanent",
        ),
        (
            "Private video. Sign in if you've been granted access to this video. Use "
            "--cookies-from-browser or --cookies for the authentication. See  https://x.test",
            "no access",
        ),
        (
            "Video unavailable. The uploader has not made this video available in your country",
            "no access",
        ),
        (
            "Video unavailable. This video contains content from X, who has blocked it in your "
            "country on copyright grounds",
            "no access",
        ),
        (
            "Sign in to confirm your age. This video may be inappropriate for some users",
            "no access",
        ),
        ("Join this channel to get access to members-only content like this video", "no access"),
        ("This video is available to this channel's members on level: Friend", "no access"),
        (
            "This video is only available for registered users. Use --cookies, "
            "--cookies-from-browser, --username and --password to provide account credentials",
            "no access",
        ),
        ("You need to log in to access this content. Use --username and --password", "no access"),
        ("This live event will begin in 3 hours.", "not yet"),
        ("This live event will begin in a few moments.", "not yet"),
        ("This live event has ended.", "not yet"),
        ("Premieres in 25 minutes", "not yet"),
        ("Offline.", "not yet"),
        ("The channel is not currently live", "not yet"),
        ("We're processing this video. Check back later.", "not yet"),
        (
            "Sign in to confirm you're not a bot. Use --cookies-from-browser or --cookies for "
            "the authentication",
            "temporary",
        ),
        ("Video unavailable. This content isn't available, try again later", "temporary"),
        ("Video unavailable. This content isn't available", "temporary"),
        ("The page needs to be reloaded", "temporary"),
        ("Requested format is not available", "not yet"),
        ("Unable to download API page: HTTP Error 429: Too Many Requests", "temporary"),
        ("unable to download video data: HTTP Error 403: Forbidden", "temporary"),
        ("Failed to extract any player response", "temporary"),
    ],
)
def test_messages_of_youtube(said: str, kind: str) -> None:
    # As yt-dlp prefixes them.
    assert message_kind(ExtractorError(said, video_id=ID, ie="youtube", expected=True)) == kind
    assert message_kind(ExtractorError(said, expected=True)) == kind


def playlist(end: bool) -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", "#EXTINF:2.0,", "0.ts"]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if end else []), ""]).encode()


@pytest.mark.parametrize("part", [None, [0.5, 1.5]])
def test_live_streams_are_refused_without_another_try(
    part: list[float] | None, site: Site, tmp_path: Path
) -> None:
    answer = playlist(end=False)
    site.server.answers["live.m3u8"] = lambda handler: handler.body(
        answer, "application/vnd.apple.mpegurl"
    )
    address = f"{site.server.root}/live.m3u8"
    clip = None if part is None else (part[0], part[1])
    request = site.request(tmp_path / "fetched")._replace(url=address, clip=clip)
    result = ytdlp_process.fetch(request)
    assert (result.file, result.failure) == ("", "not yet")
    assert "live stream" in result.reason
    assert {name for name, _ in site.server.asked} == {"live.m3u8"}
    assert FAILURES[result.failure] is LeftOutForNow


@pytest.mark.parametrize(
    ("status", "reason"),
    [("is_upcoming", "has not begun yet"), ("post_live", "has just ended"), ("is_live", "no end")],
)
def test_streams_are_refused_by_their_status(status: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        refuse({"live_status": status})
    assert caught.value.kind == "not yet"
    for known in ("not_live", "was_live", None):
        refuse({"live_status": known})


@pytest.mark.slow
def test_stream_with_an_end_is_fetched(site: Site, make_video: Callable) -> None:
    make_video(site.server.folder / "0.ts", "-c", "copy", "-f", "mpegts")
    (site.server.folder / "ended.m3u8").write_bytes(playlist(end=True))
    found = site.fetch(entry=ListedVideo("flute", ID, f"{site.server.root}/ended.m3u8"))
    assert found.seconds == pytest.approx(2.5, abs=0.1)


def test_part_beyond_the_end_names_the_length(site: Site) -> None:
    with pytest.raises(
        LeftOut, match=r"^nothing between 30 and 40 s: the video is 2\.[45] s long$"
    ) as caught:
        site.fetch(entry=ListedVideo("flute", ID, clip=(30.0, 40.0)))
    assert not isinstance(caught.value, LeftOutForNow)
    assert site.files(site.videos) == site.files(site.partial) == []


def test_part_beyond_a_length_that_is_known_is_not_fetched() -> None:
    assert list(part_of((3.0, 5.0), {"duration": 61.2}, None)) == [
        {"start_time": 3.0, "end_time": 5.0}
    ]
    with pytest.raises(Refused, match=r"nothing between 90 and 95 s: the video is 61\.2 s long"):
        list(part_of((90.0, 95.0), {"duration": 61.2}, None))


def test_crash_is_reported_by_its_last_words(site: Site) -> None:
    # Without the check before the first video.
    with pytest.raises(LeftOutForNow, match=r"yt-dlp crashed \(best\+\+best\)") as caught:
        site.fetch(format="best++best")
    assert "\n" not in str(caught.value)
