from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from sop.dataset.index import Video
from sop.evaluate.measures import MEASURES
from sop.evaluate.records import evaluation_rule
from sop.evaluate.results import write_results, write_sounds
from sop.evaluate.validation import (
    Score,
    SeparatedMixture,
    SkippedMixture,
    separate_mixtures,
    table,
)
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from tests.support.experiment import with_values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
RATE = 11025
LENGTH = 512 * 31
# A step of 16 bits: half of it is rounding; full scale is 2^15 when read, 2^15 - 1 when written.
ROUNDING = 1.01 / 2**15


@pytest.fixture(scope="module")
def player(tiny_params: Params) -> PixelPlayer:
    player = build(tiny_params.model, tiny_params.spectrogram, seed=0).eval()
    torch.nn.init.constant_(player.synthesizer.bias, 0.5)
    return player


@pytest.fixture(scope="module")
def separations(
    player: PixelPlayer, tiny_videos: list[Video], tiny_params: Params, one_thread: None
) -> list[SeparatedMixture]:
    made = separate_mixtures(
        player, tiny_videos, tiny_params, 4, 1234, evaluation_rule(tiny_params), CPU
    )
    return [result for result in made if isinstance(result, SeparatedMixture)]


class Written:
    """The files of an evaluation."""

    def __init__(self, folder: Path, separations: list[Any], params: Params) -> None:
        self.sounds, self.plots = folder / "sounds", folder / "plots"
        self.scores = write_results(iter(separations), params, self.sounds, self.plots)

    def files(self) -> dict[str, bytes]:
        return {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in (self.sounds, self.plots)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
    separations: list[SeparatedMixture],
    tiny_params: Params,
) -> Written:
    unreadable = SkippedMixture(1, "a.wav: holds no sound")
    made = [separations[0], unreadable, *separations[2:]]
    return Written(tmp_path_factory.mktemp("written"), made, tiny_params)


def test_order_of_scores(written: Written, separations: list[SeparatedMixture]) -> None:
    assert [result.number for result in written.scores] == [0, 1, 2, 3]
    assert written.scores[1] == SkippedMixture(1, "a.wav: holds no sound")
    expected = separations[2].score()
    assert isinstance(expected, Score)
    for name in MEASURES:
        np.testing.assert_array_equal(written.scores[2].measures[name], expected.measures[name])


def test_written_files(written: Written, separations: list[SeparatedMixture]) -> None:
    first, second = (video.category for video in separations[0].videos)
    assert sorted(written.files()) == sorted(
        [
            "sounds/000/mixture.wav",
            *(f"sounds/000/1-{first}-{kind}.wav" for kind in ("true", "separated")),
            *(f"sounds/000/2-{second}-{kind}.wav" for kind in ("true", "separated")),
            *("plots/mixtures.csv", "plots/categories.csv"),
            *(f"sounds/records/{number:04d}.npz" for number in (0, 2, 3)),
        ]
    )


def test_written_sounds(tmp_path: Path, separations: list[SeparatedMixture]) -> None:
    result = separations[0]
    write_sounds(result, tmp_path, RATE)
    names = [f"{n}-{video.category}" for n, video in enumerate(result.videos, start=1)]
    arrays = {"mixture": result.mixture}
    for name, truth, estimate in zip(names, result.truth, result.estimates, strict=True):
        arrays |= {f"{name}-true": truth, f"{name}-separated": estimate}
    assert len(arrays) == 5
    for name, expected in arrays.items():
        sound, rate = soundfile.read(tmp_path / "000" / f"{name}.wav")
        assert rate == RATE
        assert sound.shape == (LENGTH,)
        np.testing.assert_allclose(sound, expected, atol=ROUNDING)
    assert np.abs(result.mixture).max() > 0.02


def test_loud_sound_is_clipped(tmp_path: Path, separations: list[SeparatedMixture]) -> None:
    loud = np.linspace(-2, 2, LENGTH).astype(np.float32)
    write_sounds(replace(separations[0], mixture=loud), tmp_path, RATE)
    sound, _ = soundfile.read(tmp_path / "000" / "mixture.wav")
    np.testing.assert_allclose(sound, loud.clip(-1, 1), atol=ROUNDING)


def test_tables(written: Written) -> None:
    rows = pd.read_csv(written.plots / "mixtures.csv")
    assert rows["mixture"].tolist() == [0, 0, 2, 2, 3, 3]
    assert rows["source"].tolist() == [1, 2] * 3
    measured = [result for result in written.scores if isinstance(result, Score)]
    for name in MEASURES:
        expected = np.concatenate([result.measures[name] for result in measured])
        np.testing.assert_allclose(rows[name], expected, atol=1e-4)
    videos = [video for result in measured for video in result.videos]
    assert rows["video"].tolist() == [f"{v.category}/{v.audio.stem}" for v in videos]
    categories = pd.read_csv(written.plots / "categories.csv")
    assert categories["category"].tolist() == sorted({video.category for video in videos})
    for row in categories.itertuples():
        own = rows[rows["category"] == row.category]
        assert row.sdr == pytest.approx(own["sdr"].mean(), abs=1e-3)
        assert row.sir == pytest.approx(own["sir"].mean(), abs=1e-3)


def test_results_are_reproducible(
    tmp_path: Path, written: Written, separations: list[SeparatedMixture], tiny_params: Params
) -> None:
    unreadable = SkippedMixture(1, "a.wav: holds no sound")
    again = [separations[0], unreadable, *separations[2:]]
    assert Written(tmp_path / "again", again, tiny_params).files() == written.files()


def test_no_shown_mixtures(
    tmp_path: Path, separations: list[SeparatedMixture], tiny_params: Params
) -> None:
    params = with_values(tiny_params, {"evaluate.shown": 0})
    written = Written(tmp_path, separations, params)
    files = [name for name in written.files() if not name.startswith("sounds/records/")]
    assert sorted(files) == ["plots/categories.csv", "plots/mixtures.csv"]


def test_shown_mixture_without_a_score(
    tmp_path: Path, separations: list[SeparatedMixture], tiny_params: Params
) -> None:
    silent = replace(separations[0], sources=np.zeros_like(separations[0].sources))
    written = Written(tmp_path, [silent], tiny_params)
    assert isinstance(written.scores[0], SkippedMixture)
    files = written.files()
    assert "sounds/000/mixture.wav" in files
    assert pd.read_csv(written.plots / "mixtures.csv").empty


def test_mixture_of_silent_estimates(
    tmp_path: Path, separations: list[SeparatedMixture], tiny_params: Params
) -> None:
    silent = replace(separations[0], estimates=np.zeros_like(separations[0].estimates))
    written = Written(tmp_path, [silent, separations[2]], tiny_params)
    assert "sounds/000/mixture.wav" in written.files()
    rows = pd.read_csv(written.plots / "mixtures.csv")
    assert rows["silent"].tolist() == [1, 1, 0, 0]
    assert rows["sar"].isna().tolist() == [True, True, False, False]
    assert (rows["sdr"][:2] <= 0).all()
    categories = pd.read_csv(written.plots / "categories.csv")
    assert categories["silent"].sum() == 2


def test_empty_table() -> None:
    names = ["mixture", "source", "category", "video"]
    assert list(table([]).columns) == [*names, *MEASURES, "silent"]
    assert table([]).empty
