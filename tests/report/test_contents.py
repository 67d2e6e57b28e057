"""The report of a complete run, of no run, and of one that failed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from dvc.repo import Repo
from PIL import Image

from sop.dataset.clips import read_audio
from sop.dataset.index import DUETS, VALIDATION, Video, write_index
from sop.dataset.index import Index as SplitIndex
from sop.denoise.results import denoise_summary, write_denoised
from sop.denoise.selection import denoise
from sop.evaluate.records import evaluation_rule, read_record, record_paths
from sop.evaluate.results import write_results
from sop.evaluate.validation import evaluation_summary, separate_mixtures
from sop.model.checkpoint import save_player
from sop.model.pixelplayer import build
from sop.model.spectrogram import network_magnitude, stft
from sop.params import Params
from sop.report.contents import RUN_PAGE, write_report
from sop.report.mixture_files import clip_begin, ideal_masks, picture_axes
from sop.report.page import Parameter, ParameterTable, Table
from sop.report.revisions import describe_head
from sop.report.sections.changes import comparison_section, parameter_section
from sop.report.sections.evaluation import localization_section, read_evaluation
from sop.report.sections.run import data_section, timing_section
from sop.runtime.files import write_json
from sop.runtime.hashes import sha256
from sop.runtime.stage import host_name, timestamp
from tests.support.experiment import ROOT, with_values
from tests.support.repository import Repository

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    values = {
        "evaluate.mixtures": 5,
        "evaluate.shown": 3,
        "report.players": 1,
        "denoise.taps": [4],
        "denoise.tuning_fraction": 0.5,
        "denoise.mask_powers": [2.0],
        "model.vision_width": 8,
    }
    return with_values(tiny_params, values)


@pytest.fixture(scope="module")
def root(
    tiny_videos: list[Video], params: Params, tmp_path_factory: pytest.TempPathFactory, one_thread
) -> Path:
    """What the stages write, made by the same functions, with an untrained model."""
    root = tmp_path_factory.mktemp("run")
    player = build(params.model, params.spectrogram, seed=0).eval()
    torch.nn.init.constant_(player.synthesizer.bias, 0.5)
    save_player(root / "data/model/last.pt", player, params, step=1)
    made = separate_mixtures(player, tiny_videos, params, 5, 1234, evaluation_rule(params), CPU)
    scores = write_results(made, params, root / "data/evaluate", root / "metrics/evaluate")
    write_json(root / "metrics/details/evaluate.json", evaluation_summary(scores))
    records = record_paths(root / "data/evaluate")
    denoised = denoise(records, params)
    write_denoised(denoised, records, params, root / "data/denoise", root / "metrics/denoise")
    write_json(root / "metrics/details/denoise.json", denoise_summary(denoised))
    index = SplitIndex((), tuple(tiny_videos), (), {})
    write_index(index, root / "data/index")
    assert {VALIDATION, DUETS} <= {path.name for path in (root / "data/index").iterdir()}
    folder = tiny_videos[0].audio.parents[2] / "videos"
    shutil.copytree(folder, root / "data/videos")
    write_json(
        root / "metrics/details/download.json",
        {
            "source": "synthetic",
            "hours": 0.1,
            "bytes": 12345,
            "category": {"flute": {"done": 2, "unavailable": 1, "failed": 0}},
        },
    )
    repository = Repository(root)
    repository.write({".gitignore": "/data\n", "params.yaml": "seed: 1\n"})
    repository.commit()
    repository.write({"params.yaml": "seed: 2\n"})
    return root


def reported(root: Path, params: Params) -> Path:
    return write_report(root, root / "data/report", root / "metrics/report", params)


@pytest.fixture(scope="module")
def page(root: Path, params: Params) -> Path:
    return reported(root, params)


def contents(page: Path) -> dict:
    """What the page's script reads."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.slow
def test_sources_and_measures(page: Path, root: Path) -> None:
    scores = pd.read_csv(root / "metrics/evaluate/mixtures.csv")
    listed = contents(page)
    column = [name for name, _ in listed["measures"]].index("sdr")
    found = [
        source["measures"][column]
        for mixture in listed["mixtures"]
        for source in mixture["sources"]
    ]
    np.testing.assert_allclose(sorted(found), sorted(scores.sdr), atol=1e-3)
    assert [mixture["shown"] for mixture in listed["mixtures"]] == [True] * 3 + [False] * 2


@pytest.mark.slow
def test_headings_are_those_of_the_documentation(page: Path) -> None:
    text = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", text, re.MULTILINE)
    documented = {name.lower(): heading for name, heading in rows}
    for written in (page, page.with_name(RUN_PAGE)):
        headings = re.findall(
            r'<h2 id="(\w+)-title">([^<]+)</h2>', written.read_text(encoding="utf-8")
        )
        assert len(headings) > 3
        for name, heading in headings:
            assert documented[name] == heading


@pytest.mark.slow
def test_files_of_shown_mixtures(page: Path, root: Path, params: Params) -> None:
    record = read_record(record_paths(root / "data/evaluate")[0])
    folder = page.parent / "mixtures" / "000"
    names = {path.name for path in folder.iterdir()}
    for n in (1, 2):
        assert {
            f"{n}-true.flac",
            f"{n}-separated.flac",
            f"{n}-heat.png",
            f"{n}-mask.png",
            f"{n}-true-mask.png",
            f"{n}-true-spectrogram.png",
            f"{n}-video.mp4",
        } <= names
    sound, rate = soundfile.read(folder / "2-true.flac", dtype="float32")
    assert rate == params.extract.sample_rate
    np.testing.assert_allclose(sound, record.truth(params)[1], atol=1e-4)
    with Image.open(folder / "1-mask.png") as mask:
        assert mask.size == (32, 256)


@pytest.mark.slow
def test_lowest_frequency_is_at_the_bottom(page: Path, root: Path, params) -> None:
    record = read_record(record_paths(root / "data/evaluate")[0])
    ideal = ideal_masks(record, params)["binary"][0]
    pixels = np.asarray(Image.open(page.parent / "mixtures/000/1-true-mask.png").convert("L"))
    bright = pixels > (int(pixels.min()) + int(pixels.max())) / 2
    np.testing.assert_array_equal(bright[::-1], ideal > 0.5)


@pytest.mark.parametrize("log", [True, False])
def test_axes_are_those_of_the_pictures(params: Params, log: bool) -> None:
    """A tone and a click are where the axes say."""
    params = with_values(params, {"spectrogram.log_frequency": log})
    rate, samples = params.extract.sample_rate, params.mixture.audio_samples
    axes = picture_axes(params)
    assert len(axes.hertz) > 2 and len(axes.seconds) > 2
    begin, end = axes.edges
    for share, name in axes.hertz:
        number, unit = name.split()
        hertz = float(number) * (1000 if unit == "kHz" else 1)
        tone = np.sin(2 * np.pi * hertz * np.arange(samples) / rate)
        spectrum = stft(torch.from_numpy(tone).float(), params.spectrogram)
        rows = network_magnitude(spectrum, params.spectrogram).mean(dim=-1)
        assert share == pytest.approx((float(rows.argmax()) + 0.5) / len(rows), abs=0.015)
    for share, name in axes.seconds[1:]:
        second = float(name.removesuffix(" s"))
        click = torch.zeros(samples)
        click[round(second * rate)] = 1
        spectrum = stft(click, params.spectrogram).abs().sum(dim=0)
        assert share == pytest.approx((float(spectrum.argmax()) + 0.5) / len(spectrum), abs=0.025)
        assert share == pytest.approx((second - begin) / (end - begin), abs=1e-3)


@pytest.mark.slow
def test_number_of_players(page: Path) -> None:
    players = list(page.parent.rglob("player/index.html"))
    assert len(players) == 1
    assert (players[0].parent / "video.mp4").is_file()
    assert not list(page.parent.rglob("*.wav"))


@pytest.mark.slow
def test_begin_of_the_video(root: Path, params: Params, tiny_videos: list[Video]) -> None:
    """The sound from that second on is the evaluated one."""
    record = read_record(record_paths(root / "data/evaluate")[0])
    video = next(one for one in tiny_videos if one.name == record.videos[0])
    begin, rate = clip_begin(video, params), params.extract.sample_rate
    samples = params.mixture.audio_samples
    sound = read_audio(video.audio, begin + samples / 2 / rate, samples, rate)
    np.testing.assert_allclose(record.sources[0], sound / 2, atol=1e-3)


@pytest.mark.slow
def test_steps_of_the_scale(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in ("Mixture", "Model", "Ideal binary masks", "Ideal ratio masks"):
        assert name in text
    with Image.open(page.parents[2] / "metrics/report/scale.png") as twin:
        assert twin.width > 600
    with Image.open(page.parents[2] / "metrics/report/example.png") as example:
        assert example.size == (1040, 496)


@pytest.mark.slow
def test_origin_of_the_page(page: Path, root: Path) -> None:
    text = (page.parent / RUN_PAGE).read_text(encoding="utf-8")
    head = f"commit {Repository(root).head[:7]} (branch main)"
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    written = re.search(rf"Written on ({time}) on host (.+), from (.+)\.<", text)
    assert written
    assert written[2] == host_name()
    assert written[3] == f"{head}, with uncommitted changes"
    assert f"Compared with {head}, when this report was written on {written[1]}: " in text
    assert f"Host {host_name()}, which wrote this report on {written[1]}" in text
    assert f"Only the 1 that differs from {head}" in text
    assert "this machine" not in text.lower()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


@pytest.mark.slow
def test_only_the_page_on_the_run_changes_with_it(
    page: Path, root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = (page.parent, root / "metrics/report")
    before = [digests(folder) for folder in outputs]
    # Another commit, and other times of the stages.
    repository = Repository(root)
    repository.write({"params.yaml": "seed: 3\n"})
    repository.commit()
    monkeypatch.chdir(root)
    write_json(Path("data/notes/train.json"), {"seconds": 2.5, "ended": "2026-11-27 10:12 UTC"})
    reported(root, params)
    after = [digests(folder) for folder in outputs]
    runs = [found.pop(RUN_PAGE) for found in (before[0], after[0])]
    assert runs[0] != runs[1]
    assert before == after
    text = page.read_text("utf-8")
    for varying in (host_name(), timestamp()[:10], Repository(root).head[:7], str(root)):
        assert varying not in text
    assert Repo(str(ROOT)).dvcignore.is_ignored_file(str(ROOT / "data/report" / RUN_PAGE))


@pytest.mark.slow
def test_comparison_with_a_commit(root: Path) -> None:
    section = comparison_section(root, "commit X", "a day")
    lead, table = section.blocks
    assert lead.text.startswith("Compared with commit X, when this report was written on a day: ")
    assert lead.text.endswith("the results are the same.")
    commit = Repository(root).head[:7]
    assert [column.name for column in table.columns][1:3] == ["This report", commit]


def test_comparison_without_git(tmp_path: Path) -> None:
    assert describe_head(tmp_path) == ("no commit", False)
    section = comparison_section(tmp_path, "no commit", "a day")
    assert not section.blocks
    assert section.empty.startswith("Not compared with no commit: HEAD: cannot be looked up")
    assert parameter_section(tmp_path, "no commit").empty == "params.yaml cannot be read."
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (table,) = parameter_section(tmp_path, "no commit").blocks
    assert table.against == "no commit, which has no readable params.yaml"


def test_changed_parameters(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.write({"params.yaml": "seed: 1  # all\na:   # a section\n  b: 1\n  d: ''\n"})
    repository.commit()
    text = "seed: 1  # all of it\na:   # a section\n  b: [1, 2]   # of b\n  c: x\n# a line\n"
    repository.write({"params.yaml": text})
    (table,) = parameter_section(tmp_path, "commit X").blocks
    items = [
        Parameter("seed", "1", None, "all of it"),
        Parameter("a.b", "[1, 2]", "1", "of b"),
        Parameter("a.c", "x", "", ""),
        Parameter("a.d", "", '""', ""),
    ]
    assert table == ParameterTable(items, "commit X")


def test_times_have_a_host_and_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    note = {"seconds": 2.5, "peak_mib": 10, "ended": "2026-11-27 10:12 UTC", "error": ""}
    write_json(Path("data/notes/train.json"), note | {"host": "elsewhere"})
    write_json(Path("data/notes/evaluate.json"), note)
    stages, machine = timing_section("a day").blocks
    assert stages.rows == [
        ["train", 2.5, 10 * 2**20, "2026-11-27 10:12 UTC", "on host elsewhere"],
        ["evaluate", 2.5, 10 * 2**20, "2026-11-27 10:12 UTC", "on an unknown host"],
    ]
    assert machine.title == f"Host {host_name()}, which wrote this report on a day"


def test_run_of_nothing(tmp_path: Path, params: Params) -> None:
    stale = tmp_path / "data/report/mixtures/007/1-true.flac"
    stale.parent.mkdir(parents=True)
    stale.touch()
    text = reported(tmp_path, params).read_text(encoding="utf-8")
    for stage in ("evaluate", "train", "localize", "denoise", "download"):
        assert f"The stage `{stage}` has not run." in text
    assert not stale.exists()
    # How good it is, how it sounds, whether it became better, and where it fails come first.
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections[:4] == ["result", "mixtures", "changes", "failures"]
    assert f'<a href="{RUN_PAGE}#comparison">' in text


def test_run_whose_training_failed(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    note = {"ended": "2026-11-27 10:12 UTC", "host": "elsewhere"}
    write_json(Path("data/notes/train.json"), note | {"error": "the loss is <not> finite"})
    text = reported(tmp_path, params).read_text(encoding="utf-8")
    failure = "The stage train failed (2026-11-27 10:12 UTC, on host elsewhere): "
    assert f"{failure}the loss is &lt;not&gt; finite. Its results" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["details/evaluate.json", "evaluate/mixtures.csv"])
def test_damaged_evaluation(root: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    (tmp_path / "data").symlink_to(root / "data")
    assert read_evaluation(tmp_path) is not None
    (tmp_path / "metrics" / name).write_text("\0")
    assert read_evaluation(tmp_path) is None


@pytest.mark.slow
def test_nothing_is_held_out(root: Path, params: Params, tmp_path: Path) -> None:
    """With few videos all mixtures may have one in common, so that no table has a row."""
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/evaluate").symlink_to(root / "data/evaluate")
    table = tmp_path / "metrics/denoise/held_out.csv"
    table.write_text(table.read_text().partition("\n")[0] + "\n")
    page = reported(tmp_path, params)
    assert len(contents(page)["mixtures"]) == 5
    assert "Means in dB over 5 mixtures." in page.read_text("utf-8")


@pytest.mark.slow
def test_damaged_denoise_metrics(root: Path, params: Params, tmp_path: Path) -> None:
    shutil.copytree(root / "metrics/denoise", tmp_path / "metrics/denoise")
    (tmp_path / "metrics/details").mkdir()
    (tmp_path / "metrics/details/denoise.json").write_text("\0")
    text = reported(tmp_path, params).read_text("utf-8")
    assert "The stage `denoise` has not run." in text


def test_duets_that_are_kept_out_are_counted(tmp_path: Path) -> None:
    done = {"done": 2, "unavailable": 0, "failed": 0}
    values = {
        "download": {
            "source": "music",
            "hours": 0.1,
            "bytes": 100,
            "category": {"flute": done, "flute_tuba": done},
        },
        "extract": {"category": {"flute": 2, "flute_tuba": 2}},
        "index": {
            "category": {
                "train": {"flute": 1},
                "validation": {"flute": 1},
                "duets": {"flute_tuba": 2},
            }
        },
    }
    for name, found in values.items():
        write_json(tmp_path / f"metrics/details/{name}.json", found)
    used, duets = data_section(tmp_path).blocks
    assert [column.name for column in used.columns][-2:] == ["training", "validation"]
    assert [row[-2:] for row in used.rows] == [[1, 1], [1, 1]]
    assert [column.name for column in duets.columns][-2:] == ["extracted", "kept out"]
    assert [row[-2:] for row in duets.rows] == [[2, 2], [2, 2]]


def test_videos_that_are_left_out_have_their_reason(tmp_path: Path) -> None:
    found = {
        "source": "local",
        "hours": 0.1,
        "bytes": 100,
        "category": {"flute": {"done": 1, "unavailable": 1, "failed": 1}},
        "unavailable": {"count": 1, "reasons": {"videos/flute/a.mp4": "contains no sound"}},
        "failed": {"count": 1, "reasons": {"videos/flute/b.mp4": "took longer than 1 s"}},
    }
    write_json(tmp_path / "metrics/details/download.json", found)
    _, gone, failed = data_section(tmp_path).blocks
    assert gone.rows == [("videos/flute/a.mp4", "contains no sound")]
    assert failed.rows == [("videos/flute/b.mp4", "took longer than 1 s")]


def test_table_of_localization_has_the_kinds_that_were_measured() -> None:
    kinds = ("silent", "solo", "distractor", "duet")
    found = {
        "scenes": dict.fromkeys(kinds, 30),
        "regions_right": dict.fromkeys(kinds, 0.5),
        "pointing": {"solo": 1.0, "duet": 0.8},
        "pointing_by_sound": {"solo": 1.0},
        "overlap": {"above_0.3": 0.7, "above_0.5": 0.39},
        "duets": {"sdr": 6.0, "sdr_improvement": 5.9},
    }
    found["scenes"]["trio"] = 0
    basic, _, sounds = tables_of(found)
    assert [column.name for column in basic.columns[1:]] == [f"{kind} (30)" for kind in kinds]
    assert len(basic.rows) == 3
    assert sounds.title == "Sounds of regions in duets"
    more = found | {
        "scenes": found["scenes"] | {"same_duet": 20, "unheard_same": 20},
        "who_is_heard": {"unheard_same": 0.9},
        "same_duets": {"sdr": 5.0, "sdr_improvement": 4.9},
    }
    basic, _, _, sounds = tables_of(more)
    assert [column.name for column in basic.columns[-2:]] == ["same_duet (20)", "unheard_same (20)"]
    assert list(basic.rows[-1][1:]) == [None, None, None, None, None, 0.9]
    assert sounds.title == "Sounds of regions in duets of one instrument"
    assert [row[1] for row in sounds.rows] == [5.0, 4.9]


def test_boxes_of_players_whose_order_is_known() -> None:
    found = {
        "scenes": {"silent": 0, "solo": 0, "duet": 10},
        "regions_right": {"duet": 0.8},
        "overlap": {"above_0.3": 0.7, "above_0.5": 0.39},
    }
    basic, _, note = localization_section(found, has_strips=True).blocks
    assert [column.name for column in basic.columns[1:]] == ["duet (10)"]
    assert "overlap with regions says nothing" in note.text


def tables_of(found: dict[str, Any]) -> list[Table]:
    return [block for block in localization_section(found).blocks if isinstance(block, Table)]
