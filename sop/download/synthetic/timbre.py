"""Notes of each instrument, synthesized from harmonics, an envelope and noise.

Pitches and harmonics of the ten instruments overlap, so that no fixed filter separates them. They
differ in the shape of the spectrum, its change within a note, and the noise.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter

from sop.download.synthetic.melody import Note

Samples = NDArray[np.float32]
FloatArray = NDArray[np.float64]

HIGHEST_SHARE = 0.45
"""Partials above this share of the sample rate are left out."""

_TABLE = 2048
_MAX_HARMONICS = 48
_WIDEST_BEND = 1.04


class _Tone(NamedTuple):
    """Parameters of one note."""

    pitch_hz: float
    length: int
    loudness: float
    rng: Generator
    sample_rate: int

    @property
    def times(self) -> FloatArray:
        """Seconds since the onset, (L,)."""
        return np.arange(self.length) / self.sample_rate

    @property
    def harmonics(self) -> tuple[FloatArray, FloatArray]:
        """Numbers 1, 2, ... and frequencies in Hz of the harmonics without aliasing, each (K,)."""
        count = int(HIGHEST_SHARE * self.sample_rate / (self.pitch_hz * _WIDEST_BEND))
        numbers = np.arange(1, 1 + min(count, _MAX_HARMONICS), dtype=np.float64)
        return numbers, numbers * self.pitch_hz

    def wavetable(
        self, bend: FloatArray, dark: FloatArray, bright: FloatArray, brightness: FloatArray
    ) -> FloatArray:
        """Harmonics under a moving pitch: one period of two spectra, faded into one another.

        Args:
            bend: relative deviation of the pitch, (L,), within +-0.04.
            dark: amplitudes of the harmonics at brightness 0, (K,).
            bright: the same at brightness 1, (K,).
            brightness: (L,), nominally 0 to 1.
        """
        turns = np.cumsum(self.pitch_hz * (1 + bend)) / self.sample_rate + self.rng.uniform()
        place = (turns % 1.0) * _TABLE
        whole = place.astype(np.int32)
        part = place - whole
        phases = self.rng.uniform(0, 2 * np.pi, len(dark))
        table = _period(dark, phases)
        towards = _period(bright, phases) - table

        def interpolated(period: FloatArray) -> FloatArray:
            values: FloatArray = period[whole] + part * np.diff(period, append=period[:1])[whole]
            return values

        return interpolated(table) + brightness * interpolated(towards)

    def ringing(
        self, frequencies: FloatArray, amplitudes: FloatArray, decays: FloatArray
    ) -> FloatArray:
        """Decaying sines, (L,): frequencies in Hz, decays in 1/s, each (K,).

        A power of a complex number at n = row * width + column is a product of two, so that the sum
        over the sines is one matrix product rather than L * K exponentials.
        """
        width = max(int(np.sqrt(self.length)), 1)
        rows = -(-self.length // width)
        rates = (2j * np.pi * frequencies - decays) / self.sample_rate
        phases = self.rng.uniform(-0.5, 0.5, len(frequencies))
        starts = amplitudes * np.exp(1j * phases) / np.sqrt(np.sum(amplitudes**2) / 2)
        coarse = starts * np.exp(np.outer(np.arange(rows) * width, rates))
        fine = np.exp(np.outer(rates, np.arange(width)))
        sound: FloatArray = (coarse.real @ fine.imag + coarse.imag @ fine.real).ravel()
        return sound[: self.length]

    def band_noise(self, centre_hz: float, width: float) -> FloatArray:
        """Noise of RMS 1 around a frequency, (L,); `width` near 0 is narrow, near 1 wide."""
        angle = 2 * np.pi * min(centre_hz / self.sample_rate, HIGHEST_SHARE)
        radius = math.exp(-0.5 * angle * width)
        noise = self.rng.standard_normal(self.length)
        shaped: FloatArray = lfilter(
            [1.0, 0.0, -1.0], [1.0, -2 * radius * math.cos(angle), radius**2], noise
        )
        return shaped / math.sqrt(2 / (1 - radius**2))

    def held(self, attack_seconds: float, release_seconds: float) -> FloatArray:
        """The envelope of a held note, (L,): up, on, and down to silence at the very end."""
        envelope = np.ones(self.length)
        attack = min(int(attack_seconds * self.sample_rate), int(0.4 * self.length))
        release = min(int(release_seconds * self.sample_rate), int(0.4 * self.length))
        envelope[:attack] = np.sin(0.5 * np.pi * np.arange(attack) / max(attack, 1)) ** 2
        envelope[self.length - release :] *= np.cos(
            0.5 * np.pi * np.arange(release) / max(release, 1)
        )
        return envelope

    def rise(self, seconds: float) -> FloatArray:
        """From 0 at the onset towards 1, (L,)."""
        return 1 - np.exp(-self.times / seconds)

    def vibrato(self, rate_hz: float, depth: float, delay_seconds: float) -> FloatArray:
        """Relative deviation of the pitch, (L,): a vibrato that sets in after a while."""
        rate_hz *= self.rng.uniform(0.92, 1.08)
        phase = self.rng.uniform(0, 2 * np.pi)
        onset = np.clip(self.times / delay_seconds, 0, 1)
        swing: FloatArray = np.sin(2 * np.pi * rate_hz * self.times + phase)
        return depth * onset * swing

    def brass_bend(self, rate_hz: float, depth: float) -> FloatArray:
        """The pitch of a brass note, (L,): it finds its place from below, then a slight vibrato."""
        return self.vibrato(rate_hz, depth, 0.3) - 0.02 * np.exp(-self.times / 0.025)


def synthesize(instrument: str, note: Note, rng: Generator, sample_rate: int) -> Samples:
    """Synthesize one note from its onset to its end.

    Args:
        instrument: one of `INSTRUMENTS`.
        note: plucked and struck notes ring for its length; for some instruments louder notes are
            brighter, too.
        rng: source of the differences between notes: phases, noise, vibrato.
        sample_rate: sample rate, Hz.

    Returns:
        (L,), L = seconds * sample_rate rounded; RMS near the loudness while the note is full.
    """
    length = max(round(note.seconds * sample_rate), 1)
    tone = _Tone(note.pitch_hz, length, note.loudness, rng, sample_rate)
    return (note.loudness * _VOICES[instrument](tone)).astype(np.float32)


def _accordion(tone: _Tone) -> FloatArray:
    """Three reeds a few cents apart, beating, under the bellows' tremolo."""
    k, frequencies = tone.harmonics
    dark = k**-0.9 * (1 + 0.5 * (k % 2 == 0)) * _formant(frequencies, 900, 900, 1.5)
    bright = dark * k**0.35
    phase = tone.rng.uniform(0, 2 * np.pi)
    bellows: FloatArray = 1 + 0.22 * np.sin(2 * np.pi * 5.2 * tone.times + phase)
    brightness = 0.3 + 0.5 * tone.loudness * bellows
    sound = np.zeros(tone.length)
    for detuning in (0.9945, 1.0, 1.0058):
        bend = np.full(tone.length, detuning - 1)
        sound += tone.wavetable(bend, dark, bright, brightness)
    return sound * 3**-0.5 * bellows * tone.held(0.05, 0.06)


def _acoustic_guitar(tone: _Tone) -> FloatArray:
    """A plucked string: every partial decays, the higher the faster; a touch of the finger."""
    k, frequencies = tone.harmonics
    place = tone.rng.uniform(0.17, 0.28)
    frequencies = frequencies * np.sqrt(1 + 6e-5 * k**2)
    amplitudes = np.abs(np.sin(np.pi * k * place)) * k**-1.1 * (1 + tone.loudness * k / 12)
    amplitudes *= _formant(frequencies, 210, 120, 1.2)
    decays = 1.3 + 0.0016 * frequencies + 0.12 * k
    sound = tone.ringing(frequencies, amplitudes, decays)
    pluck: FloatArray = tone.band_noise(1800, 0.5) * np.exp(-tone.times / 0.008)
    return (1.9 * sound + 0.25 * pluck) * tone.held(0.002, 0.03)


def _cello(tone: _Tone) -> FloatArray:
    """A bowed string an octave and more below the violin, slower and darker."""
    k, frequencies = tone.harmonics
    body = _formant(frequencies, 220, 90, 2) * _formant(frequencies, 620, 200, 1.4)
    dark = body * k**-1.05 / (1 + (frequencies / 2300) ** 4)
    sound = tone.wavetable(tone.vibrato(4.9, 0.007, 0.25), dark, dark * k**0.4, tone.rise(0.25))
    bow = tone.band_noise(900, 0.6)
    return (sound + 0.05 * bow) * tone.held(0.14, 0.12)


def _clarinet(tone: _Tone) -> FloatArray:
    """Strong odd harmonics, weak even ones and little vibrato."""
    k, frequencies = tone.harmonics
    weight = np.where(k % 2 == 1, 1.0, 0.03 + 0.025 * np.minimum(k, 8))
    dark = weight * k**-1.0 / (1 + (frequencies / 2200) ** 3)
    sound = tone.wavetable(tone.vibrato(4.0, 0.001, 0.3), dark, dark * k**0.7, tone.rise(0.08))
    return (sound + 0.012 * tone.band_noise(2500, 0.7)) * tone.held(0.035, 0.05)


def _flute(tone: _Tone) -> FloatArray:
    """Nearly a sine, with breath noise around it and a slow vibrato of pitch and strength."""
    k, _ = tone.harmonics
    dark = np.where(k <= 5, 0.24 ** (k - 1), 0.0)
    bright = np.where(k <= 6, 0.42 ** (k - 1), 0.0)
    vibrato = tone.vibrato(4.7, 0.006, 0.2)
    sound = tone.wavetable(vibrato, dark, bright, tone.loudness * tone.rise(0.1))
    breath = tone.band_noise(tone.pitch_hz * 2, 0.8) + tone.band_noise(3200, 0.7)
    chiff = 1 + 2.5 * np.exp(-tone.times / 0.04)
    return (sound * (1 + 25 * vibrato) + 0.075 * breath * chiff) * tone.held(0.06, 0.08)


def _saxophone(tone: _Tone) -> FloatArray:
    """A reed with strong formants, a growl in its strength and breath in the bell."""
    k, frequencies = tone.harmonics
    body = _formant(frequencies, 750, 190, 4) * _formant(frequencies, 1350, 260, 2.5)
    dark = body * k**-0.75 / (1 + (frequencies / 3000) ** 3)
    bend = tone.vibrato(5.3, 0.007, 0.15) - 0.03 * np.exp(-tone.times / 0.035)
    sound = tone.wavetable(bend, dark, dark * k**0.5, tone.loudness * tone.rise(0.05))
    growl = 1 + 0.28 * np.sin(2 * np.pi * tone.rng.uniform(26, 34) * tone.times)
    breath = tone.band_noise(1700, 0.9)
    return (sound * growl + 0.05 * breath) * tone.held(0.03, 0.05)


def _trumpet(tone: _Tone) -> FloatArray:
    """Bright brass: its upper harmonics come after the lower, and the more the louder it is."""
    k, frequencies = tone.harmonics
    body = _formant(frequencies, 1300, 500, 2.2)
    dark = body * k**-1.1 / (1 + (frequencies / 1500) ** 3)
    bright = body * k**-0.3 / (1 + (frequencies / 4200) ** 4)
    blare = (0.35 + 0.65 * tone.loudness) * tone.rise(0.07)
    sound = tone.wavetable(tone.brass_bend(5.4, 0.004), dark, bright, blare)
    return sound * (0.75 + 0.25 * np.exp(-tone.times / 0.06)) * tone.held(0.025, 0.05)


def _tuba(tone: _Tone) -> FloatArray:
    """Low brass: a round spectrum that opens slowly after the attack."""
    k, frequencies = tone.harmonics
    dark = k**-0.5 / (1 + (frequencies / 380) ** 3)
    bright = k**-0.4 / (1 + (frequencies / 850) ** 3)
    blare = (0.3 + 0.7 * tone.loudness) * tone.rise(0.12)
    sound = tone.wavetable(tone.brass_bend(3.5, 0.001), dark, bright, blare)
    breath: FloatArray = tone.band_noise(350, 0.5) * np.exp(-tone.times / 0.09)
    return (sound + 0.15 * breath) * tone.held(0.06, 0.08)


def _violin(tone: _Tone) -> FloatArray:
    """A bowed string: a sawtooth through the body's resonances, with a wide vibrato."""
    k, frequencies = tone.harmonics
    body = _formant(frequencies, 480, 120, 1.6) * _formant(frequencies, 2700, 700, 2.6)
    dark = body * k**-0.95
    vibrato = tone.vibrato(6.0, 0.013, 0.12)
    sound = tone.wavetable(vibrato, dark, dark * k**0.3, tone.rise(0.1))
    bow = tone.band_noise(2300, 0.7)
    return (sound * (1 + 8 * vibrato) + 0.06 * bow) * tone.held(0.07, 0.07)


def _xylophone(tone: _Tone) -> FloatArray:
    """A struck bar: three inharmonic partials that die fast, after the mallet's click."""
    ratios = np.array([1.0, 3.93, 9.2])
    frequencies = ratios * tone.pitch_hz
    heard = frequencies < HIGHEST_SHARE * tone.sample_rate
    amplitudes = np.array([1.0, 0.55, 0.25]) * (0.6 + 0.4 * tone.loudness)
    decays = np.array([6.0, 15.0, 32.0]) * (tone.pitch_hz / 700) ** 0.4
    sound = tone.ringing(frequencies[heard], amplitudes[heard], decays[heard])
    click: FloatArray = tone.band_noise(2600, 0.6) * np.exp(-tone.times / 0.005)
    return (2.2 * sound + 0.6 * click) * tone.held(0.001, 0.03)


_VOICES = {
    voice.__name__.removeprefix("_"): voice
    for voice in (
        *(_accordion, _acoustic_guitar, _cello, _clarinet, _flute),
        *(_saxophone, _trumpet, _tuba, _violin, _xylophone),
    )
}

INSTRUMENTS = tuple(sorted(_VOICES))


def _period(amplitudes: FloatArray, phases: FloatArray) -> FloatArray:
    """One period of a sound of RMS 1, (_TABLE,)."""
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=complex)
    spectrum[1 : 1 + len(amplitudes)] = amplitudes * np.exp(1j * phases)
    period = np.fft.irfft(spectrum)
    return period / float(np.sqrt(np.mean(period**2)))


def _formant(frequencies: FloatArray, centre_hz: float, width_hz: float, gain: float) -> FloatArray:
    """A resonance: 1 far from its centre, 1 + gain at it."""
    return 1 + gain * np.exp(-0.5 * ((frequencies - centre_hz) / width_hz) ** 2)
