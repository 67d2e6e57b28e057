"""Separators whose networks are replaced by hand-made ones, so that it is known what they find."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sop.inference.separator import Separator
from sop.media.ffmpeg import binary
from sop.model.pixelplayer import build
from sop.params import Params

RATE = 11025
ROWS, COLUMNS = 3, 8
LOW_HZ, HIGH_HZ, BETWEEN_HZ = 500.0, 2500.0, 1200.0
LOW_CELLS = (slice(1, 3), slice(0, 3))
HIGH_CELLS = (slice(0, 2), slice(5, 8))

# Logits of what a mask lets through, and of what it does not.
YES, NO = 8.0, -8.0


class Heard:
    """A recording of given samples, whose pictures are black."""

    def __init__(self, audio: np.ndarray) -> None:
        self._audio = audio.astype(np.float32)
        self.sample_rate = RATE
        self.samples = len(audio)
        self.seconds = len(audio) / RATE

    def sound(self, begin: int, end: int) -> np.ndarray:
        audio = np.zeros(end - begin, np.float32)
        first, last = max(begin, 0), min(end, self.samples)
        if first < last:
            audio[first - begin : last - begin] = self._audio[first:last]
        return audio

    def frames(self, seconds: float, count: int, stride: int, size: int) -> np.ndarray:
        return np.zeros((count, size, 2 * size, 3), np.uint8)


def separator_of(params: Params) -> Separator:
    return Separator(build(params.model, params.spectrogram, seed=1), params, torch.device("cpu"))


def plant(separator: Separator, low: Any = LOW_CELLS, high: Any = HIGH_CELLS) -> Separator:
    """Low sounds come from one patch of the picture, high ones from another, none from the rest."""
    rows = separator.params.spectrogram.stft_frame // 2 + 1
    is_low = np.arange(rows) * RATE / separator.params.spectrogram.stft_frame < BETWEEN_HZ
    channels = separator.params.model.channels
    window = 1 + separator.params.mixture.audio_samples // separator.params.spectrogram.stft_hop

    def see_and_hear(recording: Any, starts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        maps = np.zeros((len(starts), channels, rows, window), np.float32)
        maps[:, 0, is_low], maps[:, 1, ~is_low] = YES - NO, YES - NO
        # The model's sigmoid makes ones and zeros of them.
        cells = np.full((len(starts), ROWS, COLUMNS, channels), 3 * NO, np.float32)
        for channel, patch in enumerate((low, high)):
            if patch is not None:
                cells[(slice(None), *patch, channel)] = 3 * YES
        return maps, cells

    torch.nn.init.constant_(separator.player.synthesizer.bias, NO)
    separator._see_and_hear = see_and_hear  # type: ignore[method-assign]
    return separator


def plant_noise(separator: Separator) -> Separator:
    """Each window is sure of something else: all masks jump where windows are not cross-faded."""
    rows = separator.params.spectrogram.stft_frame // 2 + 1
    channels = separator.params.model.channels
    window = 1 + separator.params.mixture.audio_samples // separator.params.spectrogram.stft_hop

    def see_and_hear(recording: Any, starts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        maps = np.zeros((len(starts), channels, rows, window), np.float32)
        cells = np.zeros((len(starts), ROWS, COLUMNS, channels), np.float32)
        for at, start in enumerate(starts):
            rng = np.random.default_rng(start)
            maps[at] = rng.uniform(-1, 1, (channels, 1, 1))
            cells[at] = rng.uniform(0, 2, (ROWS, COLUMNS, channels))
        return maps, cells

    separator._see_and_hear = see_and_hear  # type: ignore[method-assign]
    return separator


def tone(frequency_hz: float, seconds: float, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def film(path: Path, sound: str, seconds: float, picture: str = "testsrc=s=160x60:r=12") -> Path:
    """A video of ffmpeg's test picture and a sound by its expression."""
    command = [binary(), "-v", "error", "-y", "-f", "lavfi", "-i", f"{picture}:d={seconds}"]
    command += ["-f", "lavfi", "-i", f"aevalsrc={sound}:s=44100:d={seconds}"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    subprocess.run([*command, f"file:{path}"], check=True, stdin=subprocess.DEVNULL)
    return path
