"""The command `check-split`."""

import json
import random
from itertools import combinations
from pathlib import Path

import pytest

from sop.cli.main import main, program
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT

LISTS = ROOT.parent / "shared" / "music-lists"


class Planted:
    """Lists of 25 test videos and 250 pairs with known faults, in the published form.

    Args:
        folder: gets train.csv, test.csv and pairs.csv.
        leaks: number of test videos that also stand in the training list.
        same: number of pairs that repeat an earlier row.
        swapped: number of pairs that repeat an earlier row with the videos swapped.
    """

    def __init__(self, folder: Path, leaks: int, same: int, swapped: int) -> None:
        rng = random.Random(7)
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        names = ["-Gdh8N_KpLY", *("".join(rng.choices(letters, k=11)) for _ in range(424))]
        videos = [(("cello", "flute", "tuba", "violin")[n % 4], id_) for n, id_ in enumerate(names)]
        test, train = videos[:25], videos[25:]
        leaked = rng.sample(test, leaks)
        distinct = rng.sample(list(combinations(test, 2)), 250 - same - swapped)
        repeats = rng.sample(distinct, same + swapped)
        pairs = [*distinct, *repeats[:same], *((b, a) for a, b in repeats[same:])]
        self.touched = sum(a in leaked or b in leaked for a, b in pairs)
        self.leaked = {"/".join(video) for video in leaked}
        train = [*train, *leaked]
        rng.shuffle(train)
        self.arguments = []
        for name, rows in (
            ("train", [f"/{c}/{i}.wav,/{c}/{i}.mp4,{n + 9}" for n, (c, i) in enumerate(train)]),
            ("test", [f"/{c}/{i}.wav,/{c}/{i}.mp4,100" for c, i in test]),
            ("pairs", [f"/{a[0]}/{a[1]}.wav, /{b[0]}/{b[1]}.wav" for a, b in pairs]),
        ):
            path = folder / f"{name}.csv"
            path.write_text("\n".join(rows) + "\n")
            self.arguments.append(str(path))


def test_planted_faults_are_all_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = Planted(tmp_path, leaks=2, same=30, swapped=17)
    assert main(["check-split", *planted.arguments]) == 1
    said = capsys.readouterr().out
    for line in (
        "test: 25 videos, 2 of them in the training list",
        "mixtures: 250, 203 of them distinct",
        f"{planted.touched} of 250 mixtures have a video of the training list",
        "30 of 250 mixtures repeat an earlier one\n",
        "17 of 250 mixtures repeat an earlier one with the videos in another order",
    ):
        assert line in said

    assert main(["check-split", *planted.arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert set(found["names"]["test_videos_in_training"]) == planted.leaked
    counts = found["counts"]
    assert counts["repeated_mixtures"] + counts["swapped_mixtures"] == 47
    assert counts["mixtures_with_training_videos"] == planted.touched > 0


def test_sound_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = Planted(tmp_path, leaks=0, same=0, swapped=0)
    assert main(["check-split", *planted.arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "training: 400 videos",
        "test: 25 videos, 0 of them in the training list",
        "mixtures: 250, 250 of them distinct",
        "no problem found",
    ]
    # A test video in the validation list.
    validation = [*planted.arguments[:2], "--validation", planted.arguments[1]]
    assert main(["check-split", *validation]) == 1
    assert "25 of 25 test videos stand in the validation list" in capsys.readouterr().out


def test_duplicates_alone_are_no_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-split", *Planted(tmp_path, leaks=0, same=47, swapped=0).arguments]) == 0
    assert "47 of 250 mixtures repeat an earlier one" in capsys.readouterr().out


def test_lists_of_different_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published list of all solos, and ids of two of them and of another video."""
    if not LISTS.is_dir():
        pytest.skip(f"no lists in {LISTS}")
    published = LISTS / "MUSIC_solo_videos.json"
    ids = json.loads(published.read_text())["videos"]
    test = tmp_path / "test.txt"
    test.write_text(f"{ids['cello'][0]}\n{ids['tuba'][3]}.mp4\nAAAAAAAAAAA\n")
    assert main(["check-split", str(published), str(test)]) == 1
    said = capsys.readouterr().out
    assert "training: 536 videos" in said
    assert "2 of 3 test videos stand in the training list" in said


def test_list_that_cannot_be_read_has_another_status_than_a_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sop", "check-split", str(tmp_path / "a"), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"none.csv: not found$"):
        main(["check-split", str(tmp_path / "list.csv"), str(tmp_path / "none.csv")])
    (tmp_path / "bad\nname.csv").write_text("a,\x1b[31mb\n")
    with pytest.raises(UserError, match="these are two videos"):
        main(["check-split", str(tmp_path / "bad\nname.csv"), str(tmp_path / "list.csv")])
