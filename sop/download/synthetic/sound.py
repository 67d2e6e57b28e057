"""Sound of a video: stems of all instruments, in one room and at one level."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from sop.download.synthetic.melody import Note
from sop.download.synthetic.speech import Speech
from sop.download.synthetic.timbre import synthesize
from sop.download.synthetic.voice import synthesize_speech

_NOISE = 1e-3
"""Ratio of the RMS of the background noise to that of the instrument: -60 dB."""
_PEAK = (0.5, 0.9)
_DIFFERENCE_DB = 3.0
_FULL_SCALE = 32767


def stems(
    instruments: Sequence[str],
    melodies: Sequence[Sequence[Note] | Speech],
    seconds: float,
    sample_rate: int,
    rng: Generator,
) -> NDArray[np.int16]:
    """Play the melodies in one room.

    Args:
        instruments: names, N.
        melodies: notes of each instrument, or what each talker says; the stem of one without notes
            is zero.
        seconds: length of the video.
        sample_rate: sample rate, Hz.
        rng: source of the room, the levels, the noise and the differences between notes.

    Returns:
        Stems, (N, L), equally loud within 3 dB, if not zero; their sum peaks at 0.5 to 0.9 of full
        scale.
    """
    length = round(seconds * sample_rate)
    room = _room(sample_rate, rng)
    played = np.zeros((len(instruments), length))
    for stem, instrument, notes in zip(played, instruments, melodies, strict=True):
        if not notes:
            continue
        if isinstance(notes, Speech):
            stem[:] = synthesize_speech(notes, seconds, rng, sample_rate)
            notes = ()
        for note in notes:
            sound = synthesize(instrument, note, rng, sample_rate)
            start = round(note.onset_seconds * sample_rate)
            end = min(start + len(sound), length)
            stem[start:end] += sound[: end - start]
        stem[:] = oaconvolve(stem, room)[:length]
        stem /= np.sqrt(np.mean(stem**2))
        stem += _NOISE * rng.standard_normal(length)
    levels_db = rng.uniform(-_DIFFERENCE_DB / 2, _DIFFERENCE_DB / 2, len(played))
    played *= 10 ** (levels_db[:, None] / 20)
    loudest = max(float(np.abs(played.sum(axis=0)).max()), float(np.abs(played).max()))
    scale = rng.uniform(*_PEAK) * _FULL_SCALE / loudest
    return np.round(played * scale).astype(np.int16)


def _room(sample_rate: int, rng: Generator) -> NDArray[np.float64]:
    """Impulse response: the direct sound, then noise that dies away."""
    seconds = rng.uniform(0.15, 0.45)
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    tail: NDArray[np.float64] = rng.standard_normal(len(times)) * np.exp(-6.9 * times / seconds)
    tail *= rng.uniform(0.1, 0.35) / np.sqrt(np.sum(tail**2))
    tail[: round(0.004 * sample_rate)] = 0.0
    tail[0] = 1.0
    return tail
