import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sop.download import published_lists
from sop.download.published_lists import ListedVideo, parse_list, read_lists, select_videos
from sop.runtime.errors import UserError

MUSIC_INSTRUMENTS = (
    *("accordion", "acoustic_guitar", "cello", "clarinet", "erhu", "flute"),
    *("saxophone", "trumpet", "tuba", "violin", "xylophone"),
)
MUSIC21_INSTRUMENTS = (
    *("accordion", "acoustic_guitar", "bagpipe", "banjo", "bassoon", "cello", "clarinet"),
    *("congas", "drum", "electric_bass", "erhu", "flute", "guzheng", "piano", "pipa"),
    *("saxophone", "trumpet", "tuba", "ukulele", "violin", "xylophone"),
)
PUBLISHED = Path(__file__).parents[3] / "shared" / "music-lists"
needs_lists = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"{PUBLISHED} is absent")


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *args: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the address at which it is served, and what was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []
    handler = partial(type("Handler", (Quiet,), {"asked": asked}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/{{file}}", asked
        server.shutdown()


@needs_lists
def test_the_published_lists() -> None:
    entries = {
        name: parse_list((PUBLISHED / name).read_bytes(), name) for name in published_lists.SHA256
    }
    solos, duets, more = (entries[name] for name in published_lists.SHA256)
    assert (len(solos), len(duets), len(more)) == (536, 149, 1164)
    assert tuple(sorted({e.category for e in solos})) == MUSIC_INSTRUMENTS
    assert tuple(sorted({e.category for e in more})) == MUSIC21_INSTRUMENTS
    assert Counter(e.category for e in duets)["acoustic_guitar_violin"] == 43
    assert ListedVideo("flute_violin", "8DHG_hVSw1o", duet_of=("flute", "violin")) in duets
    assert all(len(e.duet_of) == 2 for e in duets)
    assert not any(e.duet_of for e in (*solos, *more))
    for name, digest in published_lists.SHA256.items():
        assert hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest() == digest


@needs_lists
@pytest.mark.parametrize(
    ("names", "solos", "instruments", "duets", "pairs"),
    [
        ([published_lists.MUSIC_SOLOS], 536, 11, 0, 0),
        ([published_lists.MUSIC_SOLOS, published_lists.MUSIC_DUETS], 536, 11, 149, 9),
        ([published_lists.MUSIC21_SOLOS], 1164, 21, 0, 0),
        ([published_lists.MUSIC21_SOLOS, published_lists.MUSIC_DUETS], 1164, 21, 149, 9),
    ],
)
def test_a_dataset_is_its_lists_one_after_the_other(
    names: list[str], solos: int, instruments: int, duets: int, pairs: int
) -> None:
    entries = read_lists(names, "http://127.0.0.1:9/{file}", PUBLISHED, 5.0)
    # No list names a video twice, nor do two of one dataset: nothing is dropped.
    assert len({e.id for e in entries}) == len(entries) == solos + duets
    of = {e.category: e.duet_of for e in entries}
    assert [len(of[e.category]) for e in entries] == solos * [0] + duets * [2]
    assert Counter(map(len, of.values())) == Counter({0: instruments, 2: pairs}) - Counter()


@needs_lists
def test_the_instruments_of_every_published_category() -> None:
    for name in published_lists.SHA256:
        text = (PUBLISHED / name).read_bytes()
        for category in json.loads(text)["videos"]:
            words = tuple(category.split(" "))
            found = {e.duet_of for e in parse_list(text, name) if e.category == "_".join(words)}
            assert found == {words if len(words) == 2 else ()}
            assert set(words) <= set(MUSIC21_INSTRUMENTS)


def test_what_is_listed_twice_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {"flute": ["aaaaaaaaaaa", "bbbbbbbbbbb", "aaaaaaaaaaa"], "tuba": ["aaaaaaaaaaa"]}
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps({"videos": twice}))
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        monkeypatch.setitem(published_lists.SHA256, name, digest)
    assert len(parse_list((tmp_path / "one.json").read_bytes(), "one.json")) == 4
    entries = read_lists(["one.json", "two.json"], "http://127.0.0.1:9/{file}", tmp_path, 5.0)
    assert [(e.category, e.id[0]) for e in entries] == [
        ("flute", "a"),
        ("flute", "b"),
        ("tuba", "a"),
    ]


@needs_lists
def test_a_list_is_fetched_once(tmp_path: Path, served: tuple[Path, str, list[str]]) -> None:
    folder, url, asked = served
    name = published_lists.MUSIC_DUETS
    (folder / name).write_bytes((PUBLISHED / name).read_bytes())
    first = read_lists([name], url, tmp_path / "lists", 5.0)
    assert len(first) == 149
    assert read_lists([name], url, tmp_path / "lists", 5.0) == first
    assert asked == [f"/{name}"]
    (tmp_path / "lists" / name).write_bytes(b"{}")
    assert read_lists([name], url, tmp_path / "lists", 5.0) == first
    assert len(asked) == 2


def test_another_list_than_the_published_is_refused(
    tmp_path: Path, served: tuple[Path, str, list[str]]
) -> None:
    folder, url, _ = served
    name = published_lists.MUSIC_SOLOS
    text = b'{"videos": {}}'
    (folder / name).write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_lists([name], url, tmp_path / "lists", 5.0)
    message = str(caught.value)
    assert url.replace("{file}", name) in message
    assert hashlib.sha256(text).hexdigest() in message
    assert published_lists.SHA256[name] in message
    assert not list((tmp_path / "lists").iterdir())


@pytest.mark.parametrize("url", ["{}/missing-{{file}}", "http://127.0.0.1:9/{{file}}"])
def test_list_that_cannot_be_fetched(
    url: str, tmp_path: Path, served: tuple[Path, str, list[str]]
) -> None:
    url = url.format(served[1].removesuffix("/{file}"))
    with pytest.raises(UserError, match=r"cannot be downloaded.*dataset\.lists\.published"):
        read_lists([published_lists.MUSIC_SOLOS], url, tmp_path, 5.0)


@pytest.mark.parametrize(
    "videos",
    [
        {"../flute": ["aaaaaaaaaaa"]},
        {"flute": ["../../../etc"]},
        {"flute": ["--exec"]},
        {"flute": ["aaaaaaaaaa/"]},
        {"flute": ["aaaaaaaaaaa\n"]},
        {"": ["aaaaaaaaaaa"]},
        {"-flute": ["aaaaaaaaaaa"]},
        {"flute": [12345678901]},
    ],
)
def test_names_that_could_leave_the_folder_are_refused(videos: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="not allowed"):
        parse_list(json.dumps({"videos": videos}).encode(), "list.json")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"videos": 3}', b"\xff", b'{"videos": {"a": 3}}'])
def test_invalid_published_list(text: bytes) -> None:
    with pytest.raises(UserError, match=r"list\.json: not a list"):
        parse_list(text, "list.json")


def test_ids_may_begin_with_a_dash() -> None:
    text = b'{"videos": {"trumpet tuba": ["--IXKwloYLE", "-_-TDDxoaAc"]}}'
    assert parse_list(text, "x") == [
        ListedVideo("trumpet_tuba", "--IXKwloYLE", duet_of=("trumpet", "tuba")),
        ListedVideo("trumpet_tuba", "-_-TDDxoaAc", duet_of=("trumpet", "tuba")),
    ]


LISTED = [
    ListedVideo(category, 11 * letter)
    for category, letter in zip(
        ("flute", "tuba", "flute", "flute_tuba", "flute", "tuba"), "abcdef", strict=True
    )
]


@pytest.mark.parametrize(
    ("categories", "max_per_category", "ids"),
    [
        ([], None, "abcdef"),
        ([], 1, "abd"),
        ([], 2, "abcdf"),
        ([], 9, "abcdef"),
        (["flute"], None, "ace"),
        (["tuba", "flute"], None, "abcef"),
        (["flute_tuba", "flute"], 1, "ad"),
        (["tuba", "tuba"], 1, "b"),
    ],
)
def test_select_videos(categories: list[str], max_per_category: int | None, ids: str) -> None:
    kept = select_videos(LISTED, categories, max_per_category)
    assert "".join(entry.id[0] for entry in kept) == ids
    assert set(kept) <= set(LISTED)


@pytest.mark.parametrize("category", ["violin", "flute tuba", "Flute", ""])
def test_a_category_that_is_not_listed_is_refused(category: str) -> None:
    with pytest.raises(UserError) as caught:
        select_videos(LISTED, ["flute", category], None)
    assert str(caught.value) == (
        f"dataset.lists.categories: {category!r} is not in the list, which has "
        "flute, tuba, flute_tuba"
    )


@needs_lists
def test_a_little_of_a_published_list_is_chosen() -> None:
    names = [published_lists.MUSIC_SOLOS, published_lists.MUSIC_DUETS]
    entries = read_lists(names, "http://127.0.0.1:9/{file}", PUBLISHED, 5.0)
    kept = select_videos(entries, ["flute_violin", "cello"], 2)
    assert [entry.category for entry in kept] == ["cello", "cello", "flute_violin", "flute_violin"]
    # The same ones every time, and more of them are those and more.
    assert select_videos(entries, ["flute_violin", "cello"], 3)[:2] == kept[:2]
    assert len(select_videos(entries, [], 2)) == 2 * (11 + 9)
