import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from sop.cli.main import main
from sop.model.checkpoint import load_player, save_player
from sop.model.pixelplayer import PixelPlayer, build
from sop.model.published import FILES
from sop.params import Params
from sop.runtime.errors import UserError, run
from tests.support.experiment import ROOT, with_values
from tests.support.server import serving

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
    path = tmp_path / "metrics" / "details" / "evaluate.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metrics()))
    return path


def test_help_lists_the_commands() -> None:
    shown = sop("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for part in (
        "preset",
        "summary",
        "export-published",
        "import-published",
        "separate",
        "denoise",
        "dvc repro",
    ):
        assert part in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("preset", "musik"),
        ("summary",),
        ("separate", "video.mp4", "--out", "out"),
        ("separate", "video.mp4", "--out", "out", "--denoise", "lms"),
        ("denoise", "target.wav", "noise.wav", "--out", "clean.wav"),
    ],
)
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
    with pytest.raises(UserError, match=r"metrics/details/evaluate\.json: not readable as JSON"):
        main(["summary"])


@pytest.fixture
def model(tmp_path: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch) -> PixelPlayer:
    """What data/model/last.pt of the folder that is worked in holds."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(Path("data/model/last.pt"), player, tiny_params, step=3)
    return player


def test_export_writes_what_import_makes_the_same_model_of(
    tmp_path: Path,
    model: PixelPlayer,
    tiny_params: Params,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export-published", "--out", str(tmp_path / "served" / "ours")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [str(tmp_path / "served" / "ours" / file) for file in FILES.values()]
    assert "of width 64 only" in lines[3]
    assert "model.sound_width is 4, model.vision_width 4" in lines[3]

    with serving(tmp_path / "served") as server:
        where = {"url": server.root, "model": "ours", "sha256": {}}
        params = with_values(tiny_params, {"model.published": where})
        YAML(typ="safe").dump(params.model_dump(), Path("params.yaml"))
        assert main(["import-published", "--out", "imported.pt"]) == 0
    assert "imported.pt\n" in capsys.readouterr().out
    loaded, of = load_player(Path("imported.pt"))
    assert set(of.model.weights.model_dump().values()) == {"published"}
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


@pytest.mark.usefixtures("model")
def test_import_does_not_replace_a_model() -> None:
    before = Path("data/model/last.pt").read_bytes()
    with pytest.raises(UserError, match=r"data/model/last\.pt: there is a model already.*--out"):
        main(["import-published"])
    assert Path("data/model/last.pt").read_bytes() == before


def test_export_and_import_name_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/model/last\.pt: no such checkpoint"):
        main(["export-published"])
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        main(["import-published"])


def test_export_of_the_published_widths_has_no_warning(
    tmp_path: Path, tiny_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    params = with_values(tiny_params, {"model.sound_width": 64, "model.vision_width": 64})
    player = build(params.model, params.spectrogram, seed=1)
    save_player(tmp_path / "model.pt", player, params, step=3)
    out = str(tmp_path / "out")
    assert main(["export-published", "--checkpoint", f"{tmp_path}/model.pt", "--out", out]) == 0
    assert "cannot" not in capsys.readouterr().out


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
