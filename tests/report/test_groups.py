"""Comparison of groups of runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.intervals import Design, Spread, simulate
from sop.cli.groups_text import groups_text
from sop.cli.main import main
from sop.report.comparison import COMPARED, compare
from sop.report.groups import GROUPS_PATH, compare_groups
from sop.report.page import PageContent, write_page
from sop.report.sections.groups import groups_section
from sop.runtime.errors import UserError
from tests.support.repository import Repository

FILE = "metrics/evaluate/mixtures.csv"
SPREAD = Spread("", seed=0.1, merit=0.3, taste=0.1, noise=0.1)
BASE = ["base-1", "base-2", "base-3"]
WIDE = ["wide-1", "wide-2", "wide-3"]
GROUPS = [("base", BASE), ("wide", WIDE)]


def results(values: np.ndarray, videos: list[tuple[str, str]], first: int = 0) -> str:
    lines = ["mixture,source,category,video,sdr,sir,sar,si_sdr,sdr_mixture,sdr_improvement,silent"]
    for mixture, (value, names) in enumerate(zip(values, videos, strict=True), start=first):
        for source, video in enumerate(names, start=1):
            # The sources differ, and their mean is the value.
            cells = [f"{value + 2 * source - 3 + at:.4f}" for at in range(4)]
            lines.append(f"{mixture},{source},flute,flute/{video},{','.join(cells)},0.5,1,0")
    return "\n".join(lines) + "\n"


class Runs(Repository):
    """A repository with experiments."""

    def run(self, name: str, text: str, params: str) -> None:
        self.write({FILE: text, "params.yaml": params})
        baseline = self.head
        self.experiment(name, baseline, self.commit(onto=baseline))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Three runs each of two settings; the second one is 0.5 dB better."""
    made = Runs(tmp_path / "project")
    made.write({"README": "nothing"})
    made.commit()
    one = simulate(Design("", (3, 3), 60, 40), SPREAD, np.random.default_rng(5))
    for row, name in enumerate(BASE + WIDE):
        width = 16 if row < 3 else 24
        params = f"train: {{seed: {1 + row % 3}, epochs: 5}}\nmodel: {{channels: {width}}}\n"
        made.run(name, results(one.values[row], one.videos), params)
    monkeypatch.chdir(made.folder)
    return made


def test_groups(project: Runs) -> None:
    found = compare_groups(GROUPS, project.folder)
    assert found.paired
    assert found.mixtures == 60
    assert found.notes == []
    # The seeds differ between runs, but not between groups.
    assert found.params == {"model.channels": ["16", "24"]}
    base, wide = found.groups
    assert [run.seed for run in wide.runs] == ["1", "2", "3"]
    assert [run.silent_estimates for run in base.runs] == [0, 0, 0]
    means = [[run.means["sdr"] for run in group.runs] for group in (base, wide)]
    spread = wide.measures["sdr"]
    assert spread.interval.interval.mean == pytest.approx(np.mean(means[1]))
    assert spread.deviation == pytest.approx(np.std(means[1], ddof=1))
    (difference,) = found.differences
    measured = difference.measures["sdr"]
    assert measured.seeds
    assert measured.interval.mean == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert measured.interval.low is not None
    assert 0 < measured.interval.low < 0.5
    one = compare("base-1", "wide-1", project.folder).measures["sdr"]
    assert one.a == pytest.approx(means[0][0], abs=1e-4)


def test_any_number_of_revisions_and_groups(project: Runs, capsys: pytest.CaptureFixture) -> None:
    text = f"--group base={','.join(BASE)}"
    assert main(["compare", "wide-1", *text.split(), "--group", "wide=wide-2,wide-3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "base is worse than wide-1." in lines
    assert "The interval covers the choice of videos and the training seed." in lines
    assert main(["compare", "base-1", "base-2", "wide-1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["base-1", "base-2", "wide-1"]
    assert [one["group"] for one in found["differences"]] == ["base-2", "wide-1"]
    assert found["differences"][1]["measures"]["sdr"]["seeds"] is False
    assert main(["compare", *text.split()]) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_text(project: Runs) -> None:
    lines = groups_text(compare_groups(GROUPS, project.folder)).splitlines()
    assert lines[0] == "wide is better than base."
    assert "60 mixtures compared, the same in all runs. Measures are in dB." in lines
    assert "  model.channels: 16 | 24" in lines
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert [line.split()[0] for line in lines if "  runs  " in line] == list(COMPARED)
    line = next(line for line in lines if line.startswith("wide") and "1.00" in line)
    assert line.endswith("0.00  0.00 to 0.00"), "no rounding errors"


def test_text_without_an_interval(project: Runs) -> None:
    """Of five mixtures no interval can be had."""
    for name in ("few-1", "few-2"):
        values = simulate(Design("", (1, 1), 5, 40), SPREAD, np.random.default_rng(len(name)))
        project.run(name, results(values.values[int(name[-1]) - 1], values.videos), "a: 1\n")
    lines = groups_text(compare_groups([(n, [n]) for n in ("few-1", "few-2")], Path())).splitlines()
    assert lines[0].startswith("few-2 and few-1: ")
    assert lines[1].endswith(" dB on average, which may be chance.")
    assert lines[2].startswith("An interval needs at least ")


@pytest.mark.slow
def test_section_of_the_report(project: Runs, capsys: pytest.CaptureFixture) -> None:
    assert groups_section(Path()) is None
    arguments = [f"--group={name}={','.join(runs)}" for name, runs in GROUPS]
    assert main(["compare", *arguments, "--report"]) == 0
    section = groups_section(Path())
    assert section is not None
    content = PageContent("x", [section])
    page = write_page(Path("report"), content).read_text(encoding="utf-8")
    assert "wide is better than base. The interval covers videos and training seeds." in page
    assert "Difference from base, 95 % interval" in page
    assert "model.channels" in page
    stored = json.loads(GROUPS_PATH.read_text())
    assert f"Written by sop compare --report on {stored['written']}, " in page
    commit = stored["groups"][1]["runs"][0]["commit"]
    assert re.search(rf"wide-1.*?{commit[:7]}.*?wide", page, re.DOTALL)
    stored["groups"][0]["name"] = "<script>"
    GROUPS_PATH.write_text(json.dumps(stored))
    page = write_page(Path("report"), PageContent("x", [groups_section(Path())])).read_text()
    assert "<script>:" not in page and "<td><script>" not in page
    for damaged in ("{", "[]", '{"groups": []}', "null"):
        GROUPS_PATH.write_text(damaged)
        section = groups_section(Path())
        assert section is not None
        assert not section.blocks
        assert str(GROUPS_PATH) in section.empty


def test_mixtures_that_only_some_runs_have(project: Runs) -> None:
    one = simulate(Design("", (1, 1), 70, 40), SPREAD, np.random.default_rng(6))
    whole = (project.folder / FILE).read_text()
    project.run("more", whole + results(one.values[0], one.videos, 60).partition("\n")[2], "a: 1\n")
    found = compare_groups([("base", BASE), ("more", ["more"])], project.folder)
    assert found.mixtures == 60
    assert found.notes[0].startswith("of up to 130 mixtures of a run, 60 are in all runs")
    other = simulate(Design("", (1, 1), 60, 40), SPREAD, np.random.default_rng(7))
    project.run("other", results(other.values[1], other.videos, 200), "a: 1\n")
    found = compare_groups([("base", BASE), ("other", ["other"])], project.folder)
    assert not found.paired
    assert found.mixtures == 120
    assert "no mixture is in all runs" in found.notes[0]
    interval = found.differences[0].measures["sdr"].interval
    assert interval.low is not None and interval.high is not None
    assert interval.high - interval.low > 0.5
    json.dumps(found.as_dict(), allow_nan=False)


def test_source_without_a_value_is_left_out_of_all_runs(project: Runs) -> None:
    text = (project.folder / FILE).read_text().splitlines()
    cells = text[1].split(",")
    text[1] = ",".join([*cells[:6], "", *cells[7:]])  # no SAR
    project.run("silent", "\n".join(text) + "\n", "train: {seed: 9}\n")
    found = compare_groups([("base", BASE), ("silent", ["silent"])], project.folder)
    sources = [row.split(",") for row in (project.folder / FILE).read_text().splitlines()[2:]]
    own = [(row[0], float(row[6])) for row in sources]
    by_mixture = [np.mean([v for n, v in own if n == number]) for number in dict(own)]
    assert found.groups[1].runs[0].means["sar"] == pytest.approx(np.mean(by_mixture), abs=1e-6)


def test_measure_that_runs_lack_is_named(project: Runs) -> None:
    """All estimates may be silent, which have no SAR; older results may lack a measure."""
    rows = [line.split(",") for line in (project.folder / FILE).read_text().splitlines()]
    silent = "\n".join(
        ",".join([*row[:6], "" if k else row[6], *row[7:]]) for k, row in enumerate(rows)
    )
    few = "\n".join(
        ",".join([*row[:6], "" if k == 1 else row[6], *row[7:]]) for k, row in enumerate(rows)
    )
    for name, text in (("mute-1", silent), ("mute-2", silent), ("few", few)):
        project.run(name, f"{text}\n", f"train: {{seed: {name}}}\n")
    mute = ("mute", ["mute-1", "mute-2"])

    def notes(*groups: tuple[str, list[str]]) -> list[str]:
        found = compare_groups(groups, project.folder)
        assert groups_text(found).count("sar is left out") <= 1
        return [note for note in found.notes if note.startswith("sar")]

    assert notes(mute) == ["sar is left out: no run has a value"]
    (both,) = notes(("base", BASE), mute)
    assert re.fullmatch(r"sar is left out: mute-1 \(\w+\), mute-2 \(\w+\) have no value", both)
    (partly,) = notes(("base", BASE), ("few", ["few"]))
    assert partly.startswith("sar of 1 of 120 sources is left out: ")
    assert notes(("base", BASE)) == []


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([("a", ["base-1", "base-1"])], "base-1 .*the same run as base-1"),
        ([("a", ["base-1"]), ("b", ["base-1", "base-2"])], "name each run once"),
        ([("a", ["base-1"]), ("a", ["base-2"])], "a: two groups have this name"),
        ([("a", ["nonsense"])], "nonsense: neither a git revision nor an experiment"),
        ([("a", ["HEAD"])], f"{FILE} of HEAD .*not found"),
    ],
)
def test_mistakes(project: Runs, groups: list[tuple[str, list[str]]], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        compare_groups(groups, project.folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["base-1", "=base-1", "a=", "a=base-1,", "a\nb=base-1"])
def test_wrong_group(text: str) -> None:
    with pytest.raises(UserError, match="give it as NAME=REV,REV"):
        main(["compare", "--group", text])


def test_report_without_groups(project: Runs) -> None:
    with pytest.raises(UserError, match="--report: there are no groups"):
        main(["compare", "base-1", "base-2", "--report"])


def test_runs_that_are_no_repetition(project: Runs) -> None:
    text = (project.folder / FILE).read_text()
    project.run("twin", text, "train: {seed: 3, epochs: 9}\nmodel: {channels: 24}\n")
    notes = compare_groups([("wide", [*WIDE, "twin"])], project.folder).notes
    assert notes == [
        "the runs of wide differ in train.epochs, which is no seed",
        "runs of wide have the same train.seed: they are not independent",
    ]
