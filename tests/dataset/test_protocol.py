"""Lists of published protocols: their forms, names of videos, and what is wrong with them."""

from pathlib import Path

import pytest

from sop.dataset.protocol import Entry, Known, Source, SplitCheck, entry_of, read_list, read_pairs
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT

IDS = ("-Gdh8N_KpLY", "_oUTOskOwXs", "3-zT9mN8Lio", "kbTy_5o6AB4", "5_NsbkyLO2Q")
CATEGORIES = ("cello", "cello", "flute", "flute", "saxophone")
ENTRIES = [Entry(category, id_) for category, id_ in zip(CATEGORIES, IDS, strict=True)]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listed(text: str, name: str = "list.csv") -> list[Entry]:
    Path(name).write_text(text, encoding="utf-8")
    return read_list(Path(name), "")


def paired(text: str, entries: list[Entry] = ENTRIES) -> list[tuple[Source, ...]]:
    Path("pairs.csv").write_text(text, encoding="utf-8")
    return read_pairs(Path("pairs.csv"), "evaluate.pairs", entries)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-Gdh8N_KpLY", Entry(None, "-Gdh8N_KpLY")),
        ("/cello/-Gdh8N_KpLY.wav", Entry("cello", "-Gdh8N_KpLY")),
        ("./data/audio/acoustic_guitar/S2IWw6z-cfc.mp3", Entry("acoustic_guitar", "S2IWw6z-cfc")),
        ("acoustic guitar/S2IWw6z-cfc.mp4.wav", Entry("acoustic_guitar", "S2IWw6z-cfc")),
        (r"data\frames\Flute\-x.MP4", Entry("flute", "-x")),
        ("data/frames/take.2.jpg", Entry(None, "take.2")),
        ("https://www.youtube.com/watch?v=-Gdh8N_KpLY&t=3s", Entry(None, "-Gdh8N_KpLY")),
        ("https://youtu.be/-Gdh8N_KpLY", Entry(None, "-Gdh8N_KpLY")),
    ],
)
def test_names_of_videos(text: str, expected: Entry) -> None:
    assert entry_of(text) == expected


def test_forms_of_lists() -> None:
    rows = [f"/{c}/{i}.wav,/{c}/{i}.mp4,{n}" for n, (c, i) in enumerate(ENTRIES)]
    assert listed("\n".join(rows)) == ENTRIES
    assert listed("\ufeff" + "\r\n\r\n".join(rows) + "\r\n# end") == ENTRIES
    with_category = [f"{i}.wav,{i}.mp4,12,{c.title()}" for c, i in ENTRIES]
    assert listed("\n".join(with_category)) == ENTRIES
    quoted = listed('x.wav,x.mp4,12,"Male speech, man speaking"')
    assert quoted == [Entry("male_speech,_man_speaking", "x")]
    assert listed("\n".join(IDS), "ids.txt") == [Entry(None, id_) for id_ in IDS]
    assert listed("category,id\n" + "\n".join(f"{c},{i}" for c, i in ENTRIES)) == ENTRIES
    assert listed("video_id\tlabel\n" + "\n".join(f"{i}\t{c}" for c, i in ENTRIES)) == ENTRIES
    published = '{"version": "1", "videos": {"cello": ["-Gdh8N_KpLY"], "two words": ["a"]}}'
    assert listed(published, "list.json") == [ENTRIES[0], Entry("two_words", "a")]
    assert listed('["a", "b.mp4"]', "list.json") == [Entry(None, "a"), Entry(None, "b")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no videos"),
        ("a.wav,b.mp4", "line 1: 'a.wav,b.mp4': these are two videos"),
        ("a.wav,a.mp4,3\na.wav,a.mp4,x", "line 2: .*'?x'? is not a number of frames"),
        ("a.wav,a.mp4,3,b,5", "more than four columns"),
        ('a,"b', "line 1: not CSV"),
        ("id,category\nx", "line 2: 'x': fewer columns than the header"),
        ("/,/,3", "names no video"),
    ],
)
def test_lists_of_another_form(text: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"^list.csv.*{said}") as error:
        listed(text)
    assert "\n" not in str(error.value)


def test_files_that_are_no_lists() -> None:
    with pytest.raises(UserError, match=r"^index.split.train: none.csv not found"):
        read_list(Path("none.csv"), "index.split.train")
    for text in ('{"videos": 3}', '{"videos": {"a": [1]}}', "3", "[", "[" * 100_000):
        with pytest.raises(UserError, match=r"list.json: not a JSON list"):
            listed(text, "list.json")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.csv: is not readable as text in UTF-8"):
        read_list(Path("binary.csv"), "")


def test_forms_of_mixtures() -> None:
    expected = [(Source(ENTRIES[0]), Source(ENTRIES[2])), (Source(ENTRIES[3]), Source(ENTRIES[1]))]
    paths = "/cello/{0}.wav, /flute/{2}.wav\n/flute/{3}.wav, /cello/{1}.wav\n".format(*IDS)
    assert paired(paths) == expected
    assert paired("video1,video2\n" + paths) == expected
    assert paired(paths.replace(", ", "\t")) == expected
    assert paired("0,2\n3 1\n") == expected
    assert paired("id1 id2\n0 2\n3 1\n") == expected
    assert paired("1,3\n4,2\n5,1")[:2] == expected, "counted from 1"
    [triple] = paired("{0},{2},{4}".format(*IDS))
    assert [source.entry.id for source in triple] == [IDS[0], IDS[2], IDS[4]]


def test_numbers_that_are_names() -> None:
    names = [Entry("flute", "001"), Entry("tuba", "002")]
    assert [source.entry.id for source in paired("001,002", names)[0]] == ["001", "002"]


def test_times_of_clips() -> None:
    [row] = paired(f"{IDS[0]}.mp4,1.5,6.5,{IDS[2]}.mp4,0,5")
    assert row == (Source(Entry(None, IDS[0]), 1.5, 6.5), Source(Entry(None, IDS[2]), 0.0, 5.0))
    [row] = paired(f"{IDS[0]},30,{IDS[2]}")
    assert [source[1:] for source in row] == [(30.0, None), (None, None)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n", "lists no mixtures"),
        ("a", "line 1: only one video"),
        ("a,b\nc,5,3,d", "line 2: the times of 'c' are invalid"),
        ("a,1,2,3,b", "line 1: the times of 'a' are invalid"),
        ("0,1\n1,17", "line 2: index 17 exceeds the list of 5 videos"),
        ("0,1\n3", "line 2: only one index"),
    ],
)
def test_mixtures_of_another_form(text: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"^pairs.csv.*{said}"):
        paired(text)


def test_a_video_is_found_by_all_its_names() -> None:
    known = Known([*ENTRIES, Entry("flute", "001"), Entry("tuba", "001"), Entry("tuba", "002")])
    assert known.find(Entry(None, IDS[0])) == [0]
    assert known.find(Entry("another_list's_name", IDS[0])) == [0]
    assert known.find(Entry("cello", f"{IDS[0]}_10-20")) == [0], "a part of it"
    assert known.find(Entry("tuba", "001")) == [6]
    assert known.find(Entry("flute", "002")) == [], "another video of that name"
    assert known.find(Entry("my_folder", "002")) == [7]
    assert known.find(Entry(None, "003")) == []
    with pytest.raises(UserError, match="'001' may be flute/001, tuba/001; write <category>/<id>"):
        known.find(Entry(None, "001"))
    parts = Known([Entry("cello", f"{IDS[0]}_0-5"), Entry("cello", f"{IDS[0]}_000030")])
    assert parts.find(ENTRIES[0]) == [0, 1]
    assert parts.find(Entry("cello", f"{IDS[0]}_000030")) == [1]


def test_another_part_of_a_video_is_not_the_listed_one() -> None:
    parts = Known([Entry("cello", f"{IDS[0]}_0-5"), Entry("cello", f"{IDS[0]}_30-40")])
    assert parts.find(Entry("cello", f"{IDS[0]}_5-10")) == []
    assert parts.find(Entry("cello", f"{IDS[0]}_30-35")) == []
    assert parts.find(Entry(None, f"{IDS[0]}_000030")) == [1], "as VGGSound names it"
    assert parts.has_recording(Entry("cello", f"{IDS[0]}_5-10"))


@pytest.mark.parametrize("name", ["violin_0001", "violin_0004", "performance", "recording_4"])
def test_own_names_of_eleven_characters_belong_to_their_category(name: str) -> None:
    own, other = Entry("flute", name), Entry("tuba", name)
    assert not own.is_youtube
    assert Entry("flute", f"{name}_2").recording == f"{name}_2", "no part of another video"
    train = Known([other, Entry("flute", "a")])
    assert train.find(own) == []
    rows = ((Source(own), Source(other)),)
    check = SplitCheck(train, Known([own, other._replace(id="b")]), rows)
    assert check.leaked == []
    assert check.with_itself == []
    assert SplitCheck(train, Known([own, other])).repeated_videos == 0


def test_ids_of_music_are_ids_of_youtube() -> None:
    """All end with one of 16 characters; 99 % have letters of both cases."""
    path = ROOT.parent / "shared" / "music-lists" / "MUSIC_solo_videos.json"
    if not path.is_file():
        pytest.skip(f"no list {path}")
    entries = read_list(path, "")
    assert sum(entry.is_youtube for entry in entries) > 0.99 * len(entries)
    assert all(entry.is_youtube for entry in ENTRIES)


def test_another_part_of_a_video_is_a_leak() -> None:
    train, test = Known([Entry("cello", f"{IDS[0]}_0-5")]), Known([Entry("cello", f"{IDS[0]}_8-9")])
    assert SplitCheck(train, test).counts()["test_videos_in_training"] == 1


def test_order_and_names_hide_no_repeated_mixture() -> None:
    rows = paired("{0},{2}\ncello/{0}.mp4,{2}\n{2},{0}\n{0},{2},1,3\n{1},{1}\n{1},x".format(*IDS))
    check = SplitCheck(Known([]), Known(ENTRIES), tuple(rows))
    assert check.repeated == [1]
    assert check.swapped == [2]
    assert check.with_itself == [4]
    assert check.outside == [5]
    counts = check.counts()
    assert counts["mixtures"] == 6
    assert counts["distinct_mixtures"] == 4
    assert check.is_sound


def test_missing_categories() -> None:
    check = SplitCheck(Known([*ENTRIES[:2], Entry("tuba", "1")]), Known(ENTRIES[1:4]))
    assert check.missing_in_test == ["tuba"]
    assert check.missing_in_training == ["flute"]
    assert check.problems() == [
        "1 of 3 test videos stands in the training list: cello/_oUTOskOwXs",
        "1 category of training is missing in test: tuba",
        "1 category of test is missing in training: flute",
    ]


@pytest.mark.parametrize("n", [1, 2])
def test_sentences_agree_with_the_number_that_they_count(n: int) -> None:
    a, b, c, d, e = map(Source, ENTRIES)
    unlisted = Source(Entry("flute", "other"))
    pairs = [(d, e), (c, e), *[(d, e)] * n, *[(e, d), (e, c)][:n], *[(c, c), (d, d)][:n]]
    pairs += [*[(d, unlisted), (e, unlisted)][:n], *[(a, d), (b, d)][:n]]
    others = [Entry(name, "x") for name in ("piano", "tuba")[:n]]
    others += [Entry("saxophone", "y")] * (n == 1)
    train, test = Known([*ENTRIES[:n], *others]), Known([*ENTRIES, *ENTRIES[3 : 3 + n]])
    names = ", ".join(entry.name for entry in ENTRIES[:n])
    total = len(pairs)
    assert SplitCheck(train, test, tuple(pairs), Known(ENTRIES[:n])).problems() == (
        [
            f"1 of 6 test videos stands in the training list: {names}",
            f"1 of 6 test videos stands in the validation list: {names}",
            "1 row of the test list names the video of an earlier row",
            f"1 of {total} mixtures has a video of the training list",
            f"1 of {total} mixtures repeats an earlier one",
            f"1 of {total} mixtures repeats an earlier one with the videos in another order",
            f"1 of {total} mixtures has one video twice",
            f"1 of {total} mixtures has a video that is not in the test list",
            "1 category of training is missing in test: piano",
            "1 category of test is missing in training: flute",
        ]
        if n == 1
        else [
            f"2 of 7 test videos stand in the training list: {names}",
            f"2 of 7 test videos stand in the validation list: {names}",
            "2 rows of the test list name the video of an earlier row",
            f"2 of {total} mixtures have a video of the training list",
            f"2 of {total} mixtures repeat an earlier one",
            f"2 of {total} mixtures repeat an earlier one with the videos in another order",
            f"2 of {total} mixtures have one video twice",
            f"2 of {total} mixtures have a video that is not in the test list",
            "2 categories of training are missing in test: piano, tuba",
            "2 categories of test are missing in training: flute, saxophone",
        ]
    )
