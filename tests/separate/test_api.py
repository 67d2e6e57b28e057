"""The Python API: the same as the command line, and arrays like files."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sop
from sop.cli.main import main
from sop.download.synthetic import plan, render
from sop.inference.separator import Separator as Model
from sop.media.binary import binary
from sop.model.checkpoint import save_player
from sop.params import Params
from sop.runtime.errors import UserError
from tests.support.experiment import with_values
from tests.support.planted import (
    COLUMNS,
    HIGH_HZ,
    LOW_HZ,
    RATE,
    ROWS,
    film,
    plant,
    plant_noise,
    separator_of,
    tone,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 2.0
STEREO = f"0.2*sin(2*PI*{LOW_HZ}*t)|0.2*sin(2*PI*{HIGH_HZ}*t)*lt(t\\,1)"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "duet.mp4", STEREO, SECONDS)


@pytest.fixture(scope="module")
def separator(planted: Model) -> sop.Separator:
    return sop.Separator(planted)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    length = min(one.shape[-1], other.shape[-1])
    pair = (sound[..., :length].ravel() for sound in (one, other))
    return float(np.corrcoef(*pair)[0, 1])


def decoded(video: Path, rate: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, (T, H, W, 3), and sound, (C, L), as a program decodes them."""
    width, height = size
    accurate = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    read = [binary(), "-v", "error", "-i", str(video)]
    outputs = {
        "pictures": ["-vf", accurate, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        "sound": ["-f", "f32le", "-ac", "1", "-ar", str(rate), "-"],
    }
    raw = {
        kind: subprocess.run([*read, *options], capture_output=True, check=True).stdout
        for kind, options in outputs.items()
    }
    pictures = np.frombuffer(raw["pictures"], np.uint8).reshape(-1, height, width, 3)
    return pictures.copy(), np.frombuffer(raw["sound"], np.float32)[None].copy()


def test_sounds_at_the_model_rate(separator: sop.Separator, video: Path) -> None:
    with separator.separate(video) as separation:
        assert separation.sample_rate == RATE
        length = round(SECONDS * RATE)
        assert separation.mixture.shape == (length,)
        assert separation.components.shape == (3, length)
        error = separation.components.sum(axis=0) - separation.mixture
        assert np.square(error).sum() < 1e-6 * np.square(separation.mixture).sum()
        for region, frequency in zip(separation.regions, (LOW_HZ, HIGH_HZ), strict=True):
            spectrum = np.abs(np.fft.rfft(region.sound[: RATE // 2]))
            assert 2 * spectrum.argmax() == frequency


def test_sounds_at_full_rate(separator: sop.Separator, video: Path) -> None:
    with separator.separate(video, full_rate=True) as separation:
        length = round(SECONDS * 44100)
        assert separation.sample_rate == 44100
        assert separation.mixture.shape == (2, length)
        assert separation.components.shape == (3, 2, length)
        np.testing.assert_array_equal(separation.rest, separation.components[-1])


def test_regions(separator: sop.Separator, video: Path) -> None:
    separation = separator.separate(video)
    low, high = separation.regions
    assert (low.number, high.number) == (1, 2)
    assert low.cells.shape == (ROWS, COLUMNS)
    assert low.box == (0, 1 / ROWS, 3 / COLUMNS, 1)
    assert low.energy == pytest.approx(2 / 3, abs=0.02)
    ((begin, end),) = high.times
    assert (begin, end) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.15))
    assert separation.localization.regions[0].box == low.box


def test_sound_of_a_place(separator: sop.Separator, video: Path) -> None:
    separation = separator.separate(video)
    left, pixels = separation.at(0.1, 0.9), separation.at(16.0, 54.0)
    np.testing.assert_array_equal(left, pixels)
    assert correlation(left, separation.regions[0].sound) > 0.999
    assert np.square(separation.at(0.5, 0.5)).sum() < 1e-3 * np.square(left).sum()
    with pytest.raises(UserError, match="outside the picture of 160 x 60 pixels"):
        separation.at(2.0, 400.0)


def test_place_as_a_region(separator: sop.Separator, video: Path) -> None:
    with separator.separate(video, at=[(0.1, 0.9)]) as separation:
        (region,) = separation.regions
        assert region.cells.sum() == 1
        np.testing.assert_allclose(region.sound, separation.at(0.1, 0.9), atol=1e-6)


def test_remix(separator: sop.Separator, video: Path) -> None:
    separation = separator.separate(video, full_rate=True)
    low, high, rest = separation.components
    np.testing.assert_allclose(
        separation.remix({1: 0.5, "2": 0, "rest": 2}), 0.5 * low + 2 * rest, atol=1e-6
    )
    np.testing.assert_allclose(separation.remix({}), low + high + rest, atol=1e-6)
    with pytest.raises(UserError, match="--gain 3: no such region"):
        separation.remix({3: 1.0})


def test_networks_run_once_for_many_places(planted_params: Params, video: Path) -> None:
    model = plant_noise(separator_of(planted_params))
    calls: list[list[int]] = []
    outputs = model._outputs
    model._outputs = lambda starts: calls.append(starts) or outputs(starts)
    separation = sop.Separator(model).separate(video)
    separation.at(0.1, 0.1)
    known = len(calls)
    separation.at(0.9, 0.9)
    assert separation.components.shape[0] >= 1
    assert len(calls) == known


def test_files_are_those_of_the_command_line(
    tmp_path: Path, planted_params: Params, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.pt"
    save_player(model, separator_of(planted_params).player, planted_params, step=0)
    load = Model.load
    monkeypatch.setattr(Model, "load", lambda *arguments: plant(load(*arguments)))
    command = ["separate", str(video), "--checkpoint", str(model), "--device", "cpu"]
    extra = ["--gain", "1=0.5", "--page", "--page-seconds", "1", "--denoise", "nlms"]
    assert main([*command, "--out", str(tmp_path / "a"), *extra]) == 0
    expected = content(tmp_path / "a")
    assert {"region-2.wav", "overlay.mp4", "remix.mp4", "page/index.html"} <= expected.keys()

    from sop.denoise.settings import NlmsSettings

    options = sop.SeparationOptions(
        gains={"1": 0.5}, page_seconds=1.0, denoise=NlmsSettings(64, 0.01)
    )
    separator = sop.Separator.load(model, "cpu")
    separator.write(video, tmp_path / "b", options)
    assert content(tmp_path / "b") == expected
    with separator.separate(video, full_rate=True) as separation:
        separation.save(tmp_path / "c", options)
        separation.save(tmp_path / "d", sop.SeparationOptions(model_rate=True))
    assert content(tmp_path / "c") == expected
    main([*command, "--out", str(tmp_path / "e"), "--model-rate"])
    assert content(tmp_path / "e") == content(tmp_path / "d")


def test_arrays_are_the_sounds_in_the_files(
    tmp_path: Path, separator: sop.Separator, video: Path
) -> None:
    for full_rate in (False, True):
        with separator.separate(video, full_rate=full_rate) as separation:
            options = sop.SeparationOptions(model_rate=not full_rate)
            files = separation.save(tmp_path / "out", options).files
            for sound, name in zip(separation.components, files, strict=False):
                written, rate = soundfile.read(tmp_path / "out" / name, dtype="float32")
                assert rate == separation.sample_rate
                np.testing.assert_array_equal(written.T, sound)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, tiny_params: Params) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    settings = tiny_params.dataset.synthetic
    planned = plan(settings, seed=7)[0]
    render(planned, settings, 7, folder)
    return folder / planned.category / f"{planned.name}.mp4"


def seeing(params: Params) -> sop.Separator:
    """A separator with networks whose masks depend on the pictures."""
    model = separator_of(with_values(params, {"spectrogram.log_frequency": True}))
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.player.synthesizer.scale, std=10.0, generator=generator)
    return sop.Separator(model)


def test_arrays_separate_like_the_file_of_the_same_content(
    rendered: Path, planted_params: Params
) -> None:
    """With real networks, which see the pictures."""
    separator = seeing(planted_params)
    pictures, sound = decoded(rendered, 22050, (96, 72))
    places = [(0.2, 0.5), (0.7, 0.3)]
    of_file = separator.separate(rendered, at=places, full_rate=True)
    for frames, audio in ((pictures, sound), (torch.from_numpy(pictures), torch.tensor(sound[0]))):
        of_arrays = separator.separate_arrays(frames, audio, 22050, 16, at=places, full_rate=True)
        assert of_arrays.sample_rate == of_file.sample_rate == 22050
        assert of_arrays.seconds == pytest.approx(of_file.seconds, abs=0.1)
        for one, other in zip(of_arrays.components, of_file.components, strict=True):
            assert correlation(one, other) >= 0.9999
        energy = of_arrays.localization.energy
        np.testing.assert_allclose(energy, of_file.localization.energy, rtol=0.01)


def test_pictures_decide_the_sounds_of_arrays(rendered: Path, planted_params: Params) -> None:
    """The opposite of the test above: other pictures give other sounds."""
    separator = seeing(planted_params)
    pictures, sound = decoded(rendered, 22050, (96, 72))
    kinds = (pictures, 255 - pictures[:, ::-1])
    one, other = (
        separator.separate_arrays(frames, sound, 22050, 16, at=[(0.2, 0.5)]) for frames in kinds
    )
    assert correlation(one.components[0], other.components[0]) < 0.9999


def test_arrays_are_saved(tmp_path: Path, separator: sop.Separator) -> None:
    pictures = np.zeros((24, 60, 160, 3), np.uint8)
    sound = np.round(2**15 * np.stack([tone(LOW_HZ, 2.1, 44100), tone(HIGH_HZ, 2.1, 44100)]))
    separation = separator.separate_arrays(pictures, sound.astype(np.int16), 44100, 12)
    assert separation.seconds == 2.0
    separation.save(tmp_path, sop.SeparationOptions(gains={"1": 0.5}))
    assert {"region-1.wav", "region-2.wav", "overlay.mp4"} <= content(tmp_path).keys()
    low, rate = soundfile.read(tmp_path / "region-1.wav")
    assert (low.shape, rate) == ((88200, 2), 44100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((4, 60, 160), np.uint8)}, r"frames: shape \(4, 60, 160\)"),
        ({"frames": np.zeros((4, 60, 160, 3))}, "frames: .*float64; expected"),
        ({"frames": np.zeros((0, 60, 160, 3), np.uint8)}, "one picture or more"),
        ({"audio": np.zeros((33, 9))}, "1 to 32 channels"),
        ({"audio": np.zeros((2, 0))}, "audio: shape"),
        ({"audio": np.zeros((1, 9), np.int64)}, "of floats or int16"),
        ({"sample_rate": 0}, "sample_rate 0: must be"),
        ({"sample_rate": 22050.5}, "sample_rate 22050.5: must be a whole number"),
        ({"frame_rate": float("nan")}, "frame_rate nan: must be"),
    ],
)
def test_arrays_of_a_wrong_form(
    separator: sop.Separator, changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "frames": np.zeros((4, 60, 160, 3), np.uint8),
        "audio": np.zeros((1, 8000)),
        "sample_rate": 8000,
        "frame_rate": 8,
    }
    with pytest.raises(ValueError, match=message):
        separator.separate_arrays(**(arguments | changes))


def test_progress_is_called(
    separator: sop.Separator, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, int, int]] = []
    separation = separator.separate(video, progress=lambda *call: calls.append(call))
    assert calls == [("localizing", 0, 1), ("localizing", 1, 1)]
    assert separation.components is not None
    assert calls[2:] == [("separating", 0, 1), ("separating", 1, 1)]
    separation.save(tmp_path)
    assert ("drawing", 24, 24) in calls
    assert capsys.readouterr().out == ""
    separator.write(video, tmp_path, progress=True)
    assert "localizing: 1/1 segment" in capsys.readouterr().out


def test_what_progress_raises_ends_the_work(separator: sop.Separator, video: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        separator.separate(video, progress=stop)


def test_temporary_files_are_removed(
    separator: sop.Separator, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    separation = separator.separate(video)
    assert list(tmp_path.iterdir())
    separation.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="the separation is closed"):
        separation.at(0.1, 0.1)
    another = separator.separate_arrays(
        np.zeros((4, 60, 160, 3), np.uint8), np.zeros((1, 8000)), 8000, 8
    )
    assert list(tmp_path.iterdir())
    del another
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"none\.mp4: no such file"):
        separator.separate(tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []
