"""Sound of a voice: a pulse train and noises through formants that glide from sound to sound.

A cascade of resonators as in Klatt (1980). Simplified: nasals have no zeros, and the throat does
not act back on the source.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import sosfilt

from sop.download.synthetic.speech import CONTROL_RATE, Gestures, Speech, Voice, gestures

FloatArray = NDArray[np.float64]

_TABLE = 2048
_HIGHEST_SHARE = 0.45
_UPPER_FORMANTS_HZ = (3400.0, 4500.0)
_BANDWIDTHS_HZ = (80.0, 100.0, 150.0, 250.0, 350.0)
_BREATH = 0.25
"""Level of the noise of the breath relative to the pulses, before the formants."""
_HISS = 0.3
"""Level of fricatives relative to that of a loud vowel."""
_HISS_WIDTH = 0.35
"""Bandwidth of the hiss relative to its centre frequency."""


def synthesize_speech(
    speech: Speech, seconds: float, rng: Generator, sample_rate: int
) -> FloatArray:
    """Synthesize all that a person says.

    Args:
        speech: voice and speech sounds.
        seconds: length of the video.
        rng: source of the noises and of the irregularities of the voice.
        sample_rate: sample rate, Hz.

    Returns:
        (L,), L = seconds * sample_rate rounded; silent in pauses.
    """
    length = round(seconds * sample_rate)
    moves = gestures(speech, seconds)
    at = np.arange(length) * (CONTROL_RATE / sample_rate)

    def per_sample(track: FloatArray) -> FloatArray:
        values: FloatArray = np.interp(at, np.arange(len(track)), track)
        return values

    voiced = per_sample(moves.voice)
    pulses, opened = _pulses(speech.voice, per_sample(moves.pitch_hz), rng, sample_rate)
    breath = per_sample(moves.breath) + 0.35 * speech.voice.breathiness * voiced * opened
    source = voiced * pulses + _BREATH * breath * rng.standard_normal(length)
    spoken = _filtered(source, _formants(moves, speech.voice, sample_rate), sample_rate)
    loud = voiced >= 0.7 * voiced.max()
    spoken /= max(float(np.sqrt(np.mean(spoken[loud] ** 2))), 1e-9)
    noise = _filtered(rng.standard_normal(length), _hiss(moves, sample_rate), sample_rate)
    sound: FloatArray = spoken + _HISS * per_sample(moves.hiss) * noise
    return sound


def _pulses(
    voice: Voice, pitch_hz: FloatArray, rng: Generator, sample_rate: int
) -> tuple[FloatArray, FloatArray]:
    """Return the derivative of the glottal flow, RMS 1, and the flow, 0 to 1, each (L,)."""
    turns = np.cumsum(pitch_hz) / sample_rate
    periods = int(turns[-1]) + 2
    uneven = 1 + voice.jitter * rng.standard_normal(periods)
    turns = np.cumsum(pitch_hz * uneven[turns.astype(int)]) / sample_rate + rng.uniform()
    strengths = 1 + voice.shimmer * rng.standard_normal(int(turns[-1]) + 2)
    # Flow of Rosenberg (1971): a slow rise, then a fall that ends abruptly.
    phase = np.arange(_TABLE) / _TABLE
    peak, end = 0.67 * voice.open_quotient, voice.open_quotient
    flow = np.where(
        phase < peak,
        0.5 - 0.5 * np.cos(np.pi * phase / peak),
        np.where(phase < end, np.cos(0.5 * np.pi * (phase - peak) / (end - peak)), 0.0),
    )
    harmonics = np.arange(_TABLE // 2 + 1)
    highest = _HIGHEST_SHARE * sample_rate / voice.pitch_hz
    # Smooth at the upper end, so that the period does not ring.
    weights = np.clip(2 - 2 * harmonics / highest, 0, 1)
    weights /= 1 + (harmonics * voice.pitch_hz / voice.tilt_hz) ** 2
    pulse = np.fft.irfft(2j * np.pi * harmonics * np.fft.rfft(flow) * weights)
    pulse /= np.sqrt(np.mean(pulse**2))
    place = (turns % 1.0) * _TABLE
    whole = place.astype(int)
    part = place - whole
    gain = strengths[turns.astype(int)]
    pulses: FloatArray = gain * (pulse[whole] + part * np.diff(pulse, append=pulse[:1])[whole])
    return pulses, flow[whole]


def _formants(moves: Gestures, voice: Voice, sample_rate: int) -> FloatArray:
    """The resonators of the vocal tract, (T, sections, 6), each with gain 1 at 0 Hz."""
    highest = _HIGHEST_SHARE * sample_rate
    upper = [voice.tract * frequency for frequency in _UPPER_FORMANTS_HZ]
    steady = [np.full(moves.voice.shape, hz) for hz in upper if hz < highest]
    frequencies = np.stack([*np.minimum(moves.formants_hz, highest), *steady], axis=1)
    widths = np.array(_BANDWIDTHS_HZ[: frequencies.shape[1]]) * voice.tract
    radii = np.exp(-np.pi * widths / sample_rate)
    sections = np.zeros((*frequencies.shape, 6))
    sections[..., 3] = 1.0
    sections[..., 4] = -2 * radii * np.cos(2 * np.pi * frequencies / sample_rate)
    sections[..., 5] = radii**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)
    return sections


def _hiss(moves: Gestures, sample_rate: int) -> FloatArray:
    """A band around the centre of the hiss, (T, 1, 6), with RMS 1 for white noise of RMS 1."""
    centres = np.minimum(moves.hiss_hz, 0.9 * _HIGHEST_SHARE * sample_rate)
    radii = np.exp(-np.pi * _HISS_WIDTH * centres / sample_rate)
    sections = np.zeros((len(centres), 1, 6))
    sections[:, 0, 0] = np.sqrt((1 - radii**2) / 2)
    sections[:, 0, 2] = -sections[:, 0, 0]
    sections[:, 0, 3] = 1.0
    sections[:, 0, 4] = -2 * radii * np.cos(2 * np.pi * centres / sample_rate)
    sections[:, 0, 5] = radii**2
    return sections


def _filtered(sound: FloatArray, sections: FloatArray, sample_rate: int) -> FloatArray:
    """Filter a sound, (L,), with filters that change at `CONTROL_RATE`, (T, sections, 6)."""
    ends = np.ceil(np.arange(1, len(sections) + 1) * sample_rate / CONTROL_RATE).astype(int)
    state = np.zeros((sections.shape[1], 2))
    out = np.empty_like(sound)
    begin = 0
    for end, now in zip(ends.tolist(), sections, strict=True):
        end = min(end, len(sound))
        if begin < end:
            out[begin:end], state = sosfilt(now, sound[begin:end], zi=state)
            begin = end
    return out
