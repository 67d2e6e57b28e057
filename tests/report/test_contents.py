"""What the report gathers of a run: of a whole one, of none, and of one that failed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from sop.dataset.clips import read_audio
from sop.dataset.index import DUETS, VALIDATION, Video, write_index
from sop.dataset.index import Index as SplitIndex
from sop.denoise.results import denoise_summary, write_denoised
from sop.denoise.selection import denoise
from sop.evaluate.records import read_record, record_paths
from sop.evaluate.results import write_results
from sop.evaluate.validation import evaluation_summary, separate_mixtures
from sop.model.checkpoint import save_player
from sop.model.pixelplayer import build
from sop.params import Params
from sop.report.contents import _meanings, write_report
from sop.report.mixture_files import clip_begin, ideal_masks
from sop.runtime.files import write_json
from tests.support.experiment import with_values

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
    """What the stages leave, made by the same functions, of a model that learnt nothing."""
    root = tmp_path_factory.mktemp("run")
    player = build(params.model, params.spectrogram, seed=0).eval()
    torch.nn.init.constant_(player.synthesizer.bias, 0.5)
    save_player(root / "data/model/last.pt", player, params, step=1)
    made = separate_mixtures(player, tiny_videos, params, 5, 0.5, CPU)
    scores = write_results(made, player, params, root / "data/evaluate", root / "metrics/evaluate")
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


def test_every_source_is_listed_with_its_measures(page: Path, root: Path) -> None:
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


def test_shown_mixtures_can_be_heard_and_seen(page: Path, root: Path, params: Params) -> None:
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


def test_masks_have_the_lowest_frequency_at_the_bottom(page: Path, root: Path, params) -> None:
    record = read_record(record_paths(root / "data/evaluate")[0])
    ideal = ideal_masks(record, params)["binary"][0]
    pixels = np.asarray(Image.open(page.parent / "mixtures/000/1-true-mask.png").convert("L"))
    bright = pixels > (int(pixels.min()) + int(pixels.max())) / 2
    np.testing.assert_array_equal(bright[::-1], ideal > 0.5)


def test_one_mixture_has_a_player_and_only_one(page: Path) -> None:
    players = list(page.parent.rglob("player/index.html"))
    assert len(players) == 1
    assert (players[0].parent / "video.mp4").is_file()
    assert not list(page.parent.rglob("*.wav"))


def test_the_video_begins_where_the_evaluated_sound_does(
    root: Path, params: Params, tiny_videos: list[Video]
) -> None:
    """The sound read from that second on is the one that was mixed."""
    record = read_record(record_paths(root / "data/evaluate")[0])
    video = next(one for one in tiny_videos if one.name == record.videos[0])
    begin, rate = clip_begin(video, params), params.extract.sample_rate
    samples = params.mixture.audio_samples
    sound = read_audio(video.audio, begin + samples / 2 / rate, samples, rate)
    np.testing.assert_allclose(record.sources[0], sound / 2, atol=1e-3)


def test_nothing_of_a_run_before_stays(page: Path, root: Path, params: Params) -> None:
    reported(root, with_values(params, {"evaluate.shown": 1}))
    assert [path.name for path in (page.parent / "mixtures").iterdir()] == ["000"]
    reported(root, params)


def test_ideal_masks_are_the_upper_end_of_the_scale(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in ("Nothing done", "Model", "Ideal binary masks", "Ideal ratio masks"):
        assert name in text
    with Image.open(page.parents[2] / "metrics/report/scale.png") as twin:
        assert twin.width > 600


def test_a_run_of_nothing_says_so(tmp_path: Path, params: Params) -> None:
    text = reported(tmp_path, params).read_text(encoding="utf-8")
    for reason in (
        "Nothing was evaluated yet",
        "Nothing was trained yet",
        "Nothing was denoised yet",
        "The stage `download` has not run",
    ):
        assert reason in text


def test_a_run_whose_training_failed_says_why(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(Path("data/notes/train.json"), {"error": "the loss is <not> finite"})
    text = reported(tmp_path, params).read_text(encoding="utf-8")
    assert "The stage train failed: the loss is &lt;not&gt; finite" in text


@pytest.mark.parametrize(
    "name",
    [
        "metrics/details/evaluate.json",
        "metrics/details/denoise.json",
        "metrics/evaluate/mixtures.csv",
    ],
)
def test_a_damaged_file_is_as_good_as_none(
    root: Path, params: Params, tmp_path: Path, name: str
) -> None:
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    (tmp_path / name).write_text("\0")
    text = reported(tmp_path, with_values(params, {"evaluate.shown": 0})).read_text("utf-8")
    missing = "Nothing was denoised yet" if "denoise" in name else "Nothing was evaluated yet"
    assert missing in text


def test_meanings_are_the_comments_of_params_yaml() -> None:
    text = "seed: 1  # all of it\na:   # a section\n  b: [1, 2]   # of b\n  c: x\n# a line\n"
    assert _meanings(text) == {"seed": "all of it", "a": "a section", "a.b": "of b"}
