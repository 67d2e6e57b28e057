import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from sop.runtime.errors import UserError
from sop.runtime.stage import NOTES, StageNote, host_name, read_note, run_stage, stage_lock
from tests.support.experiment import ROOT


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def status_of(main) -> int | None:
    with pytest.raises(SystemExit) as ended:
        run_stage("train", main)
    return ended.value.code


def test_note_of_a_run() -> None:
    assert status_of(lambda: None) is None
    note = read_note("train")
    assert note.error == ""
    assert 0 <= note.seconds < 60
    assert note.peak_mib > 1
    assert note.host == host_name()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", note.ended)


def test_note_of_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("params.yaml: train.loss is wrong")

    assert status_of(main) == 2
    assert read_note("train").error == "params.yaml: train.loss is wrong"
    assert capsys.readouterr().err == "error: params.yaml: train.loss is wrong\n"


def test_note_of_a_bug() -> None:
    def main() -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError):
        run_stage("train", main)
    assert read_note("train").error == "ZeroDivisionError: oh"


def test_note_of_a_stopped_stage() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert status_of(main) == 130
    assert read_note("train").error == "it was stopped"


def test_note_that_cannot_be_written() -> None:
    NOTES.parent.mkdir()
    NOTES.write_text("a file where a folder should be")
    assert status_of(lambda: 3) == 3


def test_stage_runs_once_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    with stage_lock("train"):
        assert status_of(lambda: ran.append(1)) == 2
    assert "error: train: it is running in this folder already" in capsys.readouterr().err
    assert "it is running" in read_note("train").error
    assert status_of(lambda: ran.append(2)) is None
    assert ran == [2]


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--epochs=3", 2)])
def test_scripts_read_their_arguments(
    argument: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, `--help` ran the stage."""
    scripts = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
    assert "train" in scripts
    for script in scripts:
        monkeypatch.setattr(sys, "argv", [script, argument])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"stages.{script}", run_name="__main__")
        assert ended.value.code == status
        assert f"python -m stages.{script} " in "".join(capsys.readouterr())
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"unknown": 1}'])
def test_damaged_note(content: str) -> None:
    NOTES.mkdir(parents=True)
    (NOTES / "train.json").write_text(content)
    assert read_note("train") == StageNote()
    (NOTES / "train.json").write_text(json.dumps({"error": "x"}))
    assert read_note("train") == StageNote(error="x", host="unknown host")
