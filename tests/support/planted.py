"""Separators with hand-made networks, whose regions and sounds are known."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sop.dataset.index import Video
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.media.ffmpeg import binary
from sop.model.pixelplayer import build
from sop.params import Params
from tests.support.experiment import with_values
from tests.support.flashes import PARAMS as EXTRACT

RATE = 11025
ROWS, COLUMNS = 3, 8
LOW_HZ, HIGH_HZ, BETWEEN_HZ = 500.0, 2500.0, 1200.0
LOW_CELLS = (slice(1, 3), slice(0, 3))
HIGH_CELLS = (slice(0, 2), slice(5, 8))

# Logits of an open and of a closed mask.
OPEN, CLOSED = 8.0, -8.0

Outputs = tuple[np.ndarray, np.ndarray]


class ArrayRecording(Recording):
    """A recording of given samples with black pictures."""

    def __init__(self, audio: np.ndarray) -> None:
        super().__init__(Video(Path(), Path(), 1), EXTRACT, audio.astype(np.float32))

    def frames(self, seconds: float, count: int, stride: int, size: int) -> np.ndarray:
        return np.zeros((count, size, 2 * size, 3), np.uint8)


class PlantedSeparator(Separator):
    """A separator whose network outputs are given by a function of the window starts."""

    def __init__(self, separator: Separator, outputs: Callable[[list[int]], Outputs]) -> None:
        super().__init__(separator.player, separator.params, separator.device)
        self._outputs = outputs

    def run_networks(self, recording: Recording, starts: list[int]) -> Outputs:
        return self._outputs(starts)


@pytest.fixture(scope="session")
def planted_params(tiny_params: Params) -> Params:
    return with_values(tiny_params, {"spectrogram.log_frequency": False, "model.vision_width": 8})


@pytest.fixture(scope="session")
def planted(planted_params: Params) -> Separator:
    """A separator with two regions: see `plant`."""
    return plant(separator_of(planted_params))


@pytest.fixture(scope="session")
def uncertain(planted_params: Params) -> Separator:
    """A separator whose windows have unrelated outputs: see `plant_noise`."""
    return plant_noise(separator_of(planted_params))


def separator_of(params: Params) -> Separator:
    """Return a separator with untrained networks."""
    return Separator(build(params.model, params.spectrogram, seed=1), params, torch.device("cpu"))


def plant(
    separator: Separator,
    low: Any = LOW_CELLS,
    high: Any = HIGH_CELLS,
    between_hz: float = BETWEEN_HZ,
) -> Separator:
    """Assign low frequencies to one patch of the picture and high frequencies to another."""
    rows, channels, window = _sizes(separator)
    is_low = np.arange(rows) * RATE / separator.params.spectrogram.stft_frame < between_hz

    def outputs(starts: list[int]) -> Outputs:
        maps = np.zeros((len(starts), channels, rows, window), np.float32)
        maps[:, 0, is_low], maps[:, 1, ~is_low] = OPEN - CLOSED, OPEN - CLOSED
        # The model's sigmoid turns these features into ones and zeros.
        cells = np.full((len(starts), ROWS, COLUMNS, channels), 3 * CLOSED, np.float32)
        for channel, patch in enumerate((low, high)):
            if patch is not None:
                cells[(slice(None), *patch, channel)] = 3 * OPEN
        return maps, cells

    torch.nn.init.constant_(separator.player.synthesizer.bias, CLOSED)
    return PlantedSeparator(separator, outputs)


def plant_noise(separator: Separator) -> Separator:
    """Give each window unrelated outputs: without a cross-fade, all masks would jump."""
    rows, channels, window = _sizes(separator)

    def outputs(starts: list[int]) -> Outputs:
        maps = np.zeros((len(starts), channels, rows, window), np.float32)
        cells = np.zeros((len(starts), ROWS, COLUMNS, channels), np.float32)
        for at, start in enumerate(starts):
            rng = np.random.default_rng(start)
            maps[at] = rng.uniform(-1, 1, (channels, 1, 1))
            cells[at] = rng.uniform(0, 2, (ROWS, COLUMNS, channels))
        return maps, cells

    return PlantedSeparator(separator, outputs)


def tone(frequency_hz: float, seconds: float, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def film(path: Path, sound: str, seconds: float, picture: str = "testsrc=s=160x60:r=12") -> Path:
    """Write a video of ffmpeg's test picture with a sound given by an expression."""
    command = [binary(), "-v", "error", "-y", "-f", "lavfi", "-i", f"{picture}:d={seconds}"]
    command += ["-f", "lavfi", "-i", f"aevalsrc={sound}:s=44100:d={seconds}"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    subprocess.run([*command, f"file:{path}"], check=True, stdin=subprocess.DEVNULL)
    return path


def _sizes(separator: Separator) -> tuple[int, int, int]:
    """Return the number of mask rows, channels and spectrogram frames of a window."""
    params = separator.params
    return (
        params.spectrogram.stft_frame // 2 + 1,
        params.model.channels,
        1 + params.mixture.audio_samples // params.spectrogram.stft_hop,
    )
