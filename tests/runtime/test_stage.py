import json
from pathlib import Path

import pytest

from sop.runtime.errors import UserError
from sop.runtime.stage import NOTES, read_note, run_stage


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def status_of(main) -> int | None:
    with pytest.raises(SystemExit) as ended:
        run_stage("train", main)
    return ended.value.code


def test_a_stage_that_ends_leaves_how_long_it_took() -> None:
    assert status_of(lambda: None) is None
    note = read_note("train")
    assert note["error"] == ""
    assert 0 <= note["seconds"] < 60
    assert note["peak_mib"] > 1


def test_a_users_mistake_is_noted_and_still_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("params.yaml: train.loss is wrong")

    assert status_of(main) == 2
    assert read_note("train")["error"] == "params.yaml: train.loss is wrong"
    assert capsys.readouterr().err == "error: params.yaml: train.loss is wrong\n"


def test_a_mistake_of_ours_is_noted_and_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError):
        run_stage("train", main)
    assert read_note("train")["error"] == "ZeroDivisionError: oh"


def test_a_stage_that_is_stopped_says_so() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert status_of(main) == 130
    assert read_note("train")["error"] == "it was stopped"


def test_a_place_that_cannot_be_written_costs_no_work() -> None:
    Path("data").write_text("a file where a folder should be")
    assert status_of(lambda: 3) == 3


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_note_is_none(content: str) -> None:
    NOTES.mkdir(parents=True)
    (NOTES / "train.json").write_text(content)
    assert read_note("train") == {}
    (NOTES / "train.json").write_text(json.dumps({"error": "x"}))
    assert read_note("train") == {"error": "x"}
