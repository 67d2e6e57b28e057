"""What a person says: random syllables in phrases and pauses, and how throat and mouth move.

Sound and picture of a talker are both made from the `Gestures` here, so the mouth moves with what
is heard.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

CONTROL_RATE = 400
"""Values of each gesture per second."""

_SHORTEST_SECONDS = 0.1
_EARLIER_SECONDS = (0.0, 3.0)
_PHRASE_SECONDS = (0.6, 2.0)
_PAUSE_SECONDS = (0.15, 0.7)
_SYLLABLES_PER_SECOND = (3.5, 6.5)
_FINAL_LENGTHENING = 1.3
_PITCH_HZ = (108.0, 194.0)
_PITCH_SEMITONES = (3.0, 5.0)

# Widths of the windows that turn steps from sound to sound into movements, in seconds.
_TONGUE_SECONDS = 0.07
_VOICE_SECONDS = 0.025
_HISS_SECONDS = 0.008
_LIPS_SECONDS = 0.08
_CLOSURE_SECONDS = 0.045


class Voice(NamedTuple):
    """How one person speaks."""

    pitch_hz: float
    """Middle of the person's range of fundamental frequencies."""
    pitch_semitones: float
    """Range of the fundamental frequency: up to so much above and below the middle."""
    tract: float
    """Scale of all formants: 1 for the longest vocal tracts, larger for shorter ones."""
    formant_scales: tuple[float, float, float]
    """What is the person's own in each of the three lowest formants; close to 1."""
    breathiness: float
    """Noise of the breath in voiced sounds, 0 to 1."""
    open_quotient: float
    """Fraction of a period in which the glottis is open."""
    tilt_hz: float
    """Frequency above which the source falls off more steeply."""
    jitter: float
    """Standard deviation of a period's length, relative."""
    shimmer: float
    """Standard deviation of a period's amplitude, relative."""
    syllables_per_second: float
    """Rate of speech within a phrase."""


class Phone(NamedTuple):
    """One speech sound."""

    symbol: str
    """A key of `VOWELS` or `CONSONANTS`."""
    onset_seconds: float
    seconds: float
    stress: float
    """Stress of its syllable, 0 to 1."""
    vowel: str
    """The vowel of its syllable."""


class Phrase(NamedTuple):
    """Syllables between two pauses; the first phrase may begin before the video."""

    onset_seconds: float
    seconds: float
    rises: bool
    """True if its melody ends high, as that of a question."""


class Speech(NamedTuple):
    """What one person says in a video; there is silence between the phrases."""

    voice: Voice
    phones: tuple[Phone, ...]
    """Sorted by onset, without overlaps."""
    phrases: tuple[Phrase, ...]
    onsets_seconds: tuple[float, ...]
    """Onset of each syllable."""


class Vowel(NamedTuple):
    """How a vowel is made."""

    formants: tuple[float, float, float]
    """Frequencies in Hz, in a vocal tract of scale 1."""
    opening: float
    """Opening of the mouth, 0 to 1."""
    width: float
    """Width of the mouth: -1 rounded, 0 neutral, 1 spread."""


class Consonant(NamedTuple):
    """How a consonant is made."""

    formants: tuple[float, float, float] | None
    """Frequencies in Hz; None for those of the vowel."""
    opening: float
    width: float | None
    """Width of the mouth; None for that of the vowel."""
    hiss_hz: float
    """Centre of the noise that is made at the tongue or the lips."""
    pieces: tuple[tuple[float, float, float, float], ...]
    """Its course: fraction of its time, and in it the levels of voice, breath and hiss."""


class Gestures(NamedTuple):
    """Movements of one person, each (T,), at `CONTROL_RATE`."""

    pitch_hz: FloatArray
    formants_hz: FloatArray
    """Frequencies of the three lowest formants, (3, T)."""
    voice: FloatArray
    """Amplitude of the voice, 0 to 1."""
    breath: FloatArray
    """Amplitude of the noise of the breath, 0 to 1."""
    hiss: FloatArray
    """Amplitude of the noise made at the tongue or the lips, 0 to 1."""
    hiss_hz: FloatArray
    """Its centre frequency."""
    opening: FloatArray
    """Opening of the mouth: 0 closed, 1 widest."""
    width: FloatArray
    """Width of the mouth: -1 rounded, 0 neutral, 1 spread."""


VOWELS = {
    "i": Vowel((270, 2290, 3010), 0.32, 1.0),
    "e": Vowel((530, 1840, 2480), 0.58, 0.7),
    "ae": Vowel((660, 1720, 2410), 0.8, 0.5),
    "a": Vowel((730, 1090, 2440), 1.0, 0.0),
    "schwa": Vowel((500, 1450, 2450), 0.45, 0.1),
    "o": Vowel((570, 840, 2410), 0.65, -0.7),
    "u": Vowel((300, 870, 2240), 0.28, -1.0),
}
"""Formants of Peterson and Barney (1952), men."""

_PLOSIVE = ((0.58, 0.0, 0.0, 0.0), (0.14, 0.0, 0.2, 1.0), (0.28, 0.1, 0.8, 0.0))
_VOICED_PLOSIVE = ((0.74, 0.12, 0.0, 0.0), (0.14, 0.2, 0.0, 0.6), (0.12, 0.6, 0.0, 0.0))
_NASAL = ((1.0, 0.42, 0.0, 0.0),)
_GLIDE = ((1.0, 0.6, 0.0, 0.0),)

CONSONANTS = {
    "p": Consonant((300, 900, 2200), 0.0, None, 1000, _PLOSIVE),
    "b": Consonant((250, 900, 2200), 0.0, None, 900, _VOICED_PLOSIVE),
    "t": Consonant((300, 1750, 2650), 0.18, None, 3900, _PLOSIVE),
    "d": Consonant((250, 1750, 2650), 0.18, None, 3500, _VOICED_PLOSIVE),
    "k": Consonant((300, 1950, 2350), 0.25, None, 2000, _PLOSIVE),
    "g": Consonant((250, 1950, 2350), 0.25, None, 1800, _VOICED_PLOSIVE),
    "m": Consonant((250, 1050, 2200), 0.0, None, 1000, _NASAL),
    "n": Consonant((250, 1500, 2500), 0.18, None, 1000, _NASAL),
    "f": Consonant((350, 1100, 2300), 0.06, None, 4200, ((1.0, 0.0, 0.1, 0.35),)),
    "v": Consonant((300, 1100, 2300), 0.06, None, 4000, ((1.0, 0.35, 0.0, 0.15),)),
    "s": Consonant((350, 1700, 2600), 0.14, 0.3, 4900, ((1.0, 0.0, 0.0, 1.0),)),
    "z": Consonant((300, 1700, 2600), 0.14, 0.3, 4800, ((1.0, 0.3, 0.0, 0.5),)),
    "sh": Consonant((350, 1800, 2500), 0.2, -0.6, 2900, ((1.0, 0.0, 0.0, 0.9),)),
    "h": Consonant(None, 0.4, None, 1500, ((1.0, 0.0, 0.9, 0.0),)),
    "l": Consonant((360, 1200, 2700), 0.25, None, 1000, _GLIDE),
    "r": Consonant((380, 1250, 1700), 0.25, -0.4, 1000, _GLIDE),
    "w": Consonant((300, 700, 2200), 0.12, -1.0, 1000, _GLIDE),
    "j": Consonant((280, 2150, 2900), 0.2, 0.8, 1000, _GLIDE),
}

LIPS_CLOSED = frozenset("pbm")
_ONSETS = tuple(CONSONANTS)
_CODAS = ("n", "m", "s", "t", "k", "l", "r", "z", "f", "d")
_NEUTRAL = VOWELS["schwa"]
_SHORTEST_VOWEL = 0.06


def speak(seconds: float, rng: Generator) -> Speech:
    """Draw a person's voice, and what the person says.

    Args:
        seconds: length of the video; no speech sound exceeds it.
        rng: source of all random choices.
    """
    voice = _voice(rng)
    phones: list[Phone] = []
    phrases: list[Phrase] = []
    onsets: list[float] = []
    # Of the speech before the video nothing is kept, so that two talkers do not begin together.
    now = -rng.uniform(*_EARLIER_SECONDS)
    while now < seconds - _SHORTEST_SECONDS:
        begin, end = now, now + rng.uniform(*_PHRASE_SECONDS)
        while now < min(end, seconds) - _SHORTEST_SECONDS:
            length = rng.uniform(0.75, 1.3) / voice.syllables_per_second
            is_last = now + 1.5 * length > end - _SHORTEST_SECONDS
            length = min(length * (_FINAL_LENGTHENING if is_last else 1.0), seconds - now)
            syllable = _syllable(now, length, rng)
            if now >= 0:
                onsets.append(now)
                phones.extend(syllable)
            now += length
        phrases.append(Phrase(begin, now - begin, bool(rng.uniform() < 0.2)))
        now += rng.uniform(*_PAUSE_SECONDS)
    return Speech(voice, tuple(phones), tuple(phrases), tuple(onsets))


def gestures(speech: Speech, seconds: float) -> Gestures:
    """Return the movements that make the sounds of a speech.

    Args:
        speech: what is said.
        seconds: length of the video; T = seconds * CONTROL_RATE, rounded up, plus 1.
    """
    times = np.arange(int(np.ceil(seconds * CONTROL_RATE)) + 1) / CONTROL_RATE
    ends, rows = _course(speech)
    targets = np.array(rows)[np.searchsorted(ends, times, side="right")]
    f1, f2, f3, voice, breath, hiss, hiss_hz, opening, width, closed = targets.T
    scales = speech.voice.tract * np.array(speech.voice.formant_scales)
    formants = np.stack([_smooth(f, _TONGUE_SECONDS) for f in (f1, f2, f3)])
    return Gestures(
        pitch_hz=_pitch(speech, times),
        formants_hz=formants * scales[:, None],
        voice=_smooth(voice, _VOICE_SECONDS),
        breath=_smooth(breath, _VOICE_SECONDS),
        hiss=_smooth(hiss, _HISS_SECONDS),
        hiss_hz=_smooth(hiss_hz, _TONGUE_SECONDS),
        # The window of the lips is longer than a closure, which is complete all the same.
        opening=_smooth(opening, _LIPS_SECONDS) * (1 - _smooth(closed, _CLOSURE_SECONDS)),
        width=_smooth(width, _LIPS_SECONDS),
    )


def _voice(rng: Generator) -> Voice:
    """A person's voice; high voices have shorter vocal tracts, but not always."""
    height = rng.uniform()
    low, high = _PITCH_HZ
    scales = rng.uniform(0.95, 1.05, 3).tolist()
    return Voice(
        pitch_hz=low * (high / low) ** height,
        pitch_semitones=rng.uniform(*_PITCH_SEMITONES),
        tract=1 + 0.17 * height + rng.uniform(-0.07, 0.07),
        formant_scales=(scales[0], scales[1], scales[2]),
        breathiness=rng.uniform(0.05, 1.0),
        open_quotient=rng.uniform(0.45, 0.75),
        tilt_hz=rng.uniform(2000, 5000),
        jitter=rng.uniform(0.003, 0.012),
        shimmer=rng.uniform(0.02, 0.08),
        syllables_per_second=rng.uniform(*_SYLLABLES_PER_SECOND),
    )


def _syllable(onset: float, seconds: float, rng: Generator) -> list[Phone]:
    """The speech sounds of one syllable: a vowel, mostly with a consonant before or after."""
    vowel = str(rng.choice(list(VOWELS)))
    stress = rng.uniform(0.5, 1.0)
    first = str(rng.choice(_ONSETS)) if rng.uniform() < 0.88 else None
    last = str(rng.choice(_CODAS)) if rng.uniform() < 0.3 else None
    shares = [rng.uniform(0.32, 0.45), rng.uniform(0.22, 0.3)]
    sounds = [(first, shares[0] * seconds), (vowel, 0.0), (last, shares[1] * seconds)]
    sounds = [(symbol, length) for symbol, length in sounds if symbol is not None]
    taken = sum(length for _, length in sounds)
    # A vowel that would be too short takes time from its consonants.
    kept = min(1.0, max(seconds - _SHORTEST_VOWEL, 0.0) / taken) if taken else 1.0
    phones = []
    for symbol, length in sounds:
        length = seconds - kept * taken if symbol == vowel else kept * length
        phones.append(Phone(str(symbol), onset, length, stress, vowel))
        onset += length
    return phones


def _course(speech: Speech) -> tuple[FloatArray, list[list[float]]]:
    """What holds until when: ends of the pieces of all sounds and pauses, (P,), and their targets.

    The last target is that of the silence after the last piece.
    """
    silence = [*_NEUTRAL.formants, 0.0, 0.0, 0.0, 2000.0, 0.0, 0.0, 0.0]
    ends: list[float] = []
    rows: list[list[float]] = []
    now = 0.0
    for phone in speech.phones:
        if phone.onset_seconds > now + 0.5 / CONTROL_RATE:
            ends.append(phone.onset_seconds)
            rows.append(silence)
        now = phone.onset_seconds
        for share, row in _pieces(phone):
            now += share * phone.seconds
            ends.append(now)
            rows.append(row)
    return np.array(ends), [*rows, silence]


def _pieces(phone: Phone) -> list[tuple[float, list[float]]]:
    """The pieces of a speech sound: fraction of its time, and targets as in `_course`."""
    vowel = VOWELS[phone.vowel]
    loudness = 0.45 + 0.55 * phone.stress
    openness = 0.7 + 0.3 * phone.stress
    if phone.symbol in VOWELS:
        level = loudness * (0.5 + 0.5 * vowel.opening)
        row = [level, 0.0, 0.0, 2000.0, openness * vowel.opening, vowel.width, 0.0]
        return [(1.0, [*vowel.formants, *row])]
    made = CONSONANTS[phone.symbol]
    formants = made.formants or vowel.formants
    width = vowel.width if made.width is None else made.width
    closed = float(phone.symbol in LIPS_CLOSED)
    pieces = []
    for number, (share, voice, breath, hiss) in enumerate(made.pieces):
        # The lips open with the burst of a plosive, its second piece.
        shut = closed if number == 0 else 0.0
        levels = [loudness * level for level in (voice, breath, hiss)]
        row = [*levels, made.hiss_hz, made.opening, width, shut]
        pieces.append((share, [*formants, *row]))
    return pieces


def _pitch(speech: Speech, times: FloatArray) -> FloatArray:
    """Fundamental frequency: each phrase falls, with a rise on stressed syllables."""
    reach = speech.voice.pitch_semitones
    height: FloatArray = np.zeros(len(times))
    for phrase in speech.phrases:
        along = (times - phrase.onset_seconds) / phrase.seconds
        inside = (along >= 0) & (along <= 1)
        end = np.clip((along - 0.8) / 0.2, 0, 1) if phrase.rises else 0.0
        height = np.where(inside, 0.6 - 1.3 * along + 1.5 * end, height)
    for phone in speech.phones:
        if phone.symbol in VOWELS and phone.stress > 0.75:
            since = times - phone.onset_seconds - 0.4 * phone.seconds
            height += 2.4 * (phone.stress - 0.75) * np.exp(-0.5 * (since / 0.07) ** 2)
    pitch: FloatArray = speech.voice.pitch_hz * 2 ** (
        reach * np.tanh(_smooth(height, _LIPS_SECONDS)) / 12
    )
    return pitch


def _smooth(values: FloatArray, seconds: float) -> FloatArray:
    """Moving average over a Hann window of a width in seconds; ends are continued."""
    half = max(round(seconds * CONTROL_RATE / 2), 1)
    window = np.hanning(2 * half + 1)
    padded = np.pad(values, half, mode="edge")
    smooth: FloatArray = np.convolve(padded, window / window.sum(), mode="valid")
    return smooth
