import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from ruamel.yaml import YAML

from sop.cli.main import main
from sop.model.checkpoint import load_player, save_player
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from sop.runtime.errors import UserError, run
from sop.train.published import FILES
from tests.support.experiment import ROOT, with_values
from tests.support.server import serving

MEASURES = ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement")


def metrics(**changes: Any) -> dict[str, Any]:
    values = {name: {"mean": 1.0 + at, "median": -1.0 - at} for at, name in enumerate(MEASURES)}
    values |= {"silent_estimates": 2}
    return {
        **values,
        "loss": 0.5,
        "mixtures": {"counted": 3, "left_out": 1, "reasons": {"2": "a.wav: holds no sound"}},
        "category": {"cello_acoustic_guitar": values, "flute": values},
        **changes,
    }


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with metrics the working directory and return the metrics file."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "metrics" / "details" / "evaluate.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metrics()))
    return path


def start(*arguments: str, folder: Path, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program in a new process, and afterwards some Python in the same process.

    Args:
        arguments: command line.
        folder: working directory.
        after: expression; its value is the last line of the output.
    """
    program = (
        "import sys\n"
        "from sop.cli.main import program\n"
        "try:\n"
        "    program()\n"
        "finally:\n"
        f"    {after or 'pass'}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


COMMANDS = (
    "preset",
    "separate",
    "denoise",
    "summary",
    "compare",
    "check-split",
    "export-published",
    "import-published",
)

# Packages that take long to import, or belong to an extra. No check of arguments needs them.
HEAVY = {"torch", "torchvision", "scipy", "numba", "pandas", "librosa", "matplotlib", "dvclive"}
EXTRAS = {"distributed", "yt_dlp", "jinja2", "markupsafe", "vl_convert", "dvc", "dvclive"}


def test_python_m_sop_is_the_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sop", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert shown.stderr == ""
    for part in (*COMMANDS, "dvc repro"):
        assert part in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: sop {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--help", 0),
        ("preset musik", 2),
        ("summary", 2),
        ("separate nope.mp4 --out out", 2),
        ("separate folder --out out", 2),
        ("separate video.mp4 --out out", 2),
        ("separate video.mp4 --out out --denoise lms", 2),
        ("separate video.mp4 --out out --taps 3", 2),
        ("denoise nope.wav noise.wav --out clean.wav", 2),
        ("denoise video.mp4 nope.wav --out clean.wav", 2),
        ("denoise video.mp4 video.mp4 --out clean.wav --taps 0", 2),
        ("denoise video.mp4 video.mp4 --out clean.wav --forgetting 2", 2),
        ("export-published", 2),
        ("import-published --out video.mp4", 2),
        ("import-published", 2),
        ("compare nonsense", 2),
        ("check-split video.mp4 nope.csv", 2),
        ("separate video.mp4 --out video.mp4/out --checkpoint video.mp4", 2),
        ("separate video.mp4 --out out --checkpoint video.mp4 --page-seconds 3", 2),
        ("separate video.mp4 --out out --checkpoint video.mp4 --mute x", 2),
        ("separate video.mp4 --out out --checkpoint video.mp4 --gain 1=1 --gain 1=2", 2),
        ("denoise video.mp4 video.mp4 --out video.mp4/clean.wav", 2),
        ("import-published --out video.mp4/model.pt", 2),
    ],
)
def test_wrong_arguments_import_nothing_heavy(tmp_path: Path, arguments: str, status: int) -> None:
    (tmp_path / "video.mp4").write_text("not read")
    (tmp_path / "folder").mkdir()
    listed = "print(*{name.partition('.')[0] for name in sys.modules})"
    shown = start(*arguments.split(), folder=tmp_path, after=listed)
    assert shown.returncode == status
    *output, modules = shown.stdout.splitlines()
    assert not (HEAVY | EXTRAS) & set(modules.split())
    if status:
        assert output == []
        assert shown.stderr.startswith("error: ")
        assert shown.stderr.count("\n") == 1


def test_import_of_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    program = "import sop, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True
    )
    assert not (HEAVY | EXTRAS | {"numpy"}) & set(shown.stdout.decode().split())


@pytest.mark.slow
def test_separation_imports_no_extra(tmp_path: Path) -> None:
    program = """
import sys
from sop.cli.main import main
from sop.runtime.errors import UserError
try:
    main(["separate", "video.mp4", "--checkpoint", "video.mp4", "--out", "out"])
except UserError as error:
    print(error)
print(*{name.partition(".")[0] for name in sys.modules})
"""
    (tmp_path / "video.mp4").write_text("no checkpoint")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    message, modules = shown.stdout.splitlines()
    assert message.startswith("video.mp4: ")
    assert "torch" in modules.split()
    assert not EXTRAS & set(modules.split())


def test_wrong_usage_ends_in_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["preset"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage: sop" in capsys.readouterr().err


def test_preset_prints_changes(
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
    assert "already has these values" in capsys.readouterr().out


def test_summary(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    for at, name in enumerate(MEASURES):
        assert [name, f"{1 + at}.00", f"{-1 - at}.00"] in table
    for category in ("cello_acoustic_guitar", "flute"):
        assert [category, "1.00", "2", "6.00", "2.00", "3.00"] in table
    assert table[2] == ["silent_estimates", "2"]
    assert "3 mixtures evaluated, 1 left out" in lines
    assert "  mixture 2: a.wav: holds no sound" in lines
    assert any("data/evaluate/" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sar": None}, "'NoneType' object is not subscriptable"),
        ({"sdr": {"mean": 1.0}}, "'median' is missing"),
        ({"category": {"flute": {}}}, "'sdr' is missing"),
        ({"mixtures": {"counted": 3}}, "'left_out' is missing"),
        ({"sdr": {"mean": "much", "median": 1.0}}, ""),
    ],
)
def test_summary_of_metrics_of_another_version(
    evaluated: Path, changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated.write_text(json.dumps(metrics(**changes)))
    with pytest.raises(UserError) as error:
        main(["summary"])
    assert str(error.value).startswith("metrics/details/evaluate.json: not the metrics that this")
    assert said in str(error.value)
    assert capsys.readouterr().out == ""


def test_summary_without_a_value(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated.write_text(json.dumps(metrics(sar={"mean": None, "median": None})))
    assert main(["summary"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sar", "-", "-"] in shown


def test_summary_of_what_motion_adds(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def gain(mean: float | None) -> dict[str, Any]:
        return {"sdr_improvement": {"mean": mean}}

    def leak(median: float | None, share: float | None) -> dict[str, Any]:
        return {"median": median, "below_20_db": share, "mixtures": {"counted": 9}}

    assert main(["summary"]) == 0
    assert "motion" not in capsys.readouterr().out
    leaks = {"different": leak(-11, 0.3), "same_category": leak(None, None)}
    late = {
        "seconds": 1.5,
        "different": gain(5.5) | {"change": {"mean": -0.25}},
        "same_category": gain(None) | {"change": None},
    }
    found = metrics(
        same_category=gain(3),
        silent_leak=leaks | {"resting": leak(-33, 1)},
        shifted=late | {"silent_leak": leaks},
    )
    evaluated.write_text(json.dumps(found))
    assert main(["summary"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    at = lines.index("what motion adds in time late 1.5 s change dB")
    assert lines[at + 1 : at + 6] == [
        "gain, different categories 6.00 5.50 -0.25",
        "gain, one category 3.00 - -",
        "leak, different categories -11.00 -11.00 9 mixtures, 30% below -20 dB",
        "leak, one category - - 9 mixtures",
        "leak, at rest -33.00 - 9 mixtures, 100% below -20 dB",
    ]
    # The names of the main mixtures, if they may be of one category or always are.
    for key, name in (("any", "any categories"), ("same_category", "one category")):
        leaks = {key: leak(-11, 0.3)}
        of_plain = {"seconds": 1.5, key: late["different"], "silent_leak": leaks}
        evaluated.write_text(json.dumps(metrics(silent_leak=leaks, shifted=of_plain)))
        assert main(["summary"]) == 0
        shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert shown[at + 1 : at + 4] == [
            f"gain, {name} 6.00 5.50 -0.25",
            f"leak, {name} -11.00 -11.00 9 mixtures, 30% below -20 dB",
            "",
        ]
    evaluated.write_text(json.dumps(metrics(shifted=late)))
    with pytest.raises(UserError, match="'same_category' is missing"):
        main(["summary"])


def test_reader_of_the_summary_that_ends(evaluated: Path) -> None:
    shown = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m sop summary | head -n 1"],
        cwd=evaluated.parents[2],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert shown.stderr == ""
    assert shown.stdout.split() == ["mean", "median", "dB"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["separate", "", "--out", "out"],
        ["separate", "video.mp4", "--out", ""],
        ["separate", "video.mp4", "--out", "out", "--checkpoint", ""],
        ["denoise", "", "noise.wav", "--out", "clean.wav"],
        ["denoise", "a.wav", "noise.wav", "", "--out", "clean.wav"],
        ["denoise", "a.wav", "noise.wav", "--out", ""],
        ["export-published", "--out", ""],
        ["import-published", "--out", ""],
    ],
)
def test_empty_path(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=r"^[-A-Za-z]+: empty; name a file or folder$"):
        main(arguments)


def test_arguments_are_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["summary", "\x1b[31m\n"])
    assert r"unrecognized arguments: \x1b[31m\n" in capsys.readouterr().err


def test_names_of_files_are_shown_without_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[31m"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.ones(8000), 8000)
    soundfile.write(folder / "b.wav", np.zeros(8000), 8000)
    shown = start("denoise", *map(str, folder.iterdir()), "--out", f"{folder}/c.wav", folder=folder)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout + shown.stderr
    assert r"a\x1b[31m/c.wav: " in shown.stdout


@pytest.mark.slow
def test_keys_of_a_checkpoint_are_shown_without_control_characters(
    tmp_path: Path, tiny_params: Params
) -> None:
    endless: list[Any] = []
    endless.append(endless)
    params = tiny_params.for_inference()
    params["model"] |= {"\x1b[31m\n": 1, "channels": 10**30, "mask": endless}
    torch.save({"model": {}, "params": params, "step": 1}, tmp_path / "model.pt")
    shown = start("export-published", "--checkpoint", "model.pt", folder=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: model.pt: ")
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.rstrip().isprintable()
    assert r"model.\x1b[31m\n: unknown key" in shown.stderr


def denoise_metrics(low: float | None) -> dict[str, Any]:
    values = {"sdr": 1.0, "sir": 2.0, "sar": None, "silent_estimates": 3}
    change = {"mean": 0.39, "low": low, "high": None if low is None else 0.5}
    return {
        "method": "nlms",
        "setting": {"taps": 4},
        "reason": "denoise.method is nlms",
        "mixtures": {"held_out": 1},
        "before": values,
        "after": values | {"silent_estimates": 1},
        "change": {"sdr": change, "sir": change, "sar": None},
    }


@pytest.mark.parametrize(("low", "said"), [(0.1, "+0.10 to +0.50"), (None, "too few")])
def test_summary_of_denoising(
    evaluated: Path, capsys: pytest.CaptureFixture[str], low: float | None, said: str
) -> None:
    evaluated.with_name("denoise.json").write_text(json.dumps(denoise_metrics(low)))
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    assert f"SDR 1.00 to 1.00 dB, change +0.39 ({said}" in out
    assert "silent estimates 3 to 1" in out


def test_summary_of_silence_and_of_older_metrics(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = metrics(sar={"mean": None, "median": None})
    del changed["silent_estimates"]
    evaluated.write_text(json.dumps(changed))
    assert main(["summary"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sar", "-", "-"] in table
    assert ["silent_estimates", "-"] in table


def test_summary_of_a_damaged_file(evaluated: Path) -> None:
    evaluated.write_text('<<<<<<< HEAD\n{"sdr": 1}')
    with pytest.raises(UserError, match=r"metrics/details/evaluate\.json: not readable"):
        main(["summary"])


@pytest.fixture
def model(tmp_path: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch) -> PixelPlayer:
    """Make a folder with data/model/last.pt the working directory and return the model."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(Path("data/model/last.pt"), player, tiny_params, step=3)
    return player


def test_export_then_import_gives_the_same_model(
    tmp_path: Path, model: PixelPlayer, tiny_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-published", "--out", str(tmp_path / "served" / "ours")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [str(tmp_path / "served" / "ours" / file) for file in FILES.values()]
    assert "of width 64 only" in lines[3]
    assert "model.sound_width is 4 and model.vision_width is 4" in lines[3]

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
def test_import_replaces_no_model() -> None:
    before = Path("data/model/last.pt").read_bytes()
    with pytest.raises(UserError, match=r"data/model/last\.pt: already exists.*--out"):
        main(["import-published"])
    assert Path("data/model/last.pt").read_bytes() == before


def test_export_and_import_without_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/model/last\.pt: no such checkpoint"):
        main(["export-published"])
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        main(["import-published"])


def test_export_of_published_widths_without_warning(
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
        (KeyboardInterrupt(), 130, "interrupted; the next run continues from here\n"),
    ],
)
def test_program_ends_in_one_line(
    raised: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def program() -> int:
        raise raised

    with pytest.raises(SystemExit) as stop:
        run(program)
    assert stop.value.code == status
    assert capsys.readouterr().err == said


def test_unexpected_error_keeps_its_traceback() -> None:
    def program() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(program)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_disk_is_one_line(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sop", "summary"],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the output or a file: cannot be written (No space left")
    assert done.stderr.count("\n") == 1
