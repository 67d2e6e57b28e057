"""The race of designs: its files, its schedules, what is run again, and its report."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import race
from benchmarks.race import Race, choose_schedule, read_designs
from benchmarks.race_cost import Cost, mean_step
from benchmarks.race_report import Entry, time_notes, write_report
from sop.params import Params
from sop.runtime.errors import UserError
from stages import download, extract, index
from tests.support.experiment import ROOT, with_values

COST = Cost(step=0.3, step_cpu=0.25, validation=6.0, parameters=1000, flops=1e9)


def write_params(folder: Path, params: Params) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params.model_dump(mode="json"), file)


def write_designs(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def options(project: Path, designs: Path, **changes: Any) -> argparse.Namespace:
    values = {
        **{"project": project, "designs": designs, "folder": None, "seeds": 1, "jobs": 1},
        **{"budget": 5.0, "tune": False, "no_denoise": False, "cost_steps": 4},
    }
    return argparse.Namespace(**values | changes)


@pytest.fixture
def project(tmp_path: Path, tiny_params: Params) -> Path:
    """A project of which only the list of training videos is there."""
    folder = tmp_path / "project"
    write_params(folder, tiny_params)
    lists = folder / "data" / "index"
    lists.mkdir(parents=True)
    lists.joinpath("train.csv").write_text("data/audio/a/1.wav,data/frames/a/1.zip,20\n")
    return folder


def test_designs_of_the_repository_are_valid(default_params: Params) -> None:
    base = default_params.model_dump(mode="json")
    designs = read_designs(race.DESIGNS, base, "params.yaml")
    assert list(designs)[:2] == ["paper", "default"]
    assert designs["default"] == base
    # What the objective and the weights of the published design are, whatever the default is.
    model, train = designs["paper"]["model"], designs["paper"]["train"]
    assert (model["mask"], model["sound_init"]) == ("binary", "published")
    assert (train["loss"], train["spectrum_weight"]) == ("bce", 0)
    assert designs["paper"]["evaluate"]["mask_power"] is None


def test_design_changes_values_by_dotted_keys(tmp_path: Path, tiny_params: Params) -> None:
    base = tiny_params.model_dump(mode="json")
    text = "one:\n  model.mask: ratio\n  train.loss: l1\n  train.learning_rate.sound: 0.5\ntwo:\n"
    designs = read_designs(write_designs(tmp_path / "d.yaml", text), base, "params.yaml")
    assert race.differences(base, designs["one"]) == [
        'model.mask="ratio"',
        'train.loss="l1"',
        "train.learning_rate.sound=0.5",
    ]
    assert designs["two"] == base


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("../up: {}", "not a name of a design"),
        ("one: [train.loss]", "not a mapping of dotted keys"),
        ("one: {train.lost: l1}", "train.lost is no parameter of params.yaml"),
        ("one: {train: {loss: l1}}", "train is no parameter"),
        ("one: {train.seed: 3}", "train.seed is the same for all designs"),
        ("one: {dataset.source: local}", "dataset.source is the same for all designs"),
        ("one: {train.loss: l3}", "train.loss"),
    ],
)
def test_wrong_designs_are_reported(
    tmp_path: Path, tiny_params: Params, text: str, problem: str
) -> None:
    path = write_designs(tmp_path / "designs.yaml", text)
    with pytest.raises(UserError, match=problem) as error:
        read_designs(path, tiny_params.model_dump(mode="json"), "params.yaml")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("step", [0.05, 0.13, 0.31, 0.77])
@pytest.mark.parametrize("batch", [4, 16])
def test_schedule_takes_the_time(default_params: Params, step: float, batch: int) -> None:
    train = default_params.train.model_copy(update={"batch_size": batch})
    cost = replace(COST, step=step * batch / 16)
    schedule = choose_schedule(450.0, cost, train, videos=320)
    # A pass through the list takes up to 15 s.
    assert schedule.seconds == pytest.approx(450.0, rel=0.02)
    assert train.epochs // 2 <= schedule.epochs <= 2 * train.epochs
    assert schedule.steps == 320 * schedule.repeats // batch * schedule.epochs
    expected = schedule.steps * cost.step + schedule.epochs * cost.validation
    assert schedule.seconds == pytest.approx(expected)


def test_usual_schedule_is_chosen_for_its_own_time(default_params: Params) -> None:
    train = default_params.train
    usual = race.scheduled(train, 320, COST)
    assert choose_schedule(usual.seconds, COST, train, 320) == usual


def test_epochs_stay_if_learning_rates_change_at_epochs(default_params: Params) -> None:
    train = default_params.train.model_copy(update={"schedule": "steps", "epochs": 7})
    assert choose_schedule(450.0, COST, train, 320).epochs == 7


def test_warm_up_is_left_out_of_each_phase() -> None:
    steps = [9.0, *[1.0] * 7]
    assert mean_step(np.cumsum(steps)) == pytest.approx(1.0)
    # Fast steps first, then as many slow ones; the first of each phase are slower.
    phases = [9.0, *[1.0] * 7, 20.0, *[3.0] * 7]
    assert mean_step(np.cumsum(phases), begin=8) == pytest.approx(2.0)
    with pytest.raises(UserError, match="--cost-steps"):
        mean_step([1.0])


def test_finished_stage_is_not_run_again(project: Path, tmp_path: Path) -> None:
    designs = write_designs(tmp_path / "designs.yaml", "one:\n")
    runner = Race(options(project, designs))
    place = project / "data" / "race" / "one" / "seed-1234" / "train"
    runner.prepare(place, runner.designs["one"])
    # The stage that starts fastest. Without data it fails, each time it is run.
    for attempts in (1, 2):
        with pytest.raises(UserError, match=r"log\.txt: stages\.index ended with status 2: error"):
            runner.stage(place, "index", race.usable_cores()[:1])
        state = json.loads((place / "index.json").read_text())
        assert (len(state["attempts"]), state["finished"]) == (attempts, False)
    (place / "index.json").write_text(json.dumps({**state, "finished": True}))
    runner.stage(place, "index", [])
    assert len(json.loads((place / "index.json").read_text())["attempts"]) == 2


def test_race_with_other_cores_needs_another_folder(project: Path, tmp_path: Path) -> None:
    designs = write_designs(tmp_path / "designs.yaml", "one:\n")
    Race(options(project, designs)).check_folder()
    Race(options(project, designs)).check_folder()
    with pytest.raises(UserError, match=r"budget of 5\.0 s, not 9"):
        Race(options(project, designs, budget=9.0)).check_folder()
    path = project / "data" / "race" / "race.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 99}))
    with pytest.raises(UserError, match=r"begun with threads 99, not \d+"):
        Race(options(project, designs)).check_folder()


def test_changed_design_needs_another_name(project: Path, tmp_path: Path) -> None:
    designs = write_designs(tmp_path / "designs.yaml", "one:\n")
    runner = Race(options(project, designs))
    runner.check_folder()
    cost = project / "data" / "race" / "one" / "cost-1" / "cost.json"
    cost.parent.mkdir(parents=True)
    cost.write_text(json.dumps(race.asdict(COST)))
    plan = runner.make_plans()["one"]
    assert (plan.cost, plan.schedule.epochs) == (COST, 1)
    assert Race(options(project, designs)).make_plans() == {"one": plan}
    write_designs(designs, "one: {train.weight_decay: 0.5}")
    with pytest.raises(UserError, match=r"train\.weight_decay=0\.5 has changed; give the design"):
        Race(options(project, designs)).make_plans()


def test_tuning_leaves_out_the_test_videos(project: Path, tmp_path: Path) -> None:
    lists = project / "data" / "index"
    for name in ("val.csv", "test.csv", "split.json"):
        lists.joinpath(name).touch()
    designs = write_designs(tmp_path / "designs.yaml", "one:\n")
    runner = Race(options(project, designs))
    for without, names in ((True, {"train.csv", "val.csv"}), (False, names_in(lists))):
        folder = tmp_path / f"run-{without}"
        runner.prepare(folder, runner.designs["one"], tmp_path / "trained", without)
        assert names_in(folder / "data" / "index") == names


def test_missing_parameters_are_those_of_the_repository(
    project: Path, capsys: pytest.CaptureFixture[str], default_params: Params
) -> None:
    path = project / "params.yaml"
    values = YAML(typ="safe").load(path)
    del values["train"]["motion_start"], values["report"]
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(values, file)
    found = race.base_params(project)
    assert found["report"]["players"] == default_params.report.players
    assert "train.motion_start, report" in capsys.readouterr().out


def make_entry(folder: Path, design: str, seed: int, gain: float, params: Params) -> Entry:
    """A finished run: 12 mixtures of videos of their own, and as denoised, 1 dB better."""
    place = folder / design / f"seed-{seed}"
    write_params(place, with_values(params, {"train.seed": seed}))
    rng = np.random.default_rng(seed)
    rows = []
    for mixture in range(12):
        for source in (1, 2):
            sdr = 5 + gain + rng.normal(0, 0.1)
            measures = {"sdr": sdr, "sir": 2 * sdr, "sar": 9.0, "si_sdr": sdr - 1}
            name = f"flute/{mixture}-{source}"
            row = {"mixture": mixture, "source": source, "category": "flute", "video": name}
            rows.append({**row, **measures, "sdr_mixture": 1.0, "sdr_improvement": sdr - 1})
    table = pd.DataFrame(rows)
    evaluated = place / "metrics" / "evaluate" / "mixtures.csv"
    evaluated.parent.mkdir(parents=True)
    table.assign(silent=0).to_csv(evaluated, index=False)
    held_out = place / "metrics" / "denoise" / "held_out.csv"
    held_out.parent.mkdir()
    before = table[table["mixture"] < 8].drop(columns=["sdr_mixture", "sdr_improvement"])
    worse = before.assign(method="wiener", sdr=before["sdr"] - 3)
    after = before.assign(method="wiener", sdr=before["sdr"] + 1)
    pd.concat([before.assign(method="none"), worse, after]).to_csv(held_out, index=False)
    details = place / "metrics" / "details" / "denoise.json"
    details.parent.mkdir()
    details.write_text('{"method": "wiener"}')
    return Entry(design, seed, place, True, 100.0, 1, 900, 300, 95.0, COST, "1234")


def test_report(tmp_path: Path, tiny_params: Params) -> None:
    entries = [
        make_entry(tmp_path, design, seed, gain, tiny_params)
        for design, gain in (("paper", 0.0), ("other", 2.0))
        for seed in (1, 2, 3)
    ]
    entries[-1] = replace(entries[-1], seconds=120.0, attempts=2)
    path = write_report(tmp_path, "result", entries, ["About the race."])
    text = path.read_text()
    assert "- About the race." in text
    assert "## Before denoise, all mixtures: 12\n" in text
    assert "## After denoise, the same mixtures: 8\n" in text
    assert "| SDR minus `paper` | SIR minus `paper` |" in text
    assert "| `other` | 0.00 M | 1.0 | 300.0 | 250.0 | 900 | 300 | 107 (100 to 120) |" in text
    assert "wiener x3" in text
    assert "training of other with seed 3 took 120 s, +20% of the median of 100 s" in text
    assert "training of other with seed 3 was resumed 1 time(s)" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables)

    rows = pd.read_csv(tmp_path / "result.csv").set_index(["part", "design", "measure"])
    # Runs of one seed differ by the gain alone.
    found = rows.loc[("before", "other", "sdr")]
    assert found["difference"] == pytest.approx(2.0)
    assert 1.9 < found["difference_low"] < 2.0
    assert found["verdict"] == "better"
    assert found["low"] < found["mean"] < found["high"]
    held_out = rows.loc[("before, held out", "paper", "sdr"), "mean"]
    assert rows.loc[("after", "paper", "sdr"), "mean"] == pytest.approx(held_out + 1)
    improvement = rows.loc[("after", "paper", "sdr_improvement"), "mean"]
    assert improvement == pytest.approx(held_out)
    assert len(pd.read_csv(tmp_path / "result-cost.csv")) == 2
    with Image.open(tmp_path / "result.png") as image:
        assert image.format == "PNG"


def test_report_without_denoise(tmp_path: Path, tiny_params: Params) -> None:
    entry = replace(make_entry(tmp_path, "paper", 1, 0.0, tiny_params), denoised=False)
    text = write_report(tmp_path, "tune", [entry], []).read_text()
    assert "Before denoise" in text
    assert "After denoise" not in text
    assert not time_notes([entry])


@pytest.mark.slow
def test_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_params: Params) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"evaluate.mixtures": 8, "denoise.taps": [4], "train.evaluate_mixtures": 2}
    params = with_values(tiny_params, {**values, "model.mask": "ratio", "train.loss": "l1"})
    write_params(tmp_path, params)
    for stage in (download, extract, index):
        stage.main()
    designs = write_designs(tmp_path / "designs.yaml", "one:\ntwo: {train.weighted_loss: false}\n")
    arguments = ["--designs", str(designs), "--seeds", "1", "--budget", "20", "--cost-steps", "8"]
    folder = tmp_path / "data" / "race"
    states = {name: folder / name / "seed-1234" / "train" / "train.json" for name in ("one", "two")}

    # Stopped while it trains.
    command = [sys.executable, "-m", "benchmarks.race", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    while not states["one"].is_file():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not json.loads(states["one"].read_text())["finished"]

    assert race.main(arguments) == 0
    assert len(json.loads(states["one"].read_text())["attempts"]) == 2
    plan = json.loads((folder / "one" / "plan.json").read_text())
    assert plan["cost"]["step"] > 0
    assert plan["cost"]["flops"] > 1e6
    report = (folder / "result.md").read_text()
    assert "## Before denoise, all mixtures: 8" in report
    assert "Calls that measured mixtures of the result: 1 (" in report
    rows = pd.read_csv(folder / "result.csv")
    assert set(rows["design"]) == {"one", "two"}
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("log.txt")}

    # Nothing is run again; tuning measures other mixtures of the same models.
    assert race.main(arguments) == 0
    assert race.main([*arguments, "--tune", "--no-denoise"]) == 0
    assert times.items() <= {p: p.stat().st_mtime_ns for p in folder.rglob("log.txt")}.items()
    tables = [
        pd.read_csv(folder / "one" / "seed-1234" / kind / "metrics" / "evaluate" / "mixtures.csv")
        for kind in ("result", "tune")
    ]
    assert list(tables[0]["video"]) != list(tables[1]["video"])
    assert "no result" in (folder / "tune.md").read_text()
