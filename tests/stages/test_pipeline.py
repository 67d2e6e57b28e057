"""The DVC pipeline: what a change makes stale, and what DVC makes of its outputs.

Each run of a stage starts Python and imports PyTorch, which takes most of its time. So tests share
one project that has run, and ask DVC which stages are stale instead of running them.
"""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx
import psutil
import pytest
import yaml
from dvc.repo import Repo

from sop.download.local import DESCRIPTIONS
from sop.report.groups import compare_groups
from tests.support.experiment import ROOT
from tests.support.project import Project

STAGES = [
    "validate",
    "download",
    "extract",
    "index",
    "train",
    "evaluate",
    "localize",
    "denoise",
    "report",
]
# Runs after any change of params.yaml, and then always writes the same.
VALIDATE = "validate"
WORKING = STAGES[1:]
MEASURED = ["evaluate", "denoise", "report"]
# Parameters that say how the stages work. They change no output.
OBSERVING = {"workers", "cluster.scheduler", "device", "log_every", "checkpoint_seconds"}
OUTPUTS = ("videos", "audio", "frames", "motion", "index", "model", "evaluate", "denoise", "report")
ARTIFACT = "sound-of-pixels"
# Of `dvc exp show` and `dvc metrics diff`, without parameters and dependencies.
MAX_COLUMNS = 25

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run once. Tests restore what they change in it."""
    project = Project(tmp_path_factory.mktemp("project"))
    assert project.repro() == STAGES
    project.commit("its results")
    return project


@pytest.fixture
def changed(ran: Project) -> Iterator[Project]:
    """The same project; what its stages depend on is restored after the test."""
    yield ran
    ran.git("checkout", "--quiet", "params.yaml", "dvc.lock")


def stale(project: Project) -> list[str]:
    """List the working stages that `dvc repro` would run if each of them changed its outputs."""
    with Repo(str(project.folder)) as repo:
        # From another working directory, names of stages have a path in front.
        found = {name.rpartition(":")[2] for name in repo.status()}
        graph = repo.index.graph
        for stage in [stage for stage in graph if stage.name in found - {VALIDATE}]:
            # An edge points from a stage to one that it depends on.
            found |= {dependent.name for dependent in networkx.ancestors(graph, stage)}
    return [stage for stage in WORKING if stage in found]


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({}, []),
        ({"workers": 1, "device": "cpu", "cluster.scheduler": "tcp://10.0.0.7:8786"}, []),
        ({"log_every": 7, "checkpoint_seconds": 7.0}, []),
        ({"dataset.synthetic.seed": 2}, WORKING),
        ({"extract.frame_rate": 4}, WORKING[1:]),
        ({"index.seed": 2}, WORKING[2:]),
        ({"index.duets": True}, WORKING[2:]),
        ({"train.seed": 2}, WORKING[3:]),
        ({"train.epochs": 2}, WORKING[3:]),
        ({"evaluate.seed": 2}, MEASURED),
        ({"evaluate.mask_threshold": 0.4}, MEASURED),
        ({"evaluate.mask_power": 3.0}, MEASURED),
        ({"evaluate.mixtures": 3}, MEASURED),
        ({"evaluate.pairs": "README.md"}, MEASURED),
        ({"index.split.test": "README.md"}, WORKING[2:]),
        ({"localize.scenes": 2}, ["localize", "report"]),
        ({"denoise.seed": 2}, ["denoise", "report"]),
        ({"denoise.method": "none"}, ["denoise", "report"]),
        ({"report.players": 0}, ["report"]),
    ],
)
def test_change_reruns_only_what_depends_on_it(
    changed: Project, values: dict[str, Any], stages: list[str]
) -> None:
    changed.set(values)
    assert stale(changed) == stages


def test_every_parameter_but_those_that_only_observe_is_a_dependency() -> None:
    def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{path}{key}.")
            else:
                yield path + key

    stages = pipeline()["stages"]
    assert stages.pop(VALIDATE)["params"] == [{"params.yaml": None}]
    used = [param for stage in stages.values() for param in stage["params"]]
    params = set(leaves(yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))))
    free = {key for key in params if not any(f"{key}.".startswith(f"{name}.") for name in used)}
    assert free == OBSERVING
    assert all(any(f"{key}.".startswith(f"{name}.") for key in params) for name in used)


def test_repro_of_what_is_fresh_runs_nothing(changed: Project) -> None:
    changed.set({"workers": 1, "device": "cpu"})
    assert changed.repro() == [VALIDATE]
    assert changed.repro() == []


def test_same_work_gives_the_same_bytes(ran: Project, tmp_path: Path) -> None:
    """No output has a path, a time or a process id, so that what is made again stays fresh."""
    # At another place, and by other processes.
    project = ran.copy(tmp_path / "elsewhere")
    lock = (project.folder / "dvc.lock").read_bytes()
    assert project.repro("--force", "--single-item", "train") == ["train"]
    assert stale(project) == []
    assert (project.folder / "dvc.lock").read_bytes() == lock
    assert project.repro() == []


def test_metrics_do_not_depend_on_workers(ran: Project, tmp_path: Path) -> None:
    project = ran.copy(tmp_path / "project")
    before = project.metrics()
    project.set({"workers": 1})
    assert project.repro("--force", "evaluate") == STAGES[: STAGES.index("evaluate") + 1]
    assert project.metrics() == before


def test_dvc_shows_metrics_params_plots_and_experiments(ran: Project, tmp_path: Path) -> None:
    project = ran.copy(tmp_path / "project")
    values = ("-S", "evaluate.mask_threshold=0.3", "-S", "evaluate.mixtures=2")
    experiment = project.dvc("exp", "run", "--name", "small", *values)
    assert experiment.returncode == 0, experiment.stderr
    assert re.findall(r"Running stage '(\w+)'", experiment.stdout) == [VALIDATE, *MEASURED]

    shown = json.loads(project.dvc("metrics", "show", "--json").stdout)
    assert "sdr" in shown[""]["data"]["metrics/evaluate.json"]["data"]
    changes = json.loads(project.dvc("params", "diff", "--json").stdout)
    assert changes["params.yaml"]["evaluate.mask_threshold"] == {
        "old": 0.5,
        "new": 0.3,
        "diff": pytest.approx(-0.2),
    }
    difference = json.loads(project.dvc("metrics", "diff", "--json").stdout)
    assert "metrics/evaluate.json" in difference
    plots = project.dvc("plots", "diff", "--json")
    assert plots.returncode == 0, plots.stderr
    names = set(json.loads(plots.stdout)["data"])
    titles = [plot if isinstance(plot, str) else next(iter(plot)) for plot in pipeline()["plots"]]
    assert {title for title in titles if not title.endswith(".png")} <= names
    table = project.dvc("exp", "show", "--csv")
    assert "small" in table.stdout, table.stderr
    assert "flute" not in table.stdout.splitlines()[0], "no column for each category"


def test_queue_of_two_settings_with_several_seeds(ran: Project, tmp_path: Path) -> None:
    project = ran.copy(tmp_path / "project")
    for name, values in (("base", ()), ("wide", ("-S", "model.channels=3"))):
        queued = project.dvc(
            "exp", "run", "--queue", "--name", name, "-S", "train.seed=1,2", *values, "evaluate"
        )
        assert queued.returncode == 0, queued.stderr
    ran_all = project.dvc("exp", "run", "--run-all")
    assert ran_all.returncode == 0, ran_all.stderr
    named = [(name, [f"{name}-1", f"{name}-2"]) for name in ("base", "wide")]
    found = compare_groups(named, project.folder)
    assert found.params == {"model.channels": ["2", "3"]}
    assert found.paired
    assert found.notes == []
    means = [[run.means["sdr"] for run in group.runs] for group in found.groups]
    assert all(first != second for first, second in means)


def test_training_that_outlives_dvc_is_not_joined_by_another(ran: Project, tmp_path: Path) -> None:
    """After `kill -9` of DVC, its stage goes on."""
    project = ran.copy(tmp_path / "project")
    project.set({"train.epochs": 40, "checkpoint_seconds": 0.0})
    lock = project.folder / "data/locks/train"
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train"],
        cwd=project.folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as dvc:
        wait_for(lambda: (project.folder / "data/training/train.pt").is_file())
        dvc.kill()
    owner = psutil.Process(json.loads(lock.read_text())["pid"])

    second = project.dvc("repro", "train")
    assert second.returncode != 0
    assert f"error: train: it is running in this folder already, as process {owner.pid}" in (
        second.stderr
    )
    assert "Traceback" not in second.stderr
    assert owner.is_running()

    owner.terminate()
    owner.wait(120)
    third = project.dvc("repro", "train")
    assert third.returncode == 0, third.stderr
    assert "resuming after step" in third.stdout


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("way", ["absolute", "tracked", "neither"])
def test_experiment_in_a_temporary_folder_has_the_own_videos(
    ran: Project, tmp_path: Path, way: str
) -> None:
    project = ran.copy(tmp_path / "project")
    for category in ("flute", "violin"):
        mine = project.folder / "my-videos" / category
        mine.mkdir(parents=True)
        for video in (project.folder / "data/videos" / category).glob("*.mp4"):
            shutil.copy(video, mine)
    folder = project.folder / "my-videos" if way == "absolute" else Path("my-videos")
    if way == "tracked":
        assert project.dvc("add", "my-videos").returncode == 0
        project.git("add", "my-videos.dvc", ".gitignore")
    project.set({"dataset.source": "local", "dataset.local.folder": str(folder)})
    done = project.dvc("exp", "run", "--temp", "-S", "index.seed=2", "download")
    if way == "neither":
        assert "error: dataset.local.folder: my-videos is not a folder" in done.stdout + done.stderr
        assert "use absolute paths" in done.stdout + done.stderr
    else:
        assert "copy: 4/4 videos" in done.stdout, done.stderr


def test_clone_pulls_everything_and_runs_nothing(ran: Project, tmp_path: Path) -> None:
    """A remote that a team shares: here a folder, elsewhere a bucket or a server."""
    project = ran.copy(tmp_path / "project")
    assert project.dvc("remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    pushed = project.dvc("push")
    assert pushed.returncode == 0, pushed.stderr
    project.commit("the remote")
    # DVC takes annotated tags only.
    project.git("tag", "--annotate", "--message", "first", f"{ARTIFACT}@v1.0.0")
    clone = copy.copy(project)
    clone.folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", project.folder, clone.folder], check=True)
    pulled = clone.dvc("pull")
    assert pulled.returncode == 0, pulled.stderr
    assert stale(clone) == []
    # It belongs to the run, not to the results.
    (project.folder / "data/report/run.html").unlink()
    for output in OUTPUTS:
        assert tree(clone.folder / "data" / output) == tree(project.folder / "data" / output)
    assert clone.metrics() == project.metrics()

    # Somebody with nothing but the address of the repository gets the model.
    elsewhere = copy.copy(project)
    elsewhere.folder = tmp_path / "elsewhere"
    elsewhere.folder.mkdir()
    got = elsewhere.dvc("artifacts", "get", str(clone.folder), ARTIFACT, "--out", "model.pt")
    assert got.returncode == 0, got.stderr
    model = (project.folder / "data/model/last.pt").read_bytes()
    assert (elsewhere.folder / "model.pt").read_bytes() == model


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_few_files_for_each_video(ran: Project) -> None:
    """Three for each video, however long it is: no loose pictures."""
    with Repo(str(ran.folder)) as repo:
        assert not repo.data_status(granular=True)["uncommitted"]
    videos = len(list((ran.folder / "data/videos").glob("*/*.mp4")))
    for name, manifests in (("audio", 1), ("frames", 1)):
        assert len(tree(ran.folder / "data" / name)) == videos + manifests


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"train.loss": "l3", "model.channels": -1, "log_every": 0},
            ["train.loss: 'l3'", "model.channels: -1", "log_every: 0"],
        ),
        (
            {"model.weights.sound": "none.pt", "dataset.source": "local"},
            ["none.pt: no such checkpoint", "dataset.local.folder: videos is empty"],
        ),
    ],
)
def test_mistake_stops_before_any_work(
    changed: Project, values: dict[str, Any], said: list[str]
) -> None:
    """DVC removes what a stage made before it starts the stage; here all stages would start."""
    folders = [changed.folder / name for name in ("data", "metrics")]
    before = [tree(folder) for folder in folders], (changed.folder / "dvc.lock").read_text()
    changed.set(values | {"dataset.synthetic.seed": 2})
    done = changed.dvc("repro")
    assert done.returncode != 0
    message = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    for part in said:
        assert part in message
    assert "Traceback" not in done.stderr
    after = [tree(folder) for folder in folders], (changed.folder / "dvc.lock").read_text()
    for name in [f"notes/{VALIDATE}.json", f"locks/{VALIDATE}"]:
        after[0][0][name] = before[0][0][name]
    assert after == before


def test_published_protocol(ran: Project, tmp_path: Path) -> None:
    """Three lists, of which two share a video: chosen on validation, measured on test."""
    project = ran.copy(tmp_path / "project")
    audio = project.folder / "data/audio"
    names = sorted(path.relative_to(audio).as_posix() for path in audio.glob("*/*.wav"))
    names = [name for name in names if name.count("_") < 2]
    test, validation, train = names[::4], names[1::4], [*names[2::4], *names[3::4], names[0]]
    for side, listed in (("train", train), ("validation", validation), ("test", test)):
        text = "".join(f"/{name},/{name}.mp4,24\n" for name in listed)
        (project.folder / f"protocols/{side}.csv").write_text(text)
    pairs = [*pairwise(test)]
    pairs += [(second, first) for first, second in pairs[:1]]
    text = "".join(f"/{first}, /{second}\n" for first, second in pairs)
    (project.folder / "protocols/pairs.csv").write_text(text)
    project.set(
        {
            **{f"index.split.{side}": f"{side}.csv" for side in ("train", "validation", "test")},
            **{"index.split.leaks": "keep", "evaluate.pairs": "pairs.csv"},
            "mixture.same_category": True,
        }
    )
    assert project.repro() == [VALIDATE, *WORKING[2:]]
    metrics = json.loads((project.folder / "metrics/details/evaluate.json").read_text())
    protocol = metrics["protocol"]
    assert protocol["measured_on"] == "test"
    assert protocol["names"]["test_videos_in_training"] == [names[0].removesuffix(".wav")]
    assert (protocol["mixtures"], protocol["swapped_mixtures"]) == (len(pairs), 1)
    assert metrics["mixtures"]["counted"] + metrics["mixtures"]["left_out"] == len(pairs)
    measured = (project.folder / "metrics/evaluate/mixtures.csv").read_text().splitlines()[1:]
    allowed = {name.removesuffix(".wav") for name in test}
    assert {line.split(",")[3] for line in measured} <= allowed
    assert (project.folder / "data/report/index.html").is_file()

    # Another list of pairs makes only what depends on it stale; the same split is made again.
    (project.folder / "protocols/pairs.csv").write_text(f"{text}{text.splitlines()[0]}\n")
    assert project.repro() == ["index", "evaluate", "denoise", "report"]


def test_real_recordings_are_all_accounted_for(tmp_path: Path, music_clips: list[Path]) -> None:
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
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() not in DESCRIPTIONS
    ]
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


def pipeline() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))


def test_stages_have_descriptions_and_metrics() -> None:
    stages = pipeline()["stages"]
    assert list(stages) == STAGES
    for name, definition in stages.items():
        assert definition["desc"]
        assert name in (VALIDATE, "train", "report") or definition["metrics"]


def test_few_numbers_to_compare_experiments_by() -> None:
    def leaves(values: dict[str, Any]) -> int:
        return sum(leaves(v) if isinstance(v, dict) else 1 for v in values.values())

    declared = [
        file for stage in pipeline()["stages"].values() for file in stage.get("metrics", [])
    ]
    texts = [(ROOT / path).read_text("utf-8") for file in declared for path in file]
    columns = sum(leaves(json.loads(text)) for text in texts)
    assert 0 < columns <= MAX_COLUMNS
