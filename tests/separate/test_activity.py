import numpy as np
import pytest

from sop.inference.localization import SILENCE_AMPLITUDE
from sop.model.spectrogram import stft_power
from sop.params import SpectrogramParams
from sop.separate.activity import Activity, active_intervals, silence_energy


def test_short_silence_and_short_sound() -> None:
    active = np.zeros(100, bool)
    active[[0, 1, 2, 3, 5, 6, 40, *range(60, 100)]] = True
    assert active_intervals(active, 0.1, 9.8) == [(0.0, 0.65), (3.95, 4.05), (5.95, 9.8)]
    assert active_intervals(active, 0.05, 5.0) == [(0.0, 0.325), (2.975, 4.975)]
    assert active_intervals(~np.zeros(3, bool), 0.05, 0.08) == [(0.0, 0.08)]
    assert active_intervals(np.zeros(3, bool), 0.05, 0.1) == []


def test_quiet_components_are_silent() -> None:
    levels = np.ones((4, 20), np.float32)
    levels[0, 10:] = 2e-3  # Above -30 dB of its own maximum.
    levels[1, 10:] = 5e-4
    levels[2] = 1e-5  # Below -45 dB of the sum.
    found = Activity(levels, 0.1, 2.0, 0.0).intervals()
    assert found == [[(0.0, 1.95)], [(0.0, 0.95)], [], [(0.0, 1.95)]]
    assert Activity(levels, 0.1, 2.0, 10.0).intervals() == [[], [], [], []]


def test_busiest_frames() -> None:
    levels = np.zeros((2, 50), np.float32)
    levels[0, 20:30] = 1
    first, count = Activity(levels, 0.1, 5.0, 0.0).busiest_frames(0.9)
    assert (first, count) == (20, 10)
    assert Activity(levels, 0.1, 5.0, 0.0).busiest_frames(60) == (0, 50)


def test_silence_energy_is_that_of_a_quiet_tone() -> None:
    params = SpectrogramParams(stft_frame=1022, stft_hop=512, log_frequency=False)
    tone = SILENCE_AMPLITUDE * np.sin(np.arange(11025) * 0.3).astype(np.float32)
    energy = stft_power(tone, params).sum(axis=0)[5:-5]
    assert silence_energy(params) == pytest.approx(energy.mean(), rel=1e-3)


@pytest.mark.parametrize("hop_seconds", [0.02, 0.3])
def test_decibels_over_time(hop_seconds: float) -> None:
    frames = 1 + round(1.95 / hop_seconds)
    levels = np.full((2, frames), 0.5, np.float32)
    levels[0, np.arange(frames) * hop_seconds > 1] = 0
    # A tone of `SILENCE_AMPLITUDE` has an energy of 0.5.
    found = Activity(levels, hop_seconds, 1.95, silence_energy=0.5).decibels()
    assert found.shape == (2, 20)
    silence = 20 * np.log10(SILENCE_AMPLITUDE)
    np.testing.assert_allclose(found[1], silence, atol=1e-4)
    np.testing.assert_allclose(found[0, :9], silence, atol=1e-4)
    assert (found[0, 13:] == -100).all()


def test_decibels_of_nothing() -> None:
    none = Activity(np.zeros((1, 2), np.float32), 0.05, 0.01, 1.0).decibels()
    assert none.tolist() == [[-100.0]]
