"""A split by lists instead of a draw."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sop.dataset.index import (
    SPLIT,
    TEST,
    VALIDATION,
    Index,
    Video,
    listed_names,
    read_index,
    read_split,
    reported_list,
    reported_model,
    write_index,
)
from sop.dataset.protocol import Entry
from sop.runtime.errors import UserError
from tests.support.index import DRAWN, Extracted

NAMES = [f"{category}/{n}" for category in ("flute", "tuba", "violin") for n in "abcdef"]


@pytest.fixture
def extracted(tmp_path: Path) -> Extracted:
    extracted = Extracted(tmp_path / "data")
    for name in NAMES:
        extracted.add(name)
    return extracted


def entries(names: Sequence[str]) -> list[Entry]:
    return [Entry(*name.split("/")) for name in names]


def split(extracted: Extracted, leaks: str = "drop", **lists: Sequence[str]) -> Index:
    drawn = DRAWN.model_copy(update={"leaks": leaks})
    of_sides = {side: entries(names) for side, names in lists.items()}
    return extracted.index(lists=of_sides, split=drawn)


def names_of(videos: Sequence[Video]) -> list[str]:
    return [video.name for video in videos]


def test_three_lists_are_the_three_sides(extracted: Extracted, tmp_path: Path) -> None:
    train, validation, test = NAMES[:6], NAMES[7:9], NAMES[16:12:-1]
    index = split(extracted, train=train, validation=validation, test=test)
    assert names_of(index.train) == train
    assert names_of(index.validation) == validation
    assert names_of(index.test) == test, "in the order of the list"
    summary = index.summary()
    assert (summary["test"], summary["split"]["unlisted"]) == (4, 6)
    assert summary["split"]["overlap"] == dict.fromkeys(
        ("train_validation", "train_test", "validation_test"), 0
    )
    folder = tmp_path / "index"
    write_index(index, folder)
    assert reported_list(folder).name == TEST
    assert reported_model(folder, Path("model")) == Path("model/best.pt")
    assert names_of(read_index(reported_list(folder))) == test
    assert listed_names(folder) == test
    assert json.loads((folder / SPLIT).read_text())["train"] == train


def test_files_of_an_earlier_split_are_removed(extracted: Extracted, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write_index(split(extracted, test=NAMES[:2]), folder)
    write_index(extracted.index(), folder)
    assert reported_list(folder).name == VALIDATION
    assert reported_model(folder, Path("model")) == Path("model/last.pt")
    assert listed_names(folder) is None
    assert not {TEST, SPLIT} & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "lists",
    [
        {"test": NAMES[:3]},
        {"train": NAMES[2:], "test": NAMES[:3]},
        {"train": NAMES[4:]},
        {"validation": NAMES[:3]},
        {"validation": NAMES[4:6], "test": NAMES[:3]},
    ],
)
def test_sides_without_a_list_are_drawn_and_apart(
    extracted: Extracted, lists: dict[str, list[str]]
) -> None:
    index = split(extracted, **lists)
    sides = {side: set(names_of(getattr(index, side))) for side in ("train", "validation", "test")}
    assert sum(map(len, sides.values())) == len(set().union(*sides.values()))
    assert sides["train"]
    assert sides["validation"]
    assert sides["test"] == set(lists.get("test", ()))
    if "train" in lists:
        allowed = set(lists["train"])
        assert sides["train"] | sides["validation"] == allowed - sides["test"]
    else:
        assert set().union(*sides.values()) == set(NAMES)


def test_leaks_are_reported_and_removed_or_kept(
    extracted: Extracted, capsys: pytest.CaptureFixture[str]
) -> None:
    lists: dict[str, Any] = {"train": NAMES[:9], "validation": NAMES[8:12], "test": NAMES[11:14]}
    lists["train"] = [*NAMES[:9], NAMES[12]]
    index = split(extracted, **lists)
    assert names_of(index.train) == NAMES[:8]
    assert names_of(index.validation) == NAMES[8:11]
    assert names_of(index.test) == NAMES[11:14]
    counts = {"train_validation": 1, "train_test": 1, "validation_test": 1}
    assert index.summary()["split"]["overlap"] == counts
    said = capsys.readouterr().out
    assert f"1 video stands in train and in test: {NAMES[12]}; removed from train" in said

    kept = split(extracted, leaks="keep", **lists)
    assert names_of(kept.train) == lists["train"]
    assert names_of(kept.test) == NAMES[11:14]
    assert names_of(kept.validation) == NAMES[8:11], "no choice by what is reported"
    assert kept.summary()["split"]["overlap_kept"] == counts | {"validation_test": 0}
    assert "kept in both, as index.split.leaks: keep says" in capsys.readouterr().out


def test_parts_of_a_video_are_on_one_side(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    names = [f"flute/-Gdh8N_KpLY_{part}" for part in ("0-5", "10-15", "20-25")]
    for name in (*names, *(f"tuba/{n}" for n in range(8))):
        extracted.add(name)
    index = split(extracted, test=names[:1])
    assert names_of(index.test) == names[:1]
    assert not set(names[1:]) & {*names_of(index.train), *names_of(index.validation)}
    whole = split(extracted, test=["flute/-Gdh8N_KpLY"])
    assert names_of(whole.test) == names


def test_own_names_of_eleven_characters_are_no_leak(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    names = [f"{category}/recording_{n}" for category in ("flute", "tuba") for n in range(4)]
    for name in names:
        extracted.add(name)
    index = split(extracted, train=names[1:], test=names[:1])
    assert names_of(index.test) == names[:1]
    assert index.summary()["split"]["overlap"] == {"train_test": 0}
    assert {*names_of(index.train), *names_of(index.validation)} == set(names[1:])


def test_part_that_was_not_extracted_is_missing(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    for name in ("flute/-Gdh8N_KpLY_0-5", *(f"tuba/{n}" for n in range(8))):
        extracted.add(name)
    index = split(extracted, test=["flute/-Gdh8N_KpLY_10-15", "tuba/0"])
    assert names_of(index.test) == ["tuba/0"]
    assert index.summary()["split"]["not_found_names"] == {"test": ["flute/-Gdh8N_KpLY_10-15"]}


def test_listed_videos_that_are_missing(
    extracted: Extracted, capsys: pytest.CaptureFixture[str]
) -> None:
    extracted.add("flute/short", seconds=0.5)
    index = split(extracted, test=["flute/a", "flute/short", "flute/gone"])
    assert names_of(index.test) == ["flute/a"]
    summary = index.summary()["split"]
    assert summary["listed"] == {"test": 3}
    assert summary["not_found"] == {"test": 2}
    assert summary["not_found_names"] == {"test": ["flute/short", "flute/gone"]}
    assert (
        "index.split.test: 2 of 3 listed videos cannot be used: flute/short, flute/gone"
        in capsys.readouterr().out
    )
    with pytest.raises(
        UserError, match=r"index.split.test: none of the listed videos \(1\) is among"
    ):
        split(extracted, test=["flute/gone"])
    with pytest.raises(UserError, match=r"no video for the list val.csv.*the lists of index.split"):
        split(extracted, validation=["flute/a"], test=["flute/a"])
    with pytest.raises(UserError, match=r"index.split.train: '?a'? may be flute/a, tuba/a"):
        extracted.index(lists={"train": [Entry(None, "a")]})


def test_lists_are_read_from_their_folder(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("/flute/a.wav,/flute/a.mp4,3\n")
    params = DRAWN.model_copy(update={"folder": str(tmp_path), "test": "test.csv"})
    assert read_split(params) == {"test": [Entry("flute", "a")]}
    assert read_split(DRAWN) == {}


def test_the_source_of_the_videos_may_know_the_split(extracted: Extracted, tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"test": NAMES[:3], "train": NAMES[3:]}))
    lists = read_split(DRAWN, path)
    assert lists == {"train": entries(NAMES[3:]), "test": entries(NAMES[:3])}
    index = extracted.index(lists=lists, split=DRAWN)
    assert names_of(index.test) == NAMES[:3]
    assert sorted(names_of((*index.train, *index.validation))) == NAMES[3:]
    assert index.validation
    assert read_split(DRAWN, tmp_path / "missing.json") == {}
    for text in ("", "[]", '{"test": [3]}', '{"test": ["a"]}', '{"test": ["a/b/c/d"]}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"splits\.json: not readable; run `dvc repro"):
            read_split(DRAWN, path)
