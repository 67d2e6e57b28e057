import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from sop.cli import main
from sop.errors import UserError, run

MEASURES = ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement")


def sop(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sop", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def metrics(**changes: Any) -> dict[str, Any]:
    values = {name: {"mean": 1.0 + at, "median": -1.0 - at} for at, name in enumerate(MEASURES)}
    return {
        **values,
        "loss": 0.5,
        "mixtures": {"counted": 3, "left_out": 1, "reasons": {"2": "a.wav: holds no sound"}},
        "category": {"cello_acoustic_guitar": values, "flute": values},
        **changes,
    }


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metrics file of the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "metrics" / "evaluate.json"
    path.parent.mkdir()
    path.write_text(json.dumps(metrics()))
    return path


def test_help_lists_the_commands() -> None:
    shown = sop("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for part in ("preset", "summary", "dvc repro"):
        assert part in shown.stdout


@pytest.mark.parametrize("arguments", [("preset", "musik"), ("summary",)])
def test_mistake_ends_in_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shown = sop(*arguments, folder=tmp_path)
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1


def test_wrong_use_ends_in_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["preset"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage: python -m sop" in capsys.readouterr().err


def test_preset_prints_what_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")
    assert main(["preset", "music"]) == 0
    shown = capsys.readouterr().out
    assert "dataset.source: synthetic -> music\n" in shown
    assert "model.weights.vision: scratch -> imagenet\n" in shown
    assert "  source: music " in (tmp_path / "params.yaml").read_text("utf-8")
    assert main(["preset", "music"]) == 0
    assert "holds these values already" in capsys.readouterr().out


def test_summary_prints_metrics_categories_and_what_was_left_out(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    for at, name in enumerate(MEASURES):
        assert [name, f"{1 + at}.00", f"{-1 - at}.00"] in table
    for category in ("cello_acoustic_guitar", "flute"):
        assert [category, "1.00", "6.00", "2.00", "3.00"] in table
    assert "3 mixtures counted, 1 left out" in lines
    assert "  mixture 2: a.wav: holds no sound" in lines
    assert any("data/evaluate/" in line for line in lines)


def test_summary_of_a_damaged_file_names_it(evaluated: Path) -> None:
    evaluated.write_text('<<<<<<< HEAD\n{"sdr": 1}')
    with pytest.raises(UserError, match=r"metrics/evaluate\.json: not readable as JSON"):
        main(["summary"])


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (UserError("params.yaml: seed: missing"), 2, "error: params.yaml: seed: missing\n"),
        (KeyboardInterrupt(), 130, "interrupted; the next run goes on from here\n"),
    ],
)
def test_program_ends_in_a_line_and_a_status(
    raised: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def program() -> int:
        raise raised

    with pytest.raises(SystemExit) as stop:
        run(program)
    assert stop.value.code == status
    assert capsys.readouterr().err == said


def test_program_that_breaks_shows_its_traceback() -> None:
    def program() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(program)
