import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pygit2
import pytest
from dvc.cli import main as dvc

from sop.cli.comparison_text import comparison_text
from sop.evaluate.intervals import MIN_INDEPENDENT
from sop.report.comparison import BETTER, COMPARED, SAME, UNDECIDED, WORSE, compare
from sop.report.param_changes import ParamChange, changed_params
from sop.runtime.errors import UserError
from tests.support.repository import AUTHOR, Repository

FILE = "metrics/evaluate/mixtures.csv"
COLUMNS = "mixture,source,category,video,sdr,sir,sar,si_sdr,sdr_mixture,sdr_improvement"
CATEGORIES = ("cello", "flute", "violin")


class Row(NamedTuple):
    mixture: int
    source: int
    category: str
    video: str
    values: dict[str, Any]


def rows(count: int = 40, sources: int = 2, data: int = 0) -> list[Row]:
    """Mixtures of which each has its own difficulty, which is far more than any model's merit."""
    rng = np.random.default_rng([9, data])
    made = []
    for mixture in range(count):
        difficulty = rng.normal(5, 8)
        for source in range(1, sources + 1):
            category = CATEGORIES[(mixture + source) % 3]
            sdr = difficulty + rng.normal(0, 2)
            values = {name: sdr + at for at, name in enumerate(COMPARED)}
            values["sdr_mixture"] = rng.normal()
            video = f"{category}/{category}_{rng.integers(1000):03}"
            made.append(Row(mixture, source, category, video, values))
    return made


def shifted(before: list[Row], shift: Callable[[Row], float]) -> list[Row]:
    return [
        row._replace(
            values={
                name: value + (0 if name == "sdr_mixture" else shift(row))
                for name, value in row.values.items()
            }
        )
        for row in before
    ]


def noise(spread: float, mean: float = 0.0, seed: int = 1) -> Callable[[Row], float]:
    """A difference of each mixture, of a known mean over 40 mixtures."""
    drawn = np.random.default_rng(seed).normal(0, spread, 40)
    drawn += mean - drawn.mean()
    return lambda row: float(drawn[row.mixture])


def as_csv(made: list[Row]) -> str:
    names = COLUMNS.split(",")[4:]
    lines = [COLUMNS]
    for row in made:
        cells = [v if isinstance(v := row.values[name], str) else f"{v:.4f}" for name in names]
        lines.append(",".join([str(row.mixture), str(row.source), row.category, row.video, *cells]))
    return "\n".join(lines) + "\n"


class Project(Repository):
    """A repository with the results and the parameters of a project."""

    def put(self, results: list[Row] | str | None = None, params: str | None = None) -> None:
        if results is not None:
            self.write({FILE: results if isinstance(results, str) else as_csv(results)})
        if params is not None:
            self.write({"params.yaml": params})

    def record(self, results: list[Row] | str | None = None, params: str | None = None) -> str:
        self.put(results, params)
        return self.commit()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One commit of 40 mixtures, and the same in the working tree."""
    made = Project(tmp_path / "project")
    made.record(rows(), "seed: 1\ntrain:\n  epochs: 5\n")
    return made


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# What a revision may be


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Revisions that differ by their mean SDR: each a whole dB above the one before."""
    made = Project(tmp_path_factory.mktemp("history"))
    base = rows()
    baseline = made.record(base, "train: {epochs: 0}\n")
    made.git.create_tag("v1", baseline, pygit2.GIT_OBJECT_COMMIT, AUTHOR, "first")
    on_main = made.record(shifted(base, lambda row: 1), "train: {epochs: 1}\n")
    made.git.references.create("refs/tags/light", on_main)
    made.put(shifted(base, lambda row: 2), "train: {epochs: 2}\n")
    topic = made.commit(onto=on_main)
    made.git.references.create("refs/heads/topic/branch", topic)
    made.put(shifted(base, lambda row: 3), "train: {epochs: 3}\n")
    experiment = made.commit(onto=topic)
    made.experiment("puffy-daks", baseline, experiment)
    made.git.references.create("refs/exps/exec/EXEC_APPLY", experiment)
    made.put(shifted(base, lambda row: 4), "train: {epochs: 4}\n")
    return made


@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("v1", 0),
        ("HEAD~1", 0),
        ("v1^{commit}", 0),
        ("main", 1),
        ("light", 1),
        ("@", 1),
        ("topic/branch", 2),
        ("refs/heads/topic/branch", 2),
        ("puffy-daks", 3),
        ("workspace", 4),
    ],
)
def test_every_kind_of_revision(history: Project, name: str, shift: int) -> None:
    result = compare("v1", name, history.folder)
    assert result.measures["sdr"].difference == pytest.approx((shift,) * 3)
    assert result.verdict == (BETTER if shift else SAME)
    if shift:
        assert result.params == [ParamChange("train.epochs", 0, shift)]
    assert changed_params(name, "v1", history.folder) == [
        ParamChange("train.epochs", shift, 0) for _ in range(bool(shift))
    ]


def test_short_commit_and_names_in_text(history: Project) -> None:
    commit = history.head
    result = compare(commit[:10], "workspace", history.folder)
    assert result.a.commit == commit
    assert result.b.commit is None
    assert comparison_text(result).startswith(f"A  {commit[:10]}\nB  workspace\n")
    named = comparison_text(compare("main", "puffy-daks", history.folder))
    experiment = str(history.git.references["refs/exps/exec/EXEC_APPLY"].target)
    assert f"A  main ({commit[:7]})\nB  puffy-daks ({experiment[:7]})\n" in named


def test_experiments_of_one_name(project: Project) -> None:
    """That of the commit that is checked out is meant."""
    first = project.head
    second = project.record(shifted(rows(), lambda row: 1))
    full = project.experiment("twin", first, second)
    project.experiment("twin", second, first)
    assert compare("twin", "HEAD", project.folder).a.commit == first
    project.record()
    with pytest.raises(UserError) as error:
        compare("twin", "HEAD", project.folder)
    assert full in one_line(error)
    assert compare(full, "HEAD", project.folder).a.commit == second


@pytest.mark.parametrize(
    "name",
    [
        *("nonsense", "HEAD~9", "*", "puffy-*", "HEAD..HEAD~1", "^HEAD", "HEAD^!", "1 2", "ü"),
        *("", "-h", "--upload-pack=x", "--all", "-", "--", "--output=stolen", "a\nb", "a\0b"),
        *("HEAD:params.yaml", "HEAD^{tree}", "EXEC_APPLY", "\udcff", "$(touch stolen)", "| ls"),
    ],
)
def test_not_a_revision(history: Project, name: str) -> None:
    before = sorted(history.folder.iterdir())
    for names in ((name, "HEAD"), ("HEAD", name)):
        for function in (compare, changed_params):
            with pytest.raises(UserError) as error:
                function(*names, history.folder)
            message = one_line(error)
            assert name in message or repr(name) in message
            assert "experiment" in message
            if not name.isprintable() or name[:1] in ("", "-"):  # never looked up
                assert f"{name!r} is not a revision" in message
    assert sorted(history.folder.iterdir()) == before


def test_folder_without_git(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    path.write_text(as_csv(rows()))
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"HEAD: .*not a git repository.*run from the root"):
        compare("HEAD", "workspace", tmp_path)
    with pytest.raises(UserError, match=r"HEAD: cannot be looked up in .*absent"):
        compare("HEAD", "workspace", tmp_path / "absent")
    assert compare("workspace", "workspace", tmp_path).verdict == SAME


def test_computer_without_git(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project.folder))
    assert compare("HEAD", "workspace", project.folder).verdict == SAME


def test_repository_without_a_commit(tmp_path: Path) -> None:
    made = Project(tmp_path)
    made.put(rows(), "seed: 1\n")
    with pytest.raises(UserError, match="HEAD: neither a git revision nor an experiment"):
        compare("HEAD", "workspace", tmp_path)


def test_project_in_a_folder_of_the_repository(tmp_path: Path) -> None:
    made = Project(tmp_path, "models/pixels")
    made.record(rows(), "seed: 1\n")
    made.put(shifted(rows(), lambda row: 1), "seed: 2\n")
    result = compare("HEAD", "workspace", made.folder)
    assert result.verdict == BETTER
    assert result.params == [ParamChange("seed", 1, 2)]


def test_revision_without_results(project: Project) -> None:
    (project.folder / FILE).unlink()
    with pytest.raises(UserError, match=f"{FILE}: not found; `dvc repro` creates it"):
        compare("HEAD", "workspace", project.folder)
    project.record()
    project.put(rows())
    with pytest.raises(UserError) as error:
        compare("HEAD", "workspace", project.folder)
    assert f"{FILE} of HEAD (" in one_line(error)
    assert "not found" in one_line(error)
    assert compare("HEAD~1", "workspace", project.folder).verdict == SAME


HEADER_AND_ROW = as_csv(rows(1, 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column category, mixture, sdr, source, video"),
        ("mixture,source,video,sdr\n", "no column category"),
        ("<<<<<<< HEAD\n" + HEADER_AND_ROW, "no column"),
        (COLUMNS + "\n", "no mixture was measured"),
        (HEADER_AND_ROW + "1,1,cello", "line 3 has more or fewer cells"),
        (HEADER_AND_ROW.strip() + ",7\n", "line 2 has more or fewer cells"),
        (HEADER_AND_ROW.replace("\n0,", "\nnone,"), "line 2: .*'none'"),
        (HEADER_AND_ROW + HEADER_AND_ROW.splitlines()[1], "line 3 repeats a source of mixture 0"),
        (HEADER_AND_ROW.replace(",flute/", ',"flute'), "damaged"),
        (HEADER_AND_ROW.replace(",flute/", ',"flute"/'), "damaged, .* expected after"),
        (HEADER_AND_ROW + "1,1,a,a/a,much,1,1,1,1,1\n", "line 3: .*'much'"),
        ("\udcff\udcfe", "not UTF-8"),
    ],
)
def test_damaged_results(project: Project, text: str, reason: str) -> None:
    (project.folder / FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=reason) as error:
        compare("HEAD", "workspace", project.folder)
    assert one_line(error).startswith(str(project.folder / FILE))
    project.record()
    project.put(rows())
    with pytest.raises(UserError, match=reason) as error:
        compare("main", "workspace", project.folder)
    assert one_line(error).startswith(f"{FILE} of main (")


def test_results_are_a_folder(project: Project) -> None:
    (project.folder / FILE).unlink()
    (project.folder / FILE).mkdir()
    (project.folder / FILE / "file").touch()
    with pytest.raises(UserError, match="Is a directory"):
        compare("HEAD", "workspace", project.folder)
    project.record()
    with pytest.raises(UserError, match="cannot be read"):
        compare("HEAD", "HEAD~1", project.folder)


# Better, worse, or chance


def against_head(project: Project, results: list[Row] | str):
    project.put(results)
    return compare("HEAD", "workspace", project.folder)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.5, 1.0, BETTER),
        (-0.5, 1.0, WORSE),
        (0.1, 1.0, UNDECIDED),
        (-0.1, 1.0, UNDECIDED),
        (0.1, 0.0, BETTER),
        (-0.1, 0.0, WORSE),
    ],
)
def test_planted_difference(project: Project, mean: float, spread: float, verdict: str) -> None:
    planted = noise(spread, mean)
    result = against_head(project, shifted(rows(), planted))
    assert result.verdict == verdict
    assert (result.paired, result.mixtures) == (40, (40, 40))
    assert not result.notes
    assert set(result.measures) == set(COMPARED)
    before = {name: np.mean([row.values[name] for row in rows()]) for name in COMPARED}
    share = np.mean([planted(row) > 0 for row in rows()])
    for name, measured in result.measures.items():
        assert measured.mixtures == 40
        assert measured.a == pytest.approx(before[name], abs=1e-4)
        assert measured.b == pytest.approx(before[name] + mean, abs=1e-4)
        assert measured.difference.mean == pytest.approx(mean, abs=1e-4)
        assert measured.difference.low <= measured.difference.mean <= measured.difference.high
        # Two standard errors: the 8 dB between mixtures are no part of it.
        width = measured.difference.high - measured.difference.low
        assert width == pytest.approx(4 * spread / math.sqrt(40), rel=0.25, abs=1e-3)
        assert measured.better == pytest.approx(share)


def test_coverage_of_intervals(project: Project) -> None:
    """Intervals contain the planted difference about as often as they claim."""
    covered = 0
    # One measure and one category, for speed.
    base = [row._replace(category="cello") for row in rows()]
    for seed in range(40):
        rng = np.random.default_rng([3, seed])
        drawn = rng.normal(0.7, 1.5, 40)
        made = as_csv(shifted(base, lambda row, d=drawn: d[row.mixture]))
        lines = [",".join(line.split(",")[:5]) for line in made.splitlines()]
        result = against_head(project, "\n".join(lines))
        interval = result.measures["sdr"].difference
        covered += interval.low <= 0.7 <= interval.high
    assert covered >= 34


def test_swapped_revisions(project: Project) -> None:
    project.put(shifted(rows(), noise(1.0, 0.5)))
    forth = compare("HEAD", "workspace", project.folder)
    back = compare("workspace", "HEAD", project.folder)
    assert (forth.verdict, back.verdict) == (BETTER, WORSE)
    there, again = (c.measures["sdr"] for c in (forth, back))
    assert (there.a, there.b) == (again.b, again.a)
    assert there.difference.mean == -again.difference.mean
    assert there.difference.low == pytest.approx(-again.difference.high)


def test_order_of_rows_and_line_ends(project: Project) -> None:
    made = shifted(rows(), noise(1.0, 0.5))
    expected = against_head(project, made).as_dict()
    lines = as_csv(made).splitlines()
    mixed = [lines[0], *np.random.default_rng(0).permutation(lines[1:])]
    assert against_head(project, "\n".join(mixed)).as_dict() == expected
    assert against_head(project, "\ufeff" + "\r\n".join(lines) + "\r\n\r\n").as_dict() == expected
    reordered = [row[3::-1] + row[:3:-1] for row in (line.split(",") for line in lines)]
    assert (
        against_head(project, "\n".join(",".join(row) for row in reordered)).as_dict() == expected
    )


def test_videos_not_mixtures_are_the_samples(project: Project) -> None:
    """Ten videos in forty mixtures are no forty samples."""
    merit = np.random.default_rng(5).normal(0, 1, 10)
    of = [row.mixture % 10 for row in rows(sources=1)]
    base = [row._replace(video=f"a/{n}") for row, n in zip(rows(sources=1), of, strict=True)]
    project.record(base)
    sdr = against_head(project, shifted(base, lambda row: merit[of[row.mixture]])).measures["sdr"]
    assert (sdr.mixtures, sdr.independent) == (40, 10)
    width = sdr.difference.high - sdr.difference.low
    # 2.26 standard errors of ten samples, on each side.
    assert width == pytest.approx(2 * 2.26 * merit.std(ddof=1) / math.sqrt(10), rel=0.1)


def test_few_videos_in_many_mixtures_are_no_verdict(project: Project) -> None:
    names = [f"cello/{n}" for n in range(8)]
    made = [row._replace(video=names[(row.mixture + row.source * 3) % 8]) for row in rows()]
    project.record(made)
    result = against_head(project, shifted(made, noise(0.1, 1.0)))
    assert result.measures["sdr"].mixtures == 40
    assert result.measures["sdr"].independent < MIN_INDEPENDENT
    assert result.verdict == UNDECIDED
    assert result.measures["sdr"].difference.low is None
    text = comparison_text(result)
    assert "40 mixtures,\n3 of them without a common video, at least 6 are needed." in text
    assert "too few" in text
    json.dumps(result.as_dict(), allow_nan=False)


def test_silent_estimates_are_counted(project: Project) -> None:
    made = shifted(rows(), lambda row: 1)
    for row in made[:3]:
        row.values["sar"] = ""
    text = as_csv(made).splitlines()
    silent = [f"{line},{int(at < 3)}" for at, line in enumerate(text[1:])]
    result = against_head(project, "\n".join([f"{text[0]},silent", *silent]))
    assert result.silent_estimates == (None, 3)
    assert result.as_dict()["silent_estimates"] == {"a": None, "b": 3}
    assert "silent estimates: A unknown, B 3" in comparison_text(result)
    assert result.measures["sdr"].mixtures == 40
    assert "sar of 3 of 80 sources is left out: undefined" in result.notes[0]


def test_mixture_is_one_sample(tmp_path: Path) -> None:
    """Sources that share the luck of their mixture must not pass for independent ones."""
    widths = []
    for sources in (1, 4):
        made = Project(tmp_path / str(sources))
        made.record(rows(sources=sources), "seed: 1\n")
        result = against_head(made, shifted(rows(sources=sources), noise(1.0)))
        interval = result.measures["sdr"].difference
        widths.append(interval.high - interval.low)
    # Some of the videos are drawn twice.
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_opposite_sources_cancel(project: Project) -> None:
    result = against_head(project, shifted(rows(), lambda row: 3 if row.source == 1 else -3))
    assert result.verdict == SAME
    # They do not where a category is looked at alone.
    assert any(row.difference != (0, 0, 0) for row in result.category.values())


def test_equal_results(project: Project) -> None:
    result = against_head(project, rows())
    assert result.verdict == SAME
    assert result.measures["sdr"].difference == (0, 0, 0)
    assert result.measures["sdr"].better == 0
    assert not result.notes
    assert "A and B are the same" in comparison_text(result)
    assert "interval covers" not in comparison_text(result)
    project.put(params="seed: 1\ntrain:\n  epochs: 6\n")
    stale = compare("HEAD", "workspace", project.folder)
    assert stale.verdict == SAME
    assert any("has `dvc repro` run since?" in note for note in stale.notes)


@pytest.mark.parametrize("count", [1, 2, MIN_INDEPENDENT - 1])
def test_too_few_mixtures(tmp_path: Path, count: int) -> None:
    made = Project(tmp_path)
    made.record(rows(count), "seed: 1\n")
    result = against_head(made, shifted(rows(count), lambda row: 2 + row.mixture / 10))
    assert result.verdict == UNDECIDED
    assert result.measures["sdr"].difference.mean >= 2
    assert ("1 mixture," if count == 1 else f"{count} mixtures,") in comparison_text(result)
    assert "too few" in comparison_text(result)
    assert against_head(made, rows(count)).verdict == SAME


def test_fewest_mixtures_for_a_verdict(tmp_path: Path) -> None:
    made = Project(tmp_path)
    made.record(rows(MIN_INDEPENDENT), "seed: 1\n")
    better = shifted(rows(MIN_INDEPENDENT), lambda row: 2 + row.mixture / 10)
    assert against_head(made, better).verdict == BETTER
    # 2 sides x 2^-n, were both equally good.
    assert 2 * 0.5**MIN_INDEPENDENT < 0.05 < 2 * 0.5 ** (MIN_INDEPENDENT - 1)


def test_verdict_by_category(project: Project) -> None:
    planted = {"cello": 2.0, "flute": -2.0, "violin": 0.0}
    spread = noise(0.5)
    result = against_head(
        project,
        shifted(
            rows(),
            lambda row: planted[row.category] + (spread(row) if row.category != "violin" else 0),
        ),
    )
    assert list(result.category) == list(CATEGORIES)
    assert [row.verdict for row in result.category.values()] == [BETTER, WORSE, SAME]
    for name, measured in result.category.items():
        having = {row.mixture for row in rows() if row.category == name}
        assert measured.mixtures == len(having)
        assert measured.difference.mean == pytest.approx(planted[name], abs=0.3)


# What can be paired


def test_different_number_of_mixtures(project: Project) -> None:
    project.record(rows(60))
    result = against_head(project, shifted(rows(60)[:50], lambda row: 1))
    assert (result.paired, result.mixtures) == (25, (60, 25))
    assert result.measures["sdr"].difference.mean == pytest.approx(1)
    assert "25 mixtures compared, which both contain; A contains 60, B 25." in comparison_text(
        result
    )


def test_pairs_have_the_same_videos(project: Project) -> None:
    """A source beside another is another task, though the mixture's number is the same."""
    changed = shifted(rows(), lambda row: 1)
    for at in (0, 3, 4):  # mixtures 0, 1 and 2; of each, the other source is the same
        changed[at] = changed[at]._replace(video="cello/other", values=rows()[0].values)
    changed.append(changed[12]._replace(source=3))  # mixture 6 has one more
    result = against_head(project, changed)
    assert (result.paired, result.mixtures) == (36, (40, 40))
    assert result.measures["sdr"].difference == pytest.approx((1, 1, 1))


def test_different_mixtures(project: Project) -> None:
    project.put(rows(data=1), "seed: 1\nindex:\n  seed: 2\ntrain:\n  epochs: 6\n  seed: 2\n")
    with pytest.raises(UserError) as error:
        compare("HEAD", "workspace", project.folder)
    message = one_line(error)
    assert "none of 40 and 40 is of the same videos" in message
    assert re.search(r"\(index.seed: \S+ -> 2\)", message), message
    assert "train" not in message


def test_different_audio_of_the_same_videos(project: Project) -> None:
    changed = shifted(rows(), lambda row: 1)
    for row in changed[:8]:
        row.values["sdr_mixture"] += 0.75
    result = against_head(project, changed)
    assert result.verdict == BETTER
    assert "4 of 40 mixtures" in result.notes[0]
    assert "0.75 dB" in result.notes[0]
    assert "4 of 40 mixtures" in comparison_text(result)


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "inf", "-inf"])
def test_cells_without_a_number(project: Project, cell: str) -> None:
    made = shifted(rows(), lambda row: 1)
    made[0].values["sir"] = cell  # one source of mixture 0
    for row in made[2:6]:  # mixtures 1 and 2
        row.values["sdr"] = cell
    result = against_head(project, made)
    assert result.paired == 40
    assert result.measures["sir"].mixtures == 40
    assert result.measures["sdr"].mixtures == 38
    assert result.measures["sdr"].difference == pytest.approx((1, 1, 1))
    assert [note.split(" is left out")[0] for note in result.notes] == [
        "sdr of 4 of 80 sources",
        "sir of 1 of 80 sources",
    ]
    json.dumps(result.as_dict(), allow_nan=False)
    back = compare("workspace", "HEAD", project.folder)
    assert back.measures["sdr"].mixtures == 38
    assert back.notes == result.notes


def test_no_number_at_all(project: Project) -> None:
    made = rows()
    for row in made:
        row.values["sir"] = "nan"
    result = against_head(project, made)
    assert "sir" not in result.measures
    assert result.notes == ["sir is left out: no source has a value in both"]
    for row in made:
        row.values["sdr"] = ""
    with pytest.raises(UserError, match="HEAD and workspace: no mixture has sdr in both"):
        against_head(project, made)


def test_results_without_some_measures(project: Project) -> None:
    lines = [line.rsplit(",", 3)[0] for line in as_csv(rows()).splitlines()]
    result = against_head(project, "\n".join(lines))
    assert list(result.measures) == ["sdr", "sir", "sar"]
    assert len(result.notes) == 2


# What differs besides


def test_changed_params(project: Project) -> None:
    project.record(
        params="""
seed: 1
train:
  epochs: 5        # times
  rates: {sound: 1.0e-3, vision: 1.0e-3}
  steps: [40, 80]
  flag: true
  ema_decay: null
  name: "5"
  same: 1
  odd: .nan
  gone: 0.5
"""
    )
    project.put(
        params="""
seed: 1
new: {}
train:
  same: 1.0
  odd: .nan
  rates: {sound: 1.0e-3, vision: 3.0e-3}
  epochs: 7
  steps: [40]
  flag: 1
  name: 5
  ema_decay: 0.999
"""
    )
    changes = changed_params("HEAD", "workspace", project.folder)
    assert [change.as_text() for change in changes] == [
        "train.rates.vision: 0.001 -> 0.003",
        "train.epochs: 5 -> 7",
        "train.steps: [40, 80] -> [40]",
        "train.flag: true -> 1",
        'train.name: "5" -> 5',
        "train.ema_decay: null -> 0.999",
        "new: (absent) -> {}",
        "train.gone: 0.5 -> (absent)",
    ]
    assert changes[1].as_dict() == {"key": "train.epochs", "old": 5, "new": 7}
    assert changes[-2].as_dict() == {"key": "new", "new": {}}
    assert changes[-1].as_dict() == {"key": "train.gone", "old": 0.5}
    assert changed_params("HEAD", "HEAD", project.folder) == []


def test_section_becomes_a_value(project: Project) -> None:
    project.put(params="seed: 1\ntrain: null\n")
    assert [c.as_text() for c in changed_params("HEAD", "workspace", project.folder)] == [
        "train: (absent) -> null",
        "train.epochs: 5 -> (absent)",
    ]


def test_values_that_json_lacks(project: Project) -> None:
    project.put(params='seed: .inf\nday: 2020-01-02\ntext: "a\\nb"\nempty: ""\n')
    changes = changed_params("HEAD", "workspace", project.folder)
    texts = [change.as_text() for change in changes]
    assert texts[:4] == [
        'seed: 1 -> "inf"',
        "day: (absent) -> 2020-01-02",
        'text: (absent) -> "a\\nb"',
        'empty: (absent) -> ""',
    ]
    json.dumps([change.as_dict() for change in changes], allow_nan=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "invalid YAML, line 1"),
        ("a: 1\na: 2\n", "invalid YAML"),
        ("", "contains no parameters"),
        ("5", "contains no parameters"),
        ("!!python/object/apply:os.system ['touch stolen']", "invalid YAML"),
        (None, "not found"),
    ],
)
def test_unreadable_params(project: Project, text: str | None, reason: str) -> None:
    if text is None:
        (project.folder / "params.yaml").unlink()
    project.put(shifted(rows(), lambda row: 1), text)
    with pytest.raises(UserError, match=reason) as error:
        changed_params("HEAD", "workspace", project.folder)
    assert one_line(error).startswith(str(project.folder / "params.yaml"))
    result = compare("HEAD", "workspace", project.folder)
    assert result.verdict == BETTER
    assert result.params is None
    assert reason in result.notes[0]
    assert "No parameter differs" not in comparison_text(result)
    assert result.as_dict()["params"] is None
    project.record()
    with pytest.raises(UserError, match=rf"params.yaml of HEAD \(.*{reason}"):
        changed_params("HEAD", "HEAD~1", project.folder)


# What is shown


def test_text(project: Project) -> None:
    project.put(shifted(rows(), noise(1.0, 0.5)), params="seed: 1\ntrain:\n  epochs: 9\n")
    text = comparison_text(compare("HEAD", "workspace", project.folder))
    lines = text.splitlines()
    assert "B is better." in lines
    assert any(line.startswith("sdr +0.50 dB on average, 95 % interval +0.") for line in lines)
    assert "The interval covers the choice of videos, not the training seed." in lines
    assert "40 mixtures compared, the same in A and B." in lines
    assert "  train.epochs: 5 -> 9" in lines
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    header = next(at for at, line in enumerate(lines) if line.startswith("dB, means"))
    table = lines[header : header + 1 + len(COMPARED)]
    assert [line.split()[0] for line in table[1:]] == list(COMPARED)
    assert len({len(line) for line in table}) == 1
    header = next(at for at, line in enumerate(lines) if line.startswith("sdr  "))
    assert [line.split()[0] for line in lines if line.startswith(CATEGORIES)] == list(CATEGORIES)


@pytest.mark.parametrize(
    ("mean", "words"), [(0.1, "A and B: no significant difference."), (-0.5, "B is worse.")]
)
def test_verdict_in_text(project: Project, mean: float, words: str) -> None:
    assert (
        words
        in comparison_text(against_head(project, shifted(rows(), noise(1, mean)))).splitlines()
    )


def test_small_difference_keeps_its_sign(project: Project) -> None:
    text = comparison_text(against_head(project, shifted(rows(), lambda row: -0.001)))
    assert "B is worse.\nsdr -0.001 dB on average, 95 % interval -0.001 to -0.001." in text


def test_json(project: Project) -> None:
    project.put(shifted(rows(), noise(1.0, 0.5)), params="seed: 1\ntrain: {epochs: 9}\n")
    result = compare("HEAD", "workspace", project.folder)
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert values["a"] == {"name": "HEAD", "commit": project.head}
    assert values["b"] == {"name": "workspace", "commit": None}
    assert values["verdict"] == BETTER
    assert values["mixtures"] == {"paired": 40, "a": 40, "b": 40}
    sdr = values["measures"]["sdr"]
    assert sdr["difference"] == result.measures["sdr"].difference._asdict()
    assert sdr["b"] - sdr["a"] == pytest.approx(sdr["difference"]["mean"])
    assert list(values["category"]) == list(CATEGORIES)
    assert values["params"] == [{"key": "train.epochs", "old": 5, "new": 9}]
    assert values["notes"] == []


# With DVC


@pytest.mark.slow
def test_experiment_of_dvc(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "evaluate.py").write_text(
        "import re\n"
        "from pathlib import Path\n"
        "epochs = int(re.search(r'epochs: (\\d+)', Path('params.yaml').read_text())[1])\n"
        f"path = Path('{FILE}')\n"
        "lines = Path('base.csv').read_text().splitlines()\n"
        "cells = [line.split(',') for line in lines[1:]]\n"
        "for row in cells:\n"
        "    row[4] = str(float(row[4]) + epochs - 5)\n"
        "path.parent.mkdir(parents=True, exist_ok=True)\n"
        "path.write_text('\\n'.join([lines[0], *map(','.join, cells)]))\n"
    )
    (project.folder / "base.csv").write_text(as_csv(rows()))
    stage = {
        "cmd": f"{sys.executable} evaluate.py",
        "deps": ["evaluate.py", "base.csv"],
        "params": ["train.epochs"],
        "metrics": [{FILE: {"cache": False}}],
    }
    project.write({"dvc.yaml": json.dumps({"stages": {"evaluate": stage}})})
    project.write({".dvc/config": "[core]\n    analytics = false\n", ".gitignore": "/.dvc/tmp\n"})
    config = project.git.config
    config["user.name"], config["user.email"] = "test", "test@localhost"
    project.record()
    monkeypatch.chdir(project.folder)
    assert dvc(["exp", "run", "--quiet", "--name", "longer", "-S", "train.epochs=7"]) == 0
    result = compare("HEAD", "longer", project.folder)
    assert result.measures["sdr"].difference.mean == pytest.approx(2)
    assert result.params == [ParamChange("train.epochs", 5, 7)]
