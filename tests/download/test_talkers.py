from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.signal import resample_poly

from sop.download.synthetic import PlannedVideo, plan, read_truth, render
from sop.download.synthetic.pen import Pen
from sop.download.synthetic.scene import RenderedScene
from sop.download.synthetic.speech import (
    CONTROL_RATE,
    VOWELS,
    Phone,
    Phrase,
    Speech,
    gestures,
    speak,
)
from sop.download.synthetic.talker import Face, draw_talker, talker_look
from sop.download.synthetic.voice import synthesize_speech

SEED, SECONDS, RATE = 3, 6.0, 22050
WIDTH, HEIGHT = 160, 120
PAIR = PlannedVideo("talker_talker", "talker_talker_000", ("talker", "talker"), 0)
KINDS = ("same_duets", "resting_solos", "resting_duets", "talkers", "talker_pairs")
COUNTS = {**dict.fromkeys(KINDS, 0), "solos": 1, "duets": 2}


@cache
def speech_of(index: int) -> Speech:
    return speak(SECONDS, np.random.default_rng([SEED, index]))


@cache
def sound_of(index: int) -> np.ndarray:
    return synthesize_speech(speech_of(index), SECONDS, np.random.default_rng([index]), RATE)


def held(symbol: str, speech: Speech) -> Speech:
    """The same voice, holding one vowel for a second."""
    phone = Phone(symbol, 0.0, 1.0, 0.6, symbol)
    return Speech(speech.voice, (phone,), (Phrase(0.0, 1.0, False),), (0.0,))


def at_control_rate(sound: np.ndarray) -> np.ndarray:
    """RMS around each moment of the gestures, over 50 ms."""
    power = np.convolve(sound**2, np.hanning(RATE // 20) / (RATE // 40), "same")
    moments = np.arange(round(SECONDS * CONTROL_RATE)) * RATE // CONTROL_RATE
    return np.sqrt(np.maximum(power[moments], 0))


@pytest.mark.parametrize("index", range(4))
def test_rate_phrases_and_pauses_of_speech(index: int) -> None:
    speech = speech_of(index)
    phones = speech.phones
    ends = np.array([phone.onset_seconds + phone.seconds for phone in phones])
    onsets = np.array([phone.onset_seconds for phone in phones])
    assert onsets[0] >= 0
    assert ends[-1] <= SECONDS + 1e-9
    gaps = onsets[1:] - ends[:-1]
    pauses = gaps[gaps > 1e-6]
    assert np.all(gaps > -1e-6)
    assert np.all((pauses > 0.14) & (pauses < 0.71))
    assert len(pauses) >= 2
    assert set(speech.onsets_seconds) <= set(onsets.tolist())
    steps = np.diff(speech.onsets_seconds)
    assert 2.5 < 1 / np.median(steps) < 8


def test_people_differ_in_voice_and_words() -> None:
    first, second = speech_of(0), speech_of(1)
    assert first.voice != second.voice
    assert [p.symbol for p in first.phones] != [p.symbol for p in second.phones]
    assert speak(SECONDS, np.random.default_rng([SEED, 0])) == first


@pytest.mark.parametrize("index", range(4))
def test_silence_in_pauses_and_at_no_other_time(index: int) -> None:
    moves, level = gestures(speech_of(index), SECONDS), at_control_rate(sound_of(index))
    made = (moves.voice + moves.breath + moves.hiss)[: len(level)]
    loud = level[made > 0.5].mean()
    # 40 ms from any sound, so that the filters have rung out.
    near = np.convolve(made > 1e-6, np.ones(33), "same") > 0.5
    assert level[~near].size > 50
    assert level[~near].max() < 0.01 * loud
    assert np.percentile(level[made > 0.5], 2) > 0.1 * loud


def test_pitch_is_the_planned_one_within_the_range_of_the_person() -> None:
    for index in range(4):
        speech = speech_of(index)
        moves, voice = gestures(speech, SECONDS), speech.voice
        reach = 2 ** (voice.pitch_semitones / 12)
        assert voice.pitch_hz / reach >= 80
        assert voice.pitch_hz * reach <= 260
        assert np.all(np.abs(np.log2(moves.pitch_hz / voice.pitch_hz)) <= np.log2(reach))
        vowel = max((p for p in speech.phones if p.symbol in VOWELS), key=lambda p: p.seconds)
        middle = vowel.onset_seconds + vowel.seconds / 2
        start = round((middle - 0.03) * RATE)
        heard = sound_of(index)[start : start + round(0.06 * RATE)]
        likeness = np.correlate(heard, heard, "full")[len(heard) - 1 :]
        # Half and double the pitch are out of reach.
        planned = moves.pitch_hz[round(middle * CONTROL_RATE)]
        lags = np.arange(round(RATE / planned / 1.5), round(RATE / planned * 1.5))
        found = RATE / lags[likeness[lags].argmax()]
        assert found == pytest.approx(planned, rel=0.04)


@pytest.mark.parametrize("symbol", ["i", "e", "ae", "a"])
@pytest.mark.parametrize("index", [0, 1])
def test_formants_of_vowels(symbol: str, index: int) -> None:
    speech = held(symbol, speech_of(index))
    sound = synthesize_speech(speech, 1.0, np.random.default_rng(0), RATE)
    middle = sound[round(0.2 * RATE) : round(0.8 * RATE)]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**15)) ** 2
    hz = np.fft.rfftfreq(2**15, 1 / RATE)
    # Smoothed over the harmonics, and without the fall of the source.
    width = int(1.2 * speech.voice.pitch_hz / hz[1])
    envelope = np.convolve(spectrum * hz**2, np.hanning(width), "same")
    first, second, third = gestures(speech, 1.0).formants_hz[:, CONTROL_RATE // 2]
    between = (0.5 * first, (first + second) / 2, (second + third) / 2)
    for formant, low, high in zip((first, second), between[:-1], between[1:], strict=True):
        nearby = (hz > low) & (hz < high)
        peak = hz[nearby][envelope[nearby].argmax()]
        assert peak == pytest.approx(formant, abs=0.6 * speech.voice.pitch_hz)


def test_consonants_are_unvoiced_where_planned() -> None:
    """Fricatives have their power at high frequencies, vowels at low ones."""
    high = {"s": [], "vowel": []}
    for index in range(8):
        for phone in speech_of(index).phones:
            kind = "vowel" if phone.symbol in VOWELS else phone.symbol
            if kind in high and phone.seconds > 0.06:
                start = round((phone.onset_seconds + 0.3 * phone.seconds) * RATE)
                part = sound_of(index)[start : start + round(0.4 * phone.seconds * RATE)]
                power = np.abs(np.fft.rfft(part)) ** 2
                hz = np.fft.rfftfreq(len(part), 1 / RATE)
                high[kind].append(power[hz > 2500].sum() / power.sum())
    assert len(high["s"]) >= 5
    assert np.min(high["s"]) > 0.5
    assert np.median(high["vowel"]) < 0.05


def test_mouth_follows_the_sound_of_its_own_talker_only() -> None:
    own, other = [], []
    for index in range(12):
        opening = gestures(speech_of(index), SECONDS).opening[:-1]
        own.append(np.corrcoef(opening, at_control_rate(sound_of(index)))[0, 1])
        level = at_control_rate(sound_of((index + 1) % 12))
        other.append(np.corrcoef(opening, level)[0, 1])
    assert min(own) > 0.6
    assert abs(np.mean(other)) < 0.1


def test_mouth_closes_for_lips_and_pauses_and_rounds_for_u() -> None:
    moves = gestures(speech_of(0), SECONDS)
    silent = np.convolve(moves.voice + moves.breath + moves.hiss, np.ones(81), "same") < 1e-9
    assert silent.any()
    assert moves.opening[silent].max() == 0
    for phone in (p for index in range(6) for p in speech_of(index).phones):
        if phone.symbol == "m" and phone.seconds > 0.05:
            said = Speech(speech_of(0).voice, (phone,), (Phrase(0, 6, False),), ())
            around = gestures(said, SECONDS)
            middle = round((phone.onset_seconds + phone.seconds / 2) * CONTROL_RATE)
            assert around.opening[middle] < 0.02
    widths = {s: gestures(held(s, speech_of(0)), 1.0).width[CONTROL_RATE // 2] for s in "iau"}
    assert widths["u"] < -0.9 < 0.9 < widths["i"]
    openings = {s: gestures(held(s, speech_of(0)), 1.0).opening[CONTROL_RATE // 2] for s in "iau"}
    assert openings["a"] > 2 * max(openings["i"], openings["u"])


@pytest.mark.parametrize(
    "change", [{"opening": 1.0}, {"width": 1.0}, {"width": -1.0}, {"lids": 0.0}, {"tilt": 0.06}]
)
def test_face_moves(change: dict[str, float]) -> None:
    still = Face(opening=0.3, width=0.0, lids=1.0, tilt=0.0, shift=0.0, nod=0.0)
    look = talker_look(np.random.default_rng(SEED))
    pictures = []
    for face in (still, still._replace(**change)):
        image = Image.new("RGB", (WIDTH, HEIGHT))
        draw_talker(Pen(ImageDraw.Draw(image), (80.0, 6.0), 110.0), look, face)
        pictures.append(np.asarray(image, dtype=int))
    assert (np.abs(pictures[1] - pictures[0]).max(axis=-1) > 40).sum() > 20


def test_talkers_of_a_pair_are_side_by_side_and_their_heads_are_large() -> None:
    speeches = [speech_of(0), speech_of(1)]
    scene = RenderedScene(
        PAIR.instruments,
        speeches,
        width=WIDTH,
        height=HEIGHT,
        frame_rate=8,
        frames=48,
        rng=np.random.default_rng(SEED),
    )
    left, right = sorted(scene.boxes, key=lambda box: float(box[0, 0]))
    assert np.all(left[:, 2] <= right[:, 0])
    for box in (left, right):
        assert np.all((box[:, 0] >= 0) & (box[:, 1] >= 0) & (box[:, 2] <= WIDTH))
        # The head is 0.66 of the shoulders' distance from the head's top at this width.
        assert np.all((box[:, 2] - box[:, 0]) * 0.66 / 0.74 > 0.45 * HEIGHT)
        assert np.all(box[:, 3] == HEIGHT)
    frames = [np.frombuffer(raw, np.uint8) for raw in scene.frames()]
    assert len(frames) == 48
    assert {len(frame) for frame in frames} == {WIDTH * HEIGHT * 3}


def test_more_talkers_change_no_other_video() -> None:
    none = plan(SimpleNamespace(**COUNTS), SEED)
    few = plan(SimpleNamespace(**COUNTS | {"talkers": 2, "talker_pairs": 1}), SEED)
    more = plan(SimpleNamespace(**COUNTS | {"talkers": 5, "talker_pairs": 3}), SEED)
    assert few[: len(none)] == none
    assert set(few) < set(more)
    names = [video.name for video in more[len(none) :]]
    assert names[:5] == [f"talker_{index:03d}" for index in range(5)]
    assert names[5:] == [f"talker_talker_{index:03d}" for index in range(3)]
    assert {v.category: v.instruments for v in more}["talker_talker"] == ("talker", "talker")


def test_pair_is_rendered_reproducibly_with_its_truth(tmp_path: Path) -> None:
    params = SimpleNamespace(
        **COUNTS, seconds=2.5, width=96, height=72, frame_rate=12, sample_rate=16000
    )
    for folder in (tmp_path / "first", tmp_path / "again"):
        render(PAIR, params, SEED, folder)
    for name in (f"{PAIR.name}.mp4", f"{PAIR.name}.truth.npz"):
        first, again = (tmp_path / f / PAIR.category / name for f in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()
    truth = read_truth(tmp_path / "first" / PAIR.category / f"{PAIR.name}.truth.npz")
    assert truth.instruments == PAIR.instruments
    assert truth.stems.shape == (2, 40000)
    assert truth.boxes.shape == (2, 30, 4)
    assert set(truth.onset_instruments.tolist()) == {0, 1}
    assert np.all(np.diff(truth.onsets_seconds) >= 0)
    first, second = truth.stems.astype(float)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert abs(20 * np.log10(first.std() / second.std())) < 3.1


@pytest.mark.parametrize("sample_rate", [8000, 48000])
def test_any_sample_rate(sample_rate: int) -> None:
    sound = synthesize_speech(speech_of(0), SECONDS, np.random.default_rng(0), sample_rate)
    assert sound.shape == (round(SECONDS * sample_rate),)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() < 20
    if sample_rate > RATE:
        down = resample_poly(sound, RATE, sample_rate)
        levels = at_control_rate(down), at_control_rate(sound_of(0))
        assert np.corrcoef(*levels)[0, 1] > 0.95
