"""The documentation: its links, names, commands and numbers are valid."""

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from dvc.cli import DvcParserError
from dvc.cli import main as dvc_main
from dvc.cli.parser import get_main_parser
from PIL import Image

from sop.cli.main import main as sop_main
from sop.cli.main import make_parser
from sop.inference.separator import Separator
from sop.params import Params
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT, with_values
from tests.support.planted import HIGH_HZ, LOW_HZ, film, plant, separator_of
from tests.support.project import Project

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

README_LINES = 150

RUN = "<!-- test: run -->"

REASONS = {"network", "GPU", "cluster", "time"}
MARK = re.compile(r"<!-- (test|tested by|not run): (.+) -->")
FENCE = re.compile(r"(?:(<!--[^\n]*-->)\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")

# Commands of other programs that are not parsed here.
OTHERS = {"cp", "dask", "done", "do", "echo", "for", "git", "mkdir", "pip", "source", "torchrun"}

# Written by stages or commands, but not outputs in dvc.yaml.
UNTRACKED = {"metrics/groups.json", "data/published-export", "data/race"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    mark: str
    language: str
    text: str

    def lines(self) -> list[list[str]]:
        """Its commands, one for each line, split into words, without comments."""
        joined = self.text.replace("\\\n", "")
        lines = (shlex.split(line, comments=True) for line in joined.splitlines())
        return [line for line in lines if line]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    return [Block(*(found or "" for found in match)) for match in FENCE.findall(text_of(name))]


# Pages with examples that are run.
WITH_RUNS = [name for name in NAMES if any(block.mark == RUN for block in blocks(name))]


def prose(name: str) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", text_of(name)))


def commands_of(name: str, test: str) -> str:
    """The commands of the block that names a test of this file."""
    mark = f"<!-- tested by: tests/test_docs.py::{test} -->"
    [block] = [block for block in blocks(name) if block.mark == mark]
    return block.text


def parameters() -> set[str]:
    """Keys of params.yaml, and of its sections, with dots."""

    def keys(tree: dict[str, Any], above: str = "") -> Iterator[str]:
        for key, value in tree.items():
            yield above + key
            if isinstance(value, dict):
                yield from keys(value, f"{above}{key}.")

    return set(keys(yaml.safe_load(text_of("params.yaml"))))


def stages() -> dict[str, Any]:
    return yaml.safe_load(text_of("dvc.yaml"))["stages"]


def targets() -> set[str]:
    return set(re.findall(r"^(\w+):", text_of("Makefile"), re.MULTILINE))


def anchors(name: str) -> set[str]:
    """Anchors of the headings of a page, as MkDocs and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(name)), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def problem(words: list[str]) -> str | None:
    """What is wrong with a command; None if it can be parsed."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return _problem(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    except (UserError, DvcParserError) as error:
        return f"{error} {said.getvalue().strip()}"


def _problem(words: list[str]) -> str | None:
    match words:
        case ["sop" | "python", "--help"] | ["python", "-m", "sop", "--help"]:
            return None
        case ["sop", *arguments] | ["python", "-m", "sop", *arguments]:
            make_parser().parse_args(arguments)
        case ["make", target]:
            return None if target in targets() else "no such target"
        case ["dvc", *arguments]:
            parsed = get_main_parser().parse_args(arguments)
            for change in getattr(parsed, "set_param", None) or ():
                if change.partition("=")[0] not in parameters():
                    return f"no parameter {change}"
            if arguments[0] in ("repro", "commit", "freeze"):
                unknown = set(parsed.targets) - stages().keys()
                return f"no stage {unknown}" if unknown else None
        case ["python", "-m", "pytest", *arguments]:
            missing = [a for a in arguments if "/" in a and not (ROOT / a).exists()]
            return f"missing {missing}" if missing else None
        case ["python", "-m", module, *_]:
            found = (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
            return None if found else "no such module"
        case [first, *_]:
            known = first in OTHERS or (ROOT / first).is_file()
            return None if known else "unknown program"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_no_command_trains_again_to_measure_again(name: str) -> None:
    """`--force` alone runs all stages before the named one again."""
    for stage in ("evaluate", "localize", "denoise", "report"):
        assert not re.search(rf"dvc repro --force {stage}\b", text_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_block_of_commands_says_how_it_is_tested(name: str) -> None:
    for block in blocks(name):
        assert block.language, f"a block without language: {block.text}"
        if block.language not in ("bash", "python"):
            continue
        found = MARK.fullmatch(block.mark)
        assert found, f"a block without mark: {block.text}"
        kind, values = found[1], found[2].split(", ")
        if kind == "test":
            # Only commands that themselves run tests are not run.
            assert values == ["run"] or (values == ["parse"] and name == "docs/contributing.md")
        elif kind == "not run":
            assert set(values) <= REASONS
        else:
            assert [value for value in values if not is_test(value)] == []
            if values[0].startswith(".ci/"):
                script = text_of(values[0]).splitlines()
                for words in block.lines():
                    assert any(all(word in line for word in words) for line in script), words


def is_test(name: str) -> bool:
    """Whether a test of that name exists: a file, `file::function`, or a script of the CI."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse(text_of(path)) if path.endswith(".py") else None
    defined = {node.name for node in tree.body if hasattr(node, "name")} if tree else set()
    return not function or function in defined


@pytest.mark.parametrize("name", NAMES)
def test_commands_can_be_parsed(name: str) -> None:
    lines = [line for block in blocks(name) if block.language == "bash" for line in block.lines()]
    assert [(line, why) for line in lines if (why := problem(line))] == []


@pytest.mark.parametrize("name", NAMES)
def test_python_examples_compile(name: str) -> None:
    for block in blocks(name):
        if block.language == "python":
            compile(block.text, name, "exec")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_yaml_examples_exist(name: str) -> None:
    known = parameters()

    def unknown(tree: dict[str, Any], above: str = "") -> Iterator[str]:
        for key, value in tree.items():
            if above + key not in known:
                yield above + key
            # The keys of some values, such as index.duet_categories, are the user's.
            elif any(name.startswith(f"{above}{key}.") for name in known):
                yield from unknown(value, f"{above}{key}.")

    for block in blocks(name):
        if block.language == "yaml":
            assert list(unknown(yaml.safe_load(block.text))) == []


@pytest.mark.parametrize("name", NAMES)
def test_names_in_the_text_exist(name: str) -> None:
    known, missing = parameters(), []
    sections = {key for key in known if "." not in key}
    for code in INLINE.findall(prose(name)):
        words = code.split()
        dotted = re.fullmatch(r"(\w+(?:\.\w+)+)(?:[:=].*)?", code)
        if dotted and dotted[1].partition(".")[0] in sections and not is_file_name(dotted[1]):
            ok = dotted[1] in known
        elif dotted and code.startswith(("sop.", "stages.")):
            ok = is_defined(code)
        elif words[0] == "sop" and len(words) > 1 and not words[1].startswith("-"):
            options = {word for word in words if word.startswith("--")}
            ok = options <= set(re.findall(r"--[\w-]+", help_of(words[1])))
        elif words[0] in ("make", "dvc") and len(words) > 1 and "<" not in code:
            ok = problem(words) is None
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code) and is_place(code):
            ok = exists(code)
        else:
            continue
        if not ok:
            missing.append(code)
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_definitions_are_where_the_text_says(name: str) -> None:
    """As in: `stft` and `istft` in `sop/model/spectrogram.py`."""
    found = re.findall(r"((?:`\w+`(?:, | and )?)+) in `([\w/]+\.py)`", prose(name))
    for symbols, path in found:
        for symbol in re.findall(r"\w+", symbols.replace(" and ", " ")):
            definition = rf"^\s*(def {symbol}\(|class {symbol}\b|{symbol}(: .+)? = )"
            assert re.search(definition, text_of(path), re.MULTILINE), (symbol, path)


def help_of(command: str) -> str:
    """The help of a command of `sop`."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        make_parser().parse_args([command, "--help"])
    assert said.getvalue(), f"sop has no command {command}"
    return said.getvalue()


def is_file_name(text: str) -> bool:
    return text.endswith((".py", ".yaml", ".json", ".csv", ".txt", ".pt", ".safetensors"))


def is_place(text: str) -> bool:
    """Whether inline code is a path in this project."""
    folders = ("sop", "stages", "tests", "docs", "presets", "benchmarks", "metrics", "data")
    return "/" in text and text.split("/")[0] in folders


def exists(text: str) -> bool:
    """Whether a path exists, or is an output of a stage or part of one."""
    outputs = {
        out if isinstance(out, str) else next(iter(out))
        for stage in stages().values()
        for out in (*stage["outs"], *stage.get("metrics", ()))
    }
    path = text.rstrip("/")
    inside = any(path == out or path.startswith(f"{out}/") for out in outputs)
    above = any(out.startswith(f"{path}/") for out in outputs)
    return inside or above or path in UNTRACKED or (ROOT / path).exists()


def is_defined(dotted: str) -> bool:
    """Whether a module exists, or defines or exports a name."""
    module, names = ROOT, dotted.split(".")
    while names and (module / names[0]).is_dir():
        module /= names.pop(0)
    if names and (module / f"{names[0]}.py").is_file():
        module /= f"{names.pop(0)}.py"
    if not names:
        return True
    file = module / "__init__.py" if module.is_dir() else module
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if hasattr(node, "name")}
    assigned = {
        target.id
        for node in tree.body
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    }
    return names[0] in defined | assigned or f'"{names[0]}"' in ast.unparse(tree).replace("'", '"')


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    broken = []
    for link in LINK.findall(prose(name)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (
            anchor and anchor not in anchors(target.resolve().relative_to(ROOT).as_posix())
        ):
            broken.append(link)
    assert broken == []


def test_site_has_every_page() -> None:
    text = text_of("mkdocs.yml")
    listed = re.findall(r": (\w+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in PAGES if page.parent == ROOT / "docs")
    assert re.search(r"^  font: false", text, re.MULTILINE), "Google Fonts need a network"


def test_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= README_LINES


def rows(name: str) -> dict[str, list[str]]:
    """The rows of all tables of a page, by their first cell."""
    lines = re.findall(r"^\| (.+) \|$", text_of(name), re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("name", ["README.md", "docs/evaluation.md"])
def test_separation_results_are_those_in_metrics(name: str) -> None:
    metrics, shown = json.loads(text_of("metrics/details/evaluate.json")), rows(name)
    for title, key in (
        ("SDR", "sdr"),
        ("SIR", "sir"),
        ("SAR", "sar"),
        ("SI-SDR", "si_sdr"),
        ("SDR of the unprocessed mixture", "sdr_mixture"),
        ("SDR improvement over the mixture", "sdr_improvement"),
    ):
        assert shown[title] == [f"{metrics[key][kind]:.2f}" for kind in ("mean", "median")]
    assert f"{metrics['mixtures']['counted']} mixtures" in text_of(name)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("README.md", "Wiener filter, selected automatically"),
        ("docs/denoise.md", "`wiener`, selected by `auto`"),
    ],
)
def test_denoise_results_are_those_in_metrics(name: str, chosen: str) -> None:
    metrics, shown = json.loads(text_of("metrics/details/denoise.json")), rows(name)
    keys = ("sdr", "sir", "sar")

    def cells(change: dict[str, Any]) -> list[str]:
        return [
            f"{change[key]['mean']:+.2f} ({change[key]['low']:.2f} to {change[key]['high']:.2f})"
            for key in keys
        ]

    assert metrics["method"] == "wiener"
    assert shown["before"] == [f"{metrics['before'][key]:.2f}" for key in keys]
    assert shown[chosen] == cells(metrics["change"])
    assert f"{metrics['mixtures']['held_out']} held-out mixtures" in text_of(name)
    if name == "docs/denoise.md":
        for method in ("renormalise", "lms", "nlms", "rls"):
            assert shown[f"`{method}`"] == cells(metrics["methods"][method]["change"])


def test_localization_results_are_those_in_metrics() -> None:
    metrics, shown = (
        json.loads(text_of("metrics/details/localization.json")),
        rows("docs/evaluation.md"),
    )
    kinds = ("silent", "solo", "duet", "distractor")
    for title, key in (
        ("right number of regions", "regions_right"),
        ("every sounding player found", "pointing"),
        ("every sounding player found by the region with its sound", "pointing_by_sound"),
    ):
        values = [metrics[key].get(kind) for kind in kinds]
        assert shown[title] == [
            "" if value is None else f"{value:.0%}"[:-1] + " %" for value in values
        ]
    text = " ".join(text_of("docs/evaluation.md").split())
    assert f"The boxes of {percent(metrics['overlap']['above_0.3'])} of the players" in text
    assert f"an SDR {metrics['duets']['sdr_improvement']:.1f} dB above" in text


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def run_commands(folder: Path, commands: str) -> str:
    """Run commands of a page in a folder, as a user with an activated environment does."""
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name, call in (("sop", "-m sop"), ("dvc", "-m dvc"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {call} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone of two commits, with the committed results and a small experiment."""
    project = Project(tmp_path_factory.mktemp("docs") / "clone", without=("tests/", "docs/"))
    (project.folder / "notes.txt").touch()
    project.set({"report.players": 0})
    project.commit("a note")
    return project


@pytest.mark.slow
def test_own_videos_are_tracked_by_dvc(clone: Project, tmp_path: Path) -> None:
    project = clone.copy(tmp_path / "clone")
    mkdir, *rest = commands_of("docs/data.md", "test_own_videos_are_tracked_by_dvc").splitlines()
    run_commands(project.folder, mkdir)
    (project.folder / "my-videos" / "flute").mkdir()
    (project.folder / "my-videos" / "flute" / "a.mp4").write_bytes(b"a video")
    run_commands(project.folder, "\n".join(rest))
    shown = run_commands(project.folder, "git status --short; git check-ignore my-videos/flute")
    assert shown.splitlines() == ["M  .gitignore", "A  my-videos.dvc", "my-videos/flute"]


@pytest.mark.slow
def test_published_layout_in_a_fresh_clone(clone: Project, tmp_path: Path) -> None:
    project = clone.copy(tmp_path / "clone")
    data = project.folder / "data"
    rng = np.random.default_rng(0)
    for category in ("flute", "violin"):
        for number in range(6):
            sound = data / "audio" / category / f"{number}.mp3"
            frames = data / "frames" / category / f"{number}.mp4"
            for folder in (sound.parent, frames):
                folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(sound, rng.normal(0, 0.1, 3 * 11025), 11025)
            for frame in range(1, 25):
                pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
                Image.fromarray(pixels).save(frames / f"{frame:06d}.jpg")
    before = sorted(data.rglob("*.mp3"))

    commands = commands_of("docs/data.md", "test_published_layout_in_a_fresh_clone")
    shown = run_commands(project.folder, commands)

    ran = re.findall(r"Running stage '(\w+)'", shown)
    assert ran == ["validate", "index", "train", "evaluate", "localize", "denoise", "report"]
    assert sorted(data.rglob("*.mp3")) == before
    index = json.loads((project.folder / "metrics/index.json").read_text())
    assert index["train"] + index["validation"] == len(before)
    measured = json.loads((project.folder / "metrics/evaluate.json").read_text())
    assert measured["mixtures"]["counted"] == 4
    assert project.repro() == []


@pytest.fixture
def workspace(
    clone: Project,
    tmp_path: Path,
    tiny_params: Params,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> Path:
    """A copy of the clone, with the files that the examples read and a model of known regions."""
    folder = clone.copy(tmp_path / "clone").folder
    for name in (".venv/bin/activate", "data/model/last.pt", "model.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    sound = f"0.2*sin({LOW_HZ}*2*PI*t)|0.1*sin({HIGH_HZ}*2*PI*t)"
    for name in ("VIDEO", "video.mp4"):
        film(folder / "film.mp4", sound, 3.0, "testsrc=s=320x240:r=12").rename(folder / name)
    noise = np.random.default_rng(0).normal(0, 0.1, 4410)
    for name in ("TARGET.wav", "REFERENCE.wav"):
        soundfile.write(folder / name, noise, 44100)
    params = with_values(tiny_params, {"spectrogram.log_frequency": False})
    planted = plant(separator_of(params))
    monkeypatch.setattr(Separator, "load", lambda *_: planted)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_RUNS)
def test_examples_run(workspace: Path, name: str) -> None:
    for block in blocks(name):
        if block.mark == RUN and block.language == "python":
            exec(compile(block.text, name, "exec"), {})
        elif block.mark == RUN:
            for program, *arguments in block.lines():
                assert PROGRAMS[program](arguments) in (0, None), (program, arguments)


def sop_program(arguments: list[str]) -> int:
    """Run `sop` in this process; help ends the program."""
    try:
        return sop_main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


PROGRAMS = {"sop": sop_program, "dvc": dvc_main, "source": lambda names: Path(*names).stat() and 0}
