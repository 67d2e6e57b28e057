"""The DVC pipeline: what a change makes stale, and that every stage names what it really uses."""

import ast
import copy
import json
import math
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.experiment import ROOT
from tests.support.project import Project

STAGES = ["download", "extract", "index", "train", "evaluate", "denoise", "report"]

# Code that every stage uses and that decides nothing about its outputs.
WITHOUT_INFLUENCE = {
    "sop/errors.py",
    "sop/files.py",
    "sop/params.py",
    "sop/progress.py",
    "sop/stage.py",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Project:
    """A project whose pipeline has run once."""
    project = Project(tmp_path_factory.mktemp("project"))
    assert project.repro() == STAGES
    project.commit("its results")
    return project


@pytest.fixture
def project(ran, tmp_path) -> Project:
    """A copy of the project as it was when it had run."""
    return ran.copy(tmp_path / "project")


@pytest.mark.slow
def test_second_repro_does_nothing(project):
    assert project.repro() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({"train.epochs": 2}, ["train", "evaluate", "denoise", "report"]),
        ({"evaluate.mask_threshold": 0.4}, ["evaluate", "denoise", "report"]),
        ({"evaluate.mixtures": 3}, ["evaluate", "denoise", "report"]),
        ({"denoise.method": "none"}, ["denoise", "report"]),
        ({"report.players": 0}, ["report"]),
        ({"extract.frame_rate": 4}, ["extract", "index", "train", "evaluate", "denoise", "report"]),
        ({"workers": 1, "device": "cpu"}, []),
    ],
)
def test_change_reruns_what_depends_on_it_only(project, values, stages):
    project.set(values)
    assert project.repro() == stages


@pytest.mark.slow
def test_same_parameters_give_the_same_metrics_whatever_the_workers(project):
    before = project.metrics()
    project.set({"workers": 1})
    assert project.repro("--force") == STAGES
    assert project.metrics() == before


@pytest.mark.slow
def test_dvc_shows_metrics_parameters_plots_and_experiments(project):
    project.set({"evaluate.mask_threshold": 0.3})
    project.repro()
    shown = json.loads(project.dvc("metrics", "show", "--json").stdout)
    assert "sdr" in shown[""]["data"]["metrics/evaluate.json"]["data"]
    changed = json.loads(project.dvc("params", "diff", "--json").stdout)
    assert changed["params.yaml"]["evaluate.mask_threshold"] == {
        "old": 0.5,
        "new": 0.3,
        "diff": pytest.approx(-0.2),
    }
    assert project.dvc("metrics", "diff", "--json").returncode == 0
    plots = project.dvc("plots", "show", "--json")
    assert plots.returncode == 0, plots.stderr
    names = set(json.loads(plots.stdout)["data"])
    assert {"Training loss", "SDR by category", "SDR against the mixture's"} <= names
    assert sum(name.startswith("Denoise") for name in names) == 2
    assert project.dvc("plots", "diff", "--json").returncode == 0
    experiment = project.dvc("exp", "run", "--name", "small", "-S", "evaluate.mixtures=2")
    assert experiment.returncode == 0, experiment.stderr
    table = project.dvc("exp", "show", "--csv")
    assert "small" in table.stdout, table.stderr
    assert "flute" not in table.stdout.splitlines()[0], "no column for each category"


@pytest.mark.slow
def test_a_second_clone_pulls_everything_and_makes_nothing(project, tmp_path):
    """What a team shares by a remote: here a folder, elsewhere a bucket or a server."""
    assert project.dvc("remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    pushed = project.dvc("push")
    assert pushed.returncode == 0, pushed.stderr
    project.commit("where the cache is shared")
    clone = copy.copy(project)
    clone.folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", project.folder, clone.folder], check=True)
    pulled = clone.dvc("pull")
    assert pulled.returncode == 0, pulled.stderr
    assert clone.repro() == []
    outputs = ("videos", "audio", "frames", "index", "model", "evaluate", "denoise", "report")
    for stage_output in outputs:
        assert tree(clone.folder / "data" / stage_output) == tree(
            project.folder / "data" / stage_output
        )
    assert clone.metrics() == project.metrics()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_dvc_sees_a_few_files_for_each_video(project):
    """However long the videos are: three, of which none is a loose picture."""
    shown = json.loads(project.dvc("data", "status", "--json", "--granular").stdout or "{}")
    assert not shown.get("uncommitted")
    videos = len(list((project.folder / "data/videos").glob("*/*.mp4")))
    for name, manifests in (("audio", 1), ("frames", 1)):
        assert len(tree(project.folder / "data" / name)) == videos + manifests


@pytest.mark.slow
def test_wrong_parameter_stops_before_any_work(project):
    before = (project.folder / "dvc.lock").read_text()
    project.set({"train.loss": "l3", "model.channels": -1})
    done = project.dvc("repro")
    assert done.returncode != 0
    message = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "train.loss: 'l3'" in message
    assert "model.channels: -1" in message
    assert "Traceback" not in done.stderr
    assert (project.folder / "dvc.lock").read_text() == before


@pytest.mark.slow
def test_real_recordings_run_through_and_every_clip_is_accounted_for(tmp_path, music_clips):
    project = Project(tmp_path)
    folder = music_clips[0].parent.parent
    project.set(
        {
            "dataset.source": "local",
            "dataset.local.folder": str(folder),
            "index.min_seconds": 5.0,
            "index.train_fraction": 0.7,
            "mixture.audio_samples": 32767,
            "train.epochs": 2,
            "evaluate.mixtures": 8,
        }
    )
    assert project.repro() == STAGES
    results = {
        stage: json.loads((project.folder / f"metrics/details/{stage}.json").read_text())
        for stage in ("download", "extract", "index")
    }
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == results["download"]["listed"]
    for before, after in (("download", "extract"), ("extract", "index")):
        left_out = results[after]["left_out"]
        assert all(left_out["reasons"].values())
        kept = (
            results["index"]["train"] + results["index"]["validation"]
            if after == "index"
            else results[after]["videos"]
        )
        assert results[before]["videos"] == kept + left_out["count"]
    measured = project.metrics()
    assert measured["mixtures"]["counted"] + measured["mixtures"]["left_out"] == 8
    assert measured["mixtures"]["counted"] > 0
    for name in ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement"):
        assert math.isfinite(measured[name]["mean"])


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_all_code_that_it_uses(stage):
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    named = {
        path.relative_to(ROOT).as_posix()
        for dependency in definition["deps"]
        for path in [ROOT / dependency, *(ROOT / dependency).rglob("*.py")]
        if path.suffix == ".py" and has_code(path)
    }
    used = imported(ROOT / "stages" / f"{stage}.py") - WITHOUT_INFLUENCE
    assert used <= named, "used, but not named in dvc.yaml"
    assert named <= used, "named in dvc.yaml, but not used"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_description_and_metrics(stage):
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    assert definition["desc"]
    assert stage == "report" or definition["metrics"]


def imported(script: Path) -> set[str]:
    """Files of this repository that a script imports, directly or not; empty packages apart."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                module = ROOT / name.replace(".", "/")
                places = (module.with_suffix(".py"), module / "__init__.py")
                waiting += [place for place in places if place.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in found if has_code(path)}


def has_code(path: Path) -> bool:
    """Whether a file holds more than its docstring."""
    return len(ast.parse(path.read_text()).body) > 1
