import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sop
from sop.inference import separator as module
from sop.inference.localization import Localization, Region, regions_at
from sop.inference.separator import Separator
from sop.model.checkpoint import save_player
from sop.model.spectrogram import stft_power
from sop.params import Params
from sop.runtime.errors import UserError
from sop.separate import api
from tests.support.experiment import ROOT, with_values
from tests.support.planted import (
    COLUMNS,
    HIGH_CELLS,
    HIGH_HZ,
    LOW_CELLS,
    LOW_HZ,
    RATE,
    ROWS,
    ArrayRecording,
    plant_noise,
    separator_of,
    tone,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def duet(seconds: float) -> ArrayRecording:
    return ArrayRecording(tone(LOW_HZ, seconds) + tone(HIGH_HZ, seconds, level=0.1))


def test_segments_cover_the_recording_once(planted: Separator) -> None:
    recording = duet(41.3)
    at = 0
    for first, embedding in planted.segments(recording):
        assert first == at
        windows, frames = embedding.crossfade.shape
        np.testing.assert_allclose(embedding.crossfade.sum(axis=0), 1, atol=1e-6)
        assert embedding.cells.shape == (windows, ROWS, COLUMNS, planted.params.model.channels)
        assert embedding.components.shape[2] == frames
        assert 1 + len(embedding.audio) // 512 == frames
        at += frames
    assert at == planted.frames(recording)
    assert (at - 1) * 512 >= recording.samples > (at - 2) * 512


def test_progress_needs_a_name(planted: Separator, capsys: pytest.CaptureFixture[str]) -> None:
    list(planted.segments(duet(2.0)))
    assert capsys.readouterr().out == ""
    list(planted.segments(duet(2.0), "localizing"))
    assert capsys.readouterr().out.startswith("localizing: 1/1 segment,")


def test_segments_do_not_change_the_masks(
    planted_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = plant_noise(separator_of(planted_params))
    recording = ArrayRecording(np.random.default_rng(0).uniform(-0.5, 0.5, 30 * RATE))
    regions = tuple(regions_at([(0.1, 0.1), (0.9, 0.9)], (ROWS, COLUMNS)))
    found = []
    for windows in (4, 16):
        monkeypatch.setattr(module, "SEGMENT_WINDOWS", windows)
        segments = list(separator.segments(recording))
        assert len(segments) > (1 if windows == 16 else 5)
        where = separator.localize(recording)
        cut = [separator.region_masks(embedding, regions) for _, embedding in segments]
        found.append((np.concatenate(cut, axis=2), where.energy))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


def test_power_of_a_segment(planted: Separator) -> None:
    recording = ArrayRecording(np.random.default_rng(0).uniform(-0.5, 0.5, 512 * 99))
    whole = stft_power(recording.sound(0, recording.samples), planted.params.spectrogram)
    np.testing.assert_allclose(planted.power(recording, 40, 20), whole[:, 40:60], rtol=1e-3)
    np.testing.assert_allclose(planted.power(recording, 0, 100), whole, rtol=1e-3)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 5.0])
def test_localize_any_length(planted: Separator, seconds: float) -> None:
    low, high = planted.localize(duet(seconds)).regions
    expected = np.zeros((2, ROWS, COLUMNS), bool)
    expected[(0, *LOW_CELLS)] = expected[(1, *HIGH_CELLS)] = True
    np.testing.assert_array_equal(low.cells, expected[0])
    np.testing.assert_array_equal(high.cells, expected[1])
    assert low.energy == pytest.approx(0.8, abs=0.03)
    assert high.energy == pytest.approx(0.2, abs=0.03)


def test_features_of_one_cell(planted_params: Params) -> None:
    attentive = with_values(planted_params, {"model.image_pooling": "attention"})
    separator = plant_noise(separator_of(attentive))
    recording = duet(3.0)
    embedding = separator.embed(recording, 0, 40)
    (region,) = regions_at([(0.3, 0.9)], (ROWS, COLUMNS))
    features = separator.features(embedding, region)
    np.testing.assert_allclose(features, embedding.cells[:, region.cells][:, 0], rtol=1e-6)


@pytest.mark.parametrize("pooling", ["maxpool", "avgpool", "attention"])
def test_features_are_pooled_over_the_recording(
    planted_params: Params, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = plant_noise(
        separator_of(with_values(planted_params, {"model.image_pooling": pooling}))
    )
    recording = duet(8.0)
    whole = separator.embed(recording, 0, separator.frames(recording))
    monkeypatch.setattr(module, "SEGMENT_WINDOWS", 2)
    region, *_ = separator.localize(recording, 1).regions
    cells = whole.cells[:, region.cells].astype(np.float64)
    weights = np.broadcast_to(whole.crossfade.sum(axis=1)[:, None], cells.shape[:2])
    if pooling == "attention":
        weights = weights * np.exp(cells.max(axis=2))
    expected = np.average(cells.reshape(-1, cells.shape[2]), axis=0, weights=weights.ravel())
    if pooling == "maxpool":
        expected = cells.max(axis=(0, 1))
    features = separator.features(whole, region)
    assert features.shape == (len(whole.cells), cells.shape[2])
    for window in features:
        np.testing.assert_allclose(window, expected, rtol=1e-5)


def test_real_networks(planted_params: Params) -> None:
    separator = separator_of(with_values(planted_params, {"spectrogram.log_frequency": True}))
    embedding = separator.embed(duet(3.0), 0, 30)
    assert embedding.components.shape == (planted_params.model.channels, 256, 30)
    _, height, width, channels = embedding.cells.shape
    assert width == 2 * height
    assert channels == planted_params.model.channels
    assert np.isfinite(embedding.components).all()
    weights = embedding.weights(embedding.cells)
    assert 0 <= weights.min() < weights.max() <= 1


def test_load(tmp_path: Path, planted_params: Params) -> None:
    made = separator_of(planted_params)
    save_player(tmp_path / "model.pt", made.player, planted_params, step=0)
    loaded = Separator.load(tmp_path / "model.pt", "cpu")
    assert loaded.params.for_inference() == planted_params.for_inference()
    assert not loaded.player.training
    with pytest.raises(UserError, match=r"none\.pt: no such checkpoint"):
        Separator.load(tmp_path / "none.pt")


def test_import_of_sop_is_cheap() -> None:
    code = "import sys, sop; print('torch' in sys.modules, hasattr(sop, 'nonsense'))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "False False\n"


def test_public_names() -> None:
    assert (sop.Separator, sop.Separation) == (api.Separator, api.Separation)
    assert (sop.Localization, sop.Region) == (Localization, Region)
