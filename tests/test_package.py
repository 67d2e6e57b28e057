"""The installable package: its dependencies, extras, program, and the Python that it needs."""

import ast
import importlib
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sop
from sop.cli.main import main
from sop.runtime.code import code_dependencies
from sop.runtime.errors import EXTRAS, run
from tests.support.experiment import ROOT

# Names of packages in imports, where they differ from the name that pip knows.
IMPORT_NAMES = {
    "ffmpeg-python": "ffmpeg",
    "pillow": "PIL",
    "ruamel.yaml": "ruamel",
    "vl-convert-python": "vl_convert",
    "yt-dlp": "yt_dlp",
}
# Programs, and data of another package: nothing imports them.
NOT_IMPORTED = {"deno", "yt-dlp-ejs"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return content["project"]


def import_names(requirements: list[str]) -> set[str]:
    names = {Requirement(requirement).name for requirement in requirements} - NOT_IMPORTED
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def third_party(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - {"sop", *sys.stdlib_module_names}


def test_extras_are_those_of_the_messages(project: dict[str, Any]) -> None:
    declared = {
        name: extra
        for extra, requirements in project["optional-dependencies"].items()
        for name in import_names(requirements)
    }
    assert declared == EXTRAS


def test_every_import_is_declared(project: dict[str, Any]) -> None:
    files = [path.relative_to(ROOT) for path in (ROOT / "sop").rglob("*.py")]
    used = set().union(*map(third_party, files))
    assert used - import_names(project["dependencies"]) == EXTRAS.keys() - {"dvc"}
    assert import_names(project["dependencies"]) <= used


def test_commands_need_no_extra(project: dict[str, Any]) -> None:
    base = import_names(project["dependencies"])
    for name in ("preset", "separate", "denoise", "summary", "published"):
        for file in code_dependencies(Path(f"sop/cli/{name}.py")):
            assert file.suffix != ".py" or third_party(file) <= base, f"{file}, for {name}"


def test_pins_are_in_the_ranges(project: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    declared = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    ranges = {name.name: name.specifier for name in map(Requirement, declared)}
    assert {pin.name for pin in pins} == ranges.keys()
    for pin in pins:
        (version,) = pin.specifier
        assert version.operator == "=="
        assert version.version in ranges[pin.name]


def test_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> None:
        raise ModuleNotFoundError("No module named 'vl_convert'", name="vl_convert.x")

    with pytest.raises(SystemExit) as stop:
        run(program)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert 'vl_convert.x is not installed; run `pip install "sound-of-pixels[report]"`' in shown
    assert shown.count("\n") == 1


def test_missing_module_of_ours_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError):
        run(lambda: importlib.import_module("sop.nothing").nothing)


def test_program(project: dict[str, Any]) -> None:
    module, _, name = project["scripts"]["sop"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 13), (3, 14)])
def test_make_names_a_wrong_python(
    tmp_path: Path, project: dict[str, Any], version: tuple[int, int]
) -> None:
    python = tmp_path / "python"
    # Answers the question for the version, and fails in all else.
    program = f"import sys; sys.version_info = {version}; exec(sys.argv.pop())"
    python.write_text(
        f'#!/bin/sh\ntest "$1" = -c && exec {sys.executable} -c "{program}" "$2"\nexit 3\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={python}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    dotted = ".".join(map(str, version))
    allowed = dotted in SpecifierSet(project["requires-python"])
    said = f"Python 3.10 to 3.13 is required, but {python} is {dotted}"
    assert done.stderr.startswith(said) == (not allowed)
    assert ("venv" in done.stdout) == allowed


def test_make_without_a_python_checks_the_default_one() -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", "install", "PYTHON="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("python3 -c ")
    assert "python3 -m venv" in shown.stdout


# Makes an environment as Python does: its pyvenv.cfg and its program, then pip. Without ensurepip
# it stops before pip. Its program writes down what it is called with.
FAKE_PYTHON = """#!/bin/sh
if test "$1" = -c; then exit 0; fi
for folder; do :; done
test "$3" != --clear || rm -r "$folder"
mkdir -p "$folder/bin"
touch "$folder/pyvenv.cfg"
printf '#!/bin/sh\\ntest -e .venv/pip || exit 1\\necho "$@" >> log\\n' > "$folder/bin/python"
chmod +x "$folder/bin/python"
test ! -e ensurepip || touch "$folder/pip"
test -e ensurepip
"""


def test_make_completes_an_environment_in_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "the sound of pixels"
    folder.mkdir()
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        (folder / name).touch()
    (folder / "python").write_text(FAKE_PYTHON)
    (folder / "python").chmod(0o755)
    command = ["make", "install", "PYTHON=./python"]
    without_pip = subprocess.run(command, cwd=folder, capture_output=True)
    assert without_pip.returncode != 0
    assert (folder / ".venv" / "pyvenv.cfg").exists()
    (folder / ".venv" / "left").touch()
    (folder / "ensurepip").touch()
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    assert not (folder / ".venv" / "left").exists()
    called = (folder / "log").read_text().splitlines()
    assert [line.split()[:3] for line in called] == [["-m", "pip", "install"]] * 3
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "up to date" in again.stdout or "Nothing to be done" in again.stdout


def test_demo_outside_of_git_says_what_to_do(tmp_path: Path) -> None:
    """As in a tree from a zip file; DVC says only that it is no repository."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "installed").touch()
    for name, script in (("dvc", 'test "$1" != config || cat no_scm 2> /dev/null'), ("sop", "")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    def demo() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", "demo"], cwd=tmp_path, capture_output=True, text=True)

    refused = demo()
    assert refused.returncode != 0
    assert "dvc repro" not in refused.stdout
    assert refused.stderr.splitlines()[0] == (
        "error: this folder is not in a git repository, which DVC needs: run `git init`, "
        "`git add --all` and `git commit --message start`; or `dvc config core.no_scm true`, "
        "to work without git"
    )
    (tmp_path / "no_scm").write_text("true\n")
    assert demo().returncode == 0
    (tmp_path / "no_scm").unlink()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert demo().returncode == 0


def test_version(project: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sop {sop.__version__}\n"
    assert sop.__version__ == project["version"]
    assert f"\nversion: {sop.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
