import csv
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sop.download.own_list import read_own_list
from sop.download.published_lists import YOUTUBE_ID, ListedVideo
from sop.runtime.errors import UserError
from sop.runtime.plain_yaml import yaml_text
from tests.support.stress import repeats

VIDEO_URL = "https://www.youtube.com/watch?v={id}"
A, B = "8DHG_hVSw1o", "--IXKwloYLE"
PAGE = "https://archive.org/download/x/Solo%20No.%201.mp4"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a list: text or bytes as they are, anything else as JSON."""

    def write_list(content: Any, name: str = "list.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    return write_list


def youtube(id_: str) -> str:
    return VIDEO_URL.replace("{id}", id_)


def complaint(path: Path) -> str:
    """What is said about a list, after the file's name."""
    with pytest.raises(UserError) as caught:
        read_own_list(path, VIDEO_URL)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_a_list_by_id(write: Write) -> None:
    path = write(f"category,id\nflute,{A}\ntuba,{B}\nflute,{B}\n")
    assert read_own_list(path, VIDEO_URL) == [
        ListedVideo("flute", A, youtube(A)),
        ListedVideo("tuba", B, youtube(B)),
        ListedVideo("flute", B, youtube(B)),
    ]
    (entry, *_) = read_own_list(path, "http://127.0.0.1:8000/{id}.mp4")
    assert entry.url == f"http://127.0.0.1:8000/{A}.mp4"


@pytest.mark.parametrize("columns", ["category,id,url", "url,id,category", "id,category,url"])
def test_the_columns_stand_in_any_order(write: Write, columns: str) -> None:
    values = {"category": "flute", "id": "my_own-1", "url": PAGE}
    row = ",".join(values[name] for name in columns.split(","))
    assert read_own_list(write(f"{columns}\n{row}\n"), VIDEO_URL) == [
        ListedVideo("flute", "my_own-1", PAGE)
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffcategory,id\nflute,{A}\n",
        f"category,id\r\nflute,{A}\r\n",
        f"category,id\nflute,{A}",
        f"category, id\n flute , {A} \n",
        f"category ,\tid\nflute\t,\t{A}\n",
        f"category,id\n\n\nflute,{A}\n\n,\n  ,\n   \n",
        f'"category","id"\n"flute","{A}"\n',
        f'category,id,url\nflute,{A},""\n',
        f"category,id,url,begin,end\nflute,{A}\n",
        f"category,id,url,begin,end\nflute,{A},,,\n",
    ],
    ids=[
        *("BOM", "CRLF", "no newline at the end", "spaces", "tabs", "blank lines", "quotes"),
        *("empty in quotes", "too few values", "empty values"),
    ],
)
def test_a_list_may_be_written_like_this(write: Write, text: str) -> None:
    assert read_own_list(write(text), VIDEO_URL) == [ListedVideo("flute", A, youtube(A))]


def test_json_says_the_same_as_csv(write: Write) -> None:
    rows = [
        {"category": "flute", "id": A},
        {"category": "tuba", "url": PAGE, "id": "b", "begin": 1.5, "end": 4},
        {"category": "tuba", "url": PAGE, "begin": "0", "end": "7"},
        {"category": "erhu", "id": B, "url": None, "begin": None, "end": None},
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, ["category", "id", "url", "begin", "end"])
    table.writeheader()
    table.writerows(rows)
    entries = read_own_list(write(text.getvalue()), VIDEO_URL)
    assert read_own_list(write(rows, "list.json"), VIDEO_URL) == entries
    assert read_own_list(write(f"\ufeff{json.dumps(rows)}", "LIST.JSON"), VIDEO_URL) == entries
    assert [entry.clip for entry in entries] == [None, (1.5, 4.0), (0.0, 7.0), None]
    assert entries[1].id == "b_1.5-4"


def test_json_of_the_published_form(write: Write) -> None:
    videos = {"flute violin": [A, B], "tuba": [A, A]}
    path = write({"version": 1, "videos": videos}, "list.json")
    assert read_own_list(path, VIDEO_URL) == [
        ListedVideo("flute_violin", A, youtube(A)),
        ListedVideo("flute_violin", B, youtube(B)),
        ListedVideo("tuba", A, youtube(A)),
    ]


def test_solos_lists_frames_of_several_parts(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = {"DoubleBass": {A: [[18, 750], [760, 2028]], B: [[0, 6050]]}, "Trumpet": {A: []}}
    path = write(videos, "solos_timestamps.json")
    assert read_own_list(path, VIDEO_URL) == [
        ListedVideo("DoubleBass", f"{A}_0.72-30", youtube(A), (0.72, 30.0)),
        ListedVideo("DoubleBass", f"{A}_30.4-81.12", youtube(A), (30.4, 81.12)),
        ListedVideo("DoubleBass", f"{B}_0-242", youtube(B), (0.0, 242.0)),
    ]
    assert f"{path}: left out 1 video without a part" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[5, 5]], f", video {A}: begin 0.2 and end 0.2 are not allowed"),
        ([[9, 5]], f", video {A}: begin 0.36 and end 0.2 are not allowed"),
        ([[-1, 5]], f", video {A}: begin -0.04 and end 0.2 are not allowed"),
        ([[1, 2, 3]], f", video {A}: [[1, 2, 3]] is not [[begin, end], ...] in frames"),
        ([["x", 2]], f", video {A}: [['x', 2]] is not"),
        ([[0, float("inf")]], f", video {A}: [[0, .inf]] is not"),
        (3, f", video {A}: 3 is not"),
        (None, f", video {A}: null is not"),
    ],
    ids=repr,
)
def test_invalid_parts_of_solos(write: Write, parts: Any, said: str) -> None:
    message = complaint(write({"Tuba": {B: [[0, 9]], A: parts}}, "list.json"))
    assert message.startswith(said)


VGGSOUND = f"""{A},1,people marching,test
{B},30,"heart sounds, heartbeat",train
{A},41,people marching,test
{B},30,"heart sounds, heartbeat",train
-Tok_g_jgE0,268,police car (siren),train
"""


def test_vggsound_has_a_split_and_no_header(write: Write) -> None:
    videos = [
        ("people_marching", f"{A}_1-11", "test"),
        ("heart_sounds_heartbeat", f"{B}_30-40", "train"),
        ("people_marching", f"{A}_41-51", "test"),
        ("police_car_siren", "-Tok_g_jgE0_268-278", "train"),
    ]
    for text in (VGGSOUND, VGGSOUND.replace("\n", "\r\n"), "\n\n" + VGGSOUND):
        entries = read_own_list(write(text, "vggsound.csv"), VIDEO_URL)
        assert [(video.category, video.id, video.split) for video in entries] == videos
    assert entries[0].clip == (1.0, 11.0)
    assert entries[0].url == youtube(A)
    assert {video.of for video in entries} == {A, B, "-Tok_g_jgE0"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f"{A},x,hail,test", ", line 2: '8DHG_hVSw1o,x,hail,test' is not id,begin,category,split"),
        (f"{A},1,hail", ", line 2: '8DHG_hVSw1o,1,hail' is not id,begin,category,split"),
        (f"{A},-1,hail,test", ", line 2: '8DHG_hVSw1o,-1,hail,test' is not"),
        (f"{A},1,hail,dev", ", line 2: split 'dev' is not allowed; a split is train"),
        (f"{A},1,(),test", ", line 2: category '' is not allowed"),
        ("../../../ab,1,hail,test", ", line 2: id '../../../ab' is not allowed"),
        (f"{A},1,people-marching?,test\n{A},1,people-marching,test", ", line 3: 'people-marching'"),
        (f'{A},1,"hail,test', ", line 2: not CSV ("),
    ],
    ids=repr,
)
def test_invalid_rows_of_vggsound(write: Write, row: str, said: str) -> None:
    message = complaint(write(f"{B},30,waterfall burbling,train\n{row}\n"))
    assert message.startswith(said)


AVE = f"""Church bell&{A}&good&0&10
Male speech, man speaking&{A}&good&3&9
Church bell&{B}&good&0&0
Church bell&{A}&good&2&4
"""


@pytest.mark.parametrize("header", ["", "Category&VideoID&Quality&StartTime&EndTime\n"])
def test_ave_lists_parts_of_its_own_clips(
    write: Write, header: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(header + AVE, "Annotations.txt")
    videos = read_own_list(path, VIDEO_URL, of_files=True)
    assert [(video.category, video.id, video.clip) for video in videos] == [
        ("Church_bell", f"{A}_0-10", (0.0, 10.0)),
        ("Male_speech_man_speaking", f"{A}_3-9", (3.0, 9.0)),
        ("Church_bell", f"{A}_2-4", (2.0, 4.0)),
    ]
    assert {video.of for video in videos} == {A}
    assert f"{path}: left out 1 part without a length" in capsys.readouterr().out
    assert "set dataset.source local" in complaint(path)


def test_invalid_rows_of_ave(write: Write) -> None:
    for row in ("Bark&short&good&0&1", "Bark", f"Bark&{A}&good&0&x", f"Bark&{A}&good&0"):
        path = write(f"{AVE}{row}\n", "Annotations.txt")
        with pytest.raises(UserError, match=r"line 5: .* is not category&id&quality&begin&end"):
            read_own_list(path, VIDEO_URL, of_files=True)
    path = write(f"{AVE}Bark&{A}&good&9&1\n", "Annotations.txt")
    with pytest.raises(UserError, match=r"line 5: begin '9' and end '1' are not allowed"):
        read_own_list(path, VIDEO_URL, of_files=True)


def test_a_column_names_the_split(write: Write) -> None:
    path = write(f"category,id,split\nflute,{A},Train\ntuba,{A},val\nflute,{B},\n")
    assert [video.split for video in read_own_list(path, VIDEO_URL)] == ["train", "validation", ""]
    path = write(f"category,id,split\nflute,{A},training\n")
    assert complaint(path).startswith(", line 2: split 'training' is not allowed; a split is train")


def test_a_space_becomes_an_underscore_and_makes_no_duet(write: Write) -> None:
    path = write(f"category,id\nacoustic_guitar violin,{A}\nacoustic_guitar_violin,{A}\n")
    (entry,) = read_own_list(path, VIDEO_URL)
    assert entry.category == "acoustic_guitar_violin"
    assert entry.duet_of == ()


@pytest.mark.parametrize(
    ("begin", "end", "clip", "name"),
    [
        ("", "", None, A),
        ("5", "15", (5.0, 15.0), f"{A}_5-15"),
        ("0.25", "1e2", (0.25, 100.0), f"{A}_0.25-100"),
        ("", "6", (0.0, 6.0), f"{A}_0-6"),
        ("1234567.5", "1234568", (1234567.5, 1234568.0), f"{A}_1234567.5-1234568"),
    ],
)
def test_a_part_of_a_video(
    write: Write, begin: str, end: str, clip: tuple[float, float] | None, name: str
) -> None:
    path = write(f"category,id,begin,end\nflute,{A},{begin},{end}\n")
    assert read_own_list(path, VIDEO_URL) == [ListedVideo("flute", name, youtube(A), clip)]


def test_parts_of_one_video_are_told_apart(write: Write) -> None:
    parts = ["0,10", "10,20", "3600.125,3601", "3600.25,3601"]
    rows = "".join(f"flute,{A},{part}\n" for part in parts)
    entries = read_own_list(write(f"category,id,begin,end\nflute,{A},,\n{rows}"), VIDEO_URL)
    assert len({entry.id for entry in entries}) == 5
    assert {entry.url for entry in entries} == {youtube(A)}


@pytest.mark.parametrize("id_", [A, "-_-TDDxoaAc", B, "___________"])
@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/watch?v={}",
        "http://youtube.com/watch?v={}",
        "https://m.youtube.com/watch?app=desktop&v={}&t=90s&list=PL123",
        "https://music.youtube.com/watch?v={}#now",
        "https://WWW.YouTube.com/watch?v={}",
        "https://youtu.be/{}",
        "https://youtu.be/{}?si=AbCdEfGhIjKlMnOp&t=3",
        "https://www.youtube.com/shorts/{}",
        "https://www.youtube.com/shorts/{}/?feature=share",
        "https://www.youtube.com/embed/{}?start=5",
        "https://www.youtube.com/live/{}",
    ],
)
def test_an_address_at_youtube_is_named_by_its_id(write: Write, url: str, id_: str) -> None:
    url = url.format(id_)
    assert read_own_list(write(f"category,url\nflute,{url}\n"), VIDEO_URL) == [
        ListedVideo("flute", id_, url)
    ]


@pytest.mark.parametrize(
    ("url", "begins_with"),
    [
        (PAGE, "Solo_No_1_"),
        ("http://127.0.0.1:8000/a.mp4?x=1", "a_"),
        ("https://vimeo.com/22439234", "22439234_"),
        ("https://host", "video_"),
        ("https://host/", "video_"),
        ("https://host/-rf.mp4", "rf_"),
        ("https://host/--exec", "exec_"),
        ("https://host/.hidden", "hidden_"),
        ("https://host/../../etc/passwd", "passwd_"),
        ("https://host/..%2f..%2fetc%00%0a.mp4", "etc_"),
        ("https://host/%E4%BA%8C%E8%83%A1.mp4", "video_"),
        ("https://host/二胡.mp4", "video_"),
        ("https://host/" + 300 * "x" + ".mp4", 40 * "x" + "_"),
        ("https://www.youtube.com/playlist?list=PL123", "playlist_"),
        ("https://www.youtube.com/watch?v=", "watch_"),
        ("https://www.youtube.com/watch?v=../../../et", "watch_"),
        ("https://youtu.be/", "video_"),
        ("https://youtu.be.example.org/8DHG_hVSw1o", "8DHG_hVSw1o_"),
    ],
)
def test_names_of_other_addresses(write: Write, url: str, begins_with: str) -> None:
    path = write(f"category,url\nflute,{url}\nflute,{url}#other\n")
    entry, other = read_own_list(path, VIDEO_URL)
    assert (entry.url, other.url) == (url, f"{url}#other")
    assert entry.id.startswith(begins_with)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,48}", entry.id)
    assert other.id != entry.id
    assert read_own_list(path, VIDEO_URL) == [entry, other]


def test_the_name_of_an_address_stays_as_it_is(write: Write) -> None:
    # Another name would fetch anew what users have already.
    (entry,) = read_own_list(write(f"category,url\nflute,{PAGE}\n"), VIDEO_URL)
    assert entry.id == "Solo_No_1_b3753408"


@pytest.mark.parametrize("id_", ["a", "_a", "7", A, B, "x" * 100, "fl-ute_2"])
def test_an_id_beside_an_address_is_the_name(write: Write, id_: str) -> None:
    path = write(f"category,id,url\nflute,{id_},{PAGE}\n")
    assert read_own_list(path, VIDEO_URL) == [ListedVideo("flute", id_, PAGE)]


def test_what_is_listed_twice_is_kept_once(write: Write) -> None:
    row, clip, page = f"flute,{A},,,", f"flute,{A},,0,5", f"flute,,{PAGE},,"
    again = f"flute,{A},,,5.0"
    rows = "\n".join([row, clip, page, row, again, page])
    entries = read_own_list(write(f"category,id,url,begin,end\n{rows}\n"), VIDEO_URL)
    assert [(entry.url, entry.clip) for entry in entries] == [
        (youtube(A), None),
        (youtube(A), (0.0, 5.0)),
        (PAGE, None),
    ]


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (f"flute,,https://youtu.be/{A},,", f"flute,{A},,,", f"flute/{A}"),
        (f"flute,x,{PAGE},,", f"flute,x,{PAGE}?other,,", "flute/x"),
        (f"flute,x_0-5,{PAGE},,", f"flute,x,{PAGE},0,5", "flute/x_0-5"),
        (f"flute tuba,x,{PAGE},,", f"flute_tuba,x,{PAGE}?,,", "flute_tuba/x"),
    ],
)
def test_two_videos_with_the_same_name(write: Write, first: str, second: str, name: str) -> None:
    message = complaint(write(f"category,id,url,begin,end\n{first}\ntuba,{A}\n\n{second}\n"))
    assert message.startswith(f", line 5: {name} is another video in line 2;")


BAD_NAMES = [
    *("../x", "..", ".", "/etc", "--help", "-rf", "a/b", "a\\b", ".hidden", "a.b", "x;y"),
    *("\0", "a\0b", "a\nb", "a\rb", "a\u2028b", "a\x1b[31m", "a\u202eb", "$(id)", "a&b", "%2e"),
    *("x" * 101, "x" * 300, "二胡", "flûte", "٣", "a\u00adb", "\U0001d51e"),
]


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("name", [*BAD_NAMES, "", "_a"], ids=ascii)
def test_categories_that_could_leave_the_folder_are_refused(
    write: Write, name: str, form: str
) -> None:
    if form == "csv":
        message = complaint(write(f'category,id\nflute,{A}\n"{name}",{A}\n'))
        assert re.match(r", line [345]: category '.*is not allowed; a category is letters", message)
    else:
        rows = [{"category": "flute", "id": A}, {"category": name, "id": A}]
        message = complaint(write(rows, "list.json"))
        assert re.match(r", video 2: category '.*is not allowed; a category is letters", message)
        published = {"videos": {"flute": [A], name: [A]}}
        assert complaint(write(published, "list.json")) == message
    assert len(message) < 250


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("id_", [*BAD_NAMES, "-"], ids=ascii)
@pytest.mark.parametrize("url", ["", PAGE], ids=["alone", "with a url"])
def test_ids_that_could_leave_the_folder_are_refused(
    write: Write, id_: str, url: str, form: str
) -> None:
    if form == "csv":
        message = complaint(write(f'url,category,id\n{url},flute,"{id_}"\n'))
        assert re.match(r", line [234]: id '.*is not allowed", message)
    else:
        message = complaint(write([{"url": url, "category": "flute", "id": id_}], "list.json"))
        assert re.match(r", video 1: id '.*is not allowed", message)
    assert ("with a url" if url else "without a url") in message
    assert len(message) < 250


@pytest.mark.parametrize("id_", ["", "short", "8DHG_hVSw1", "8DHG_hVSw1oo", "8DHG hVSw1o"])
def test_without_an_address_an_id_is_youtubes(write: Write, id_: str) -> None:
    message = complaint(write(f"category,id\nflute,{id_}\n"))
    assert message.startswith(f", line 2: id '{id_}' is not allowed; without a url it is a YouTube")


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://host/a.mp4", "javascript:alert(1)", "data:video/mp4,x"),
        *("http://", "https://", "http:///a.mp4", "http://?v=1", "http://#x", "http:/host/a.mp4"),
        *("http://:80/a.mp4", "http://user@/a.mp4", "http://[::1/a.mp4", "http://a]b/"),
        *("http://host\u2100/", "/etc/passwd", "-rf", "--exec=x", "ytsearch:flute", "host/a.mp4"),
        *("http://host/a b.mp4", "http://ho st/", "http://host/a\nb", "http://host/a\tb"),
        *(
            "http://host/a\0b",
            "http://host/a\x1b[31m",
            "http://host/\u202e",
            "http://host/a\u3000b",
        ),
        "x http://host/a.mp4",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("id_", ["", "named"], ids=["alone", "beside an id"])
def test_what_is_no_web_address_is_refused(write: Write, url: str, id_: str) -> None:
    message = complaint(write(f'category,id,url\nflute,{id_},"{url}"\n'))
    assert re.match(r", line [23]: url '.*is not allowed; a url begins with http", message)
    rows = [{"category": "flute", "id": id_, "url": url}]
    assert complaint(write(rows, "list.json")).startswith(", video 1: url '")


def test_half_of_a_character_is_refused(write: Write) -> None:
    # JSON can say it, and nothing could be written with it.
    for key in ("category", "id", "url"):
        row = {"category": "flute", "id": A, "url": PAGE} | {key: f"{PAGE}\ud800"}
        assert complaint(write([row], "list.json")).startswith(f", video 1: {key} '")


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        *(("5", "5"), ("6", "5"), ("0", "0"), ("5", ""), ("0", ""), ("-1", "5"), ("-5", "-1")),
        *(("nan", "5"), ("0", "nan"), ("nan", "nan"), ("0", "inf"), ("-inf", "5"), ("inf", "inf")),
        *(("one", "5"), ("0", "0:30"), ("0", "1e999"), ("0", "5s"), ("1;2", "3"), ("", "x")),
    ],
)
def test_times_that_are_no_part_of_a_video_are_refused(write: Write, begin: str, end: str) -> None:
    message = complaint(write(f"category,id,begin,end\nflute,{A},{begin},{end}\n"))
    assert message.startswith(f", line 2: begin '{begin}' and end '{end}' are not allowed")
    assert message.endswith("both are seconds, with begin before end")


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        *((0, 0), (5, None), (-1, 5), (True, 5), (0, True), (False, 5), ([], 5), (0, [5])),
        *(({}, 5), (0, {"a": 1}), (0, 10**400), (10**400, 10**401), (0, float("inf"))),
        *((float("nan"), 5), (0, float("nan"))),
    ],
    ids=lambda value: str(value)[:12],
)
def test_times_of_json_that_are_no_part_of_a_video_are_refused(
    write: Write, begin: Any, end: Any
) -> None:
    rows = [{"category": "flute", "id": A, "begin": begin, "end": end}]
    message = complaint(write(rows, "list.json"))
    assert re.match(r", video 1: begin .* and end .* are not allowed; both are seconds", message)
    assert len(message) < 300


@pytest.mark.parametrize("value", [3, 0, 1.5, True, False, [], ["flute"], {}, {"a": 1}])
@pytest.mark.parametrize("key", ["category", "id", "url"])
def test_values_must_be_strings(write: Write, key: str, value: Any) -> None:
    rows = [{"category": "flute", "id": A, "url": PAGE} | {key: value}]
    message = complaint(write(rows, "list.json"))
    assert message == f", video 1: {key} {yaml_text(value)} is not allowed; it must be a string"


def test_null_is_no_value(write: Write) -> None:
    path = write([{"category": None, "id": A}], "list.json")
    assert complaint(path).startswith(", video 1: category ''")
    path = write([{"category": "flute", "id": None, "url": None}], "list.json")
    assert complaint(path).startswith(", video 1: id ''")


@pytest.mark.parametrize(
    "header",
    [
        *("", "\n", f"flute,{A}", "category", "id,url", "category,begin,end", "category;id"),
        *("category,id,title", "Category,id", "category,id,", "category,id,id", "category\tid"),
        *("[]", '{"videos": {}}', "category,id," + 5000 * "x"),
    ],
    ids=lambda header: repr(header[:20]),
)
def test_invalid_csv_header(write: Write, header: str) -> None:
    message = complaint(write(f"{header}\nflute,{A}\n"))
    assert message.startswith(", line 1: header '")
    assert message.endswith(
        "is invalid; columns are category,id or category,url, and optionally begin,end,split"
    )
    assert len(message) < 250


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"category,id\nflute,{A},http://host/\n", ", line 2: more values than"),
        (f"category,id\nflute,{A},\n", ", line 2: more values than columns"),
        (f'category,id\nflute,{A}\nflute,"{A}\n', ", line 3: not CSV ("),
        (f'category,id\n\n\nflute,"{A}"x\n', ", line 4: not CSV ("),
        ('"category,id\nflute\n', ", line 2: not CSV ("),
        ('"category"x,id\nflute\n', ", line 1: not CSV ("),
        ("category,id\nflute," + 200_000 * "x", ", line 2: not CSV ("),
        ("x" * 200_000, ", line 1: not CSV ("),
        (f"category,id\n\n\nflute,{A}\n\n../x,{A}\n", ", line 6: category '../x'"),
        ("category,id\n", ": lists no videos; add rows"),
        ("category,id\n\n,\n", ": lists no videos; add rows"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_invalid_csv(write: Write, text: str, said: str) -> None:
    assert complaint(write(text)).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": not JSON ("),
        ("[{]", ": not JSON ("),
        ("[" * 100_000, ": not JSON (maximum recursion"),
        ('{"a":' * 100_000, ": not JSON (maximum recursion"),
        ("9" * 5000, ": "),
        (f"category,id\nflute,{A}\n", ": not JSON ("),
        (3, ": expected a list of objects with category and id or url, or {"),
        (None, ": expected a list"),
        ("null", ": expected a list"),
        ('"videos"', ": expected a list"),
        ([[]], ": expected a list"),
        ([{"category": "flute", "id": A}, "x"], ": expected a list"),
        ({}, ": expected a list"),
        ({"flute": [A]}, ": expected a list"),
        ({"videos": [A]}, ": expected a list"),
        ({"videos": {"flute": 3}}, ": expected a list"),
        ({"videos": {"flute": None}}, ": expected a list"),
        ({"videos": None}, ": expected a list"),
        ({"videos": {"flute": A}}, ", video 1: id '8' is not allowed"),
        ({"videos": {"flute": [A, None]}}, ", video 2: id '' is not allowed"),
        ({"videos": {"flute": [A, [A]]}}, ", video 2: id ['8DHG_hVSw1o'] is not allowed"),
        ({"videos": {"flute": [12345678901]}}, ", video 1: id 12345678901 is not allowed"),
        ([{"category": "flute", "id": A, "title": "x"}], ", video 1: unknown key 'title'; keys"),
        ([{"category": "flute", "id": A}, {"": A}], ", video 2: unknown key ''; keys are"),
        ([{}], ", video 1: category '' is not allowed"),
        ([{"category": "flute"}], ", video 1: id '' is not allowed"),
        ([], ": lists no videos; add rows"),
        ({"videos": {}}, ": lists no videos; add rows"),
        ({"videos": {"flute": []}}, ": lists no videos; add rows"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_json(write: Write, content: Any, said: str) -> None:
    assert complaint(write(content, "list.json")).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"videos": {{"flute": ["{A}"], "tuba": [], "flute": ["{B}"]}}}}',
        f'[{{"category": "tuba", "id": "{A}", "flute": 1, "flute": 2}}]',
    ],
)
def test_key_that_occurs_twice_loses_no_video(write: Write, text: str) -> None:
    message = complaint(write(text, "list.json"))
    assert message == ": the key 'flute' occurs twice; join its values"


@pytest.mark.parametrize("name", ["list.csv", "list.json"])
def test_a_file_that_is_no_text_says_so(write: Write, name: str, tmp_path: Path) -> None:
    assert complaint(write(b"category,id\nflute,\xff\xfe\n", name)).startswith(": not readable (")
    utf_16 = f"category,id\nflute,{A}\n".encode("utf-16")
    assert complaint(write(utf_16, name)).startswith(": not readable (")
    (tmp_path / f"folder-{name}").mkdir()
    assert complaint(tmp_path / f"folder-{name}").startswith(": not readable (")


def test_missing_list(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(UserError, match=r"dataset\.lists\.own: .*list\.csv not found; create it"):
        read_own_list(path, VIDEO_URL)
    with pytest.raises(UserError, match="not readable"):
        read_own_list(tmp_path / "li\0st.csv", VIDEO_URL)


PIECES = [
    *("category", "id", "url", "begin", "end", "videos", "flute", "flute violin", A, B, PAGE),
    *(*BAD_NAMES, "file:///etc/passwd", "http://", f"https://youtu.be/{B}", "https://[", ""),
    *(",", '"', "'", "\n", "\r", "\r\n", "\0", " ", "\t", "[", "]", "{", "}", ":", "null", "1e999"),
    *("-1", "nan", "5", "\ufeff", "\\ud800", "\\u0000", "\\", "..", "/", "-", "true", "[[", "\x85"),
]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_random_lists(write: Write, ending: str, tmp_path: Path) -> None:
    random_ = random.Random(7)
    rows = [
        {"category": "flute", "id": A, "url": "", "begin": "", "end": ""},
        {"category": "flute tuba", "id": "", "url": PAGE, "begin": "1", "end": "2.5"},
        {"category": "tuba", "id": "x", "url": PAGE, "begin": "", "end": "7"},
        {"category": "erhu", "id": B, "url": "", "begin": "", "end": ""},
    ]
    table = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    published = json.dumps({"videos": {"flute": [A, B], "flute tuba": [A]}})
    solos = json.dumps({"Tuba": {A: [[18, 750], [760, 2028]], B: []}, "DoubleBass": {A: [[1, 2]]}})
    read, count = 0, repeats(300, 2000)
    for _ in range(count):
        texts = [table, VGGSOUND] if ending == "csv" else [json.dumps(rows), published, solos]
        text = random_.choice(texts)
        for _ in range(random_.choice([1, 1, 2, 5])):
            at = random_.randrange(len(text) + 1)
            gone = random_.choice([0, 0, 1, random_.randrange(30)])
            text = text[:at] + random_.choice(PIECES) + text[at + gone :]
        path = write(text, f"list.{ending}")
        try:
            entries = read_own_list(path, VIDEO_URL)
        except UserError as error:
            assert str(error).startswith(str(path)), text
            assert str(error).isprintable(), text
            continue
        read += 1
        assert len({(entry.category, entry.id) for entry in entries}) == len(entries) > 0, text
        for entry in entries:
            check_is_safe(entry, tmp_path / "videos")
    assert count / 20 < read < count * 19 / 20


def check_is_safe(entry: ListedVideo, folder: Path) -> None:
    place = folder / entry.category / f"{entry.id}.mp4"
    assert place.resolve() == place
    assert place.parent.parent == folder
    assert place.name.isascii() and place.name.isprintable() and len(place.name) < 150
    assert not entry.category.startswith("-")
    whole = entry.id if entry.clip is None else entry.id.rpartition("_")[0]
    assert not entry.id.startswith("-") or YOUTUBE_ID.fullmatch(whole)
    assert re.match("https?://[^/]", entry.url or "")
    assert entry.clip is None or 0 <= entry.clip[0] < entry.clip[1] < float("inf")


def test_ids_of_files_are_their_names(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("category,id,begin,end\nviolin,violin_000,1,3\nflute,own-take_2,,\n")
    videos = read_own_list(listed, "https://example.org/{id}", of_files=True)
    assert [(video.of, video.clip) for video in videos] == [
        ("violin_000", (1.0, 3.0)),
        ("own-take_2", None),
    ]
    with pytest.raises(UserError, match="line 2: id 'violin_000' is not allowed"):
        read_own_list(listed, "https://example.org/{id}")
    listed.write_text("category,id\nviolin,\n")
    with pytest.raises(UserError, match="line 2: id '' is not allowed"):
        read_own_list(listed, "https://example.org/{id}", of_files=True)
