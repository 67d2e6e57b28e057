"""Random melodies for an instrument: key, tempo, rhythm, phrases and rests."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

_SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 3, 5, 7, 9, 10),
    (0, 2, 4, 7, 9),
    (0, 3, 5, 7, 10),
)
_CHORD = (0, -2, -4)
_ARPEGGIOS = ((0, 2, 4, 7, 4, 2), (0, 4, 7, 9, 7, 4), (0, 7, 4, 9, 7, 2), (0, 2, 4, 5, 7, 9))


class Note(NamedTuple):
    """One note of a melody."""

    onset_seconds: float
    """Start of the note."""
    seconds: float
    """Length of the note."""
    pitch_hz: float
    """Fundamental frequency."""
    loudness: float
    """Loudness, 0 to 1."""


class Rest(NamedTuple):
    """A time in which a player does not play."""

    begin_seconds: float
    """Start of the rest."""
    end_seconds: float
    """End of the rest."""


class _Style(NamedTuple):
    """Typical melodies of an instrument."""

    lowest: int
    """MIDI number of the lowest note."""
    highest: int
    tempo: tuple[float, float]
    """Range of the tempo, beats per minute."""
    beats: tuple[float, ...]
    """Note lengths in beats; a repeated one is chosen more often."""
    share: float
    """Fraction of its length that a note sounds; above 1 it rings into the next one."""
    leap: int
    """Largest step of the melody, in degrees of the scale."""
    chords: bool = False
    arpeggios: bool = False


_STYLES = {
    "accordion": _Style(52, 81, (88, 132), (0.5, 1, 1, 2), 0.95, 3, chords=True),
    "acoustic_guitar": _Style(40, 76, (80, 125), (0.5, 0.5, 1), 2.2, 3, arpeggios=True),
    "cello": _Style(38, 70, (66, 100), (1, 1, 2, 3), 0.98, 3),
    "clarinet": _Style(50, 84, (90, 135), (0.5, 0.5, 1, 1.5), 0.92, 4),
    "flute": _Style(60, 91, (80, 125), (0.5, 1, 1, 2), 0.95, 3),
    "saxophone": _Style(49, 80, (92, 145), (0.5, 0.5, 1, 1.5), 0.92, 4),
    "trumpet": _Style(53, 82, (90, 135), (0.5, 0.5, 1, 2), 0.88, 4),
    "tuba": _Style(38, 65, (76, 115), (0.5, 1, 1, 2), 0.86, 4),
    "violin": _Style(55, 90, (80, 125), (0.5, 1, 1, 2), 0.97, 3),
    "xylophone": _Style(60, 91, (110, 150), (0.25, 0.5, 0.5, 1), 1.5, 5),
}

_PHRASE_NOTES = (5, 12)
_REST_SECONDS = (0.12, 0.5)
_SHORTEST_SECONDS = 0.1
_REST_WITHIN_PHRASE = 0.05
_LONG_RESTS_SHARE = (0.25, 0.5)
"""Share of the video in which a player rests who rests for a while."""


def melody(instrument: str, seconds: float, rng: Generator) -> list[Note]:
    """Compose a melody that sounds most of the time, with short rests between its phrases.

    Args:
        instrument: one of `INSTRUMENTS`.
        seconds: length of the video; no note exceeds it.
        rng: source of all random choices.

    Returns:
        Notes sorted by onset. Notes of a chord have the same onset, and ringing notes overlap.
    """
    style = _STYLES[instrument]
    scale = _pitches(style, rng)
    beat = 60 / rng.uniform(*style.tempo)
    tuning = 2 ** (rng.uniform(-0.2, 0.2) / 12)
    notes: list[Note] = []
    now = rng.uniform(0.0, 0.3)
    degree = int(rng.integers(len(scale)))
    while now < seconds - _SHORTEST_SECONDS:
        rhythm, degrees = _phrase(style, len(scale), degree, rng)
        strength = rng.uniform(0.45, 0.9)
        for position, (beats, degree) in enumerate(zip(rhythm, degrees, strict=True)):
            sounding = min(beats * beat * style.share, seconds - now)
            if sounding < _SHORTEST_SECONDS:
                break
            if position and rng.uniform() < _REST_WITHIN_PHRASE:
                now += min(beats * beat, _REST_SECONDS[1])
                continue
            loudness = float(np.clip(strength * rng.uniform(0.8, 1.15), 0.3, 1.0))
            pitch = 440 * 2 ** ((scale[degree] - 69) / 12) * tuning
            first = Note(now, sounding, pitch, loudness)
            notes.extend(_voices(first, degree, scale, tuning) if style.chords else [first])
            now += beats * beat
        now += rng.uniform(*_REST_SECONDS)
    return notes


def melody_with_rests(
    instrument: str, seconds: float, rng: Generator
) -> tuple[list[Note], list[Rest]]:
    """Compose a melody with one or two long rests, which together take 25 to 50 % of the video.

    A rest begins where a note would, or where the melody ends; notes that would ring into it are
    cut, and the melody goes on after it.

    Args:
        instrument: one of `INSTRUMENTS`.
        seconds: length of the video; no note exceeds it.
        rng: source of all random choices.

    Returns:
        Notes sorted by onset, and the rests in order.
    """
    total = seconds * rng.uniform(*_LONG_RESTS_SHARE)
    playing = seconds - total
    notes = melody(instrument, playing, rng)
    moments = sorted({note.onset_seconds for note in notes} | {playing})
    count = min(int(rng.integers(1, 3)), len(moments))
    first = rng.uniform(0.35, 0.65)
    lengths = [total] if count == 1 else [first * total, (1 - first) * total]
    moved: list[Note] = []
    rests: list[Rest] = []
    passed, begin = 0.0, 0.0
    for moment, length in zip(
        sorted(rng.choice(moments, count, replace=False).tolist()), lengths, strict=True
    ):
        moved += _excerpt(notes, begin, moment, passed)
        rests.append(Rest(moment + passed, moment + passed + length))
        passed, begin = passed + length, moment
    return moved + _excerpt(notes, begin, playing, passed), rests


def _excerpt(notes: list[Note], begin: float, end: float, later: float) -> list[Note]:
    """The notes that begin in [begin, end), cut at the end and moved to a later time."""
    return [
        note._replace(
            onset_seconds=note.onset_seconds + later,
            seconds=min(note.seconds, end - note.onset_seconds),
        )
        for note in notes
        if begin <= note.onset_seconds < end
    ]


def _pitches(style: _Style, rng: Generator) -> list[int]:
    """The scale of this video, low to high, as MIDI numbers: part of the instrument's range."""
    span = min(int(rng.integers(17, 25)), style.highest - style.lowest)
    lowest = int(rng.integers(style.lowest, style.highest - span + 1))
    tonic = int(rng.integers(12))
    steps = _SCALES[int(rng.integers(len(_SCALES)))]
    return [n for n in range(lowest, lowest + span + 1) if (n - tonic) % 12 in steps]


def _phrase(
    style: _Style, degrees: int, start: int, rng: Generator
) -> tuple[list[float], list[int]]:
    """A phrase: beats of each of its notes, and their places in the scale of `degrees` notes."""
    motif = rng.choice(style.beats, int(rng.integers(2, 5)))
    count = int(rng.integers(_PHRASE_NOTES[0], _PHRASE_NOTES[1] + 1))
    rhythm = [float(motif[i % len(motif)]) for i in range(count)]
    if style.arpeggios:
        pattern = _ARPEGGIOS[int(rng.integers(len(_ARPEGGIOS)))]
        root = int(rng.integers(max(degrees - max(pattern), 1)))
        return rhythm, [min(root + pattern[i % len(pattern)], degrees - 1) for i in range(count)]
    places, place = [], start
    for _ in range(count):
        step = int(rng.integers(1, style.leap + 1)) * (1 if rng.uniform() < 0.5 else -1)
        if not 0 <= place + step < degrees:
            step = -step
        place = min(max(place + step, 0), degrees - 1)
        places.append(place)
    return rhythm, places


def _voices(first: Note, degree: int, scale: list[int], tuning: float) -> list[Note]:
    """A chord below and with `first`, each voice softer than one note alone would be."""
    places = dict.fromkeys(max(degree + step, 0) for step in _CHORD)
    return [
        first._replace(
            pitch_hz=440 * 2 ** ((scale[place] - 69) / 12) * tuning,
            loudness=first.loudness * (0.8 if place == degree else 0.5),
        )
        for place in places
    ]
