"""Players: a figure with its instrument, drawn in a pose that follows the notes.

Coordinates: the head of the figure is at y = 0, its feet at y = 1, and its middle at x = 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sop.download.synthetic.melody import Note, Rest
from sop.download.synthetic.pen import Colour, Pen, Point, rgb

_DARK: Colour = (28, 26, 30)
_IVORY: Colour = (240, 236, 222)
_SHOULDER = 0.15
_EASE_SECONDS = 0.25
_IDLE_BOW = 0.2
"""How far the bow drifts at rest: a fifth of the speed at which it moves while playing."""
_IDLE_HAND = 0.12


@dataclass(frozen=True)
class Pose:
    """Pose of a player at one moment."""

    level: float
    """Level of the sounding note, 0 to 1."""
    strike: float
    """1 at an onset, decaying to 0 within a fifth of a second."""
    bow: float
    """Position of the bow or bellows, -1 to 1; its direction changes with every note."""
    pitch: float
    """Position of the pitch in the range of the melody, 0 to 1."""
    count: int
    """Number of onsets so far."""
    rest: float = 0.0
    """1 at rest, 0 while playing."""


class Look(NamedTuple):
    """Colours of one player."""

    skin: Colour
    hair: Colour
    long_hair: bool
    shirt: Colour
    trousers: Colour
    body: Colour
    """Main colour of the instrument."""
    shade: Colour
    """Darker variant of the main colour."""
    light: Colour
    """Lighter variant of the main colour."""
    hues: float
    """Hue shift of the xylophone's bars, in turns."""


@dataclass(frozen=True)
class Idle:
    """Aimless slow motion of a player at rest; each array has one value per frame."""

    rest: NDArray[np.float64]
    """1 at rest, 0 while playing, with soft changes that begin and end within the rest."""
    bow: NDArray[np.float64]
    """Drift of the bow or bellows, in units of `Pose.bow`."""
    hand: NDArray[np.float64]
    """Drift of the hand, in units of `Pose.pitch`."""
    held: float
    """Position of the hand of a player without notes, 0 to 1."""


def idle(
    rests: Sequence[Rest],
    times: NDArray[np.float64],
    bow: NDArray[np.float64],
    hand: NDArray[np.float64],
    held: float,
) -> Idle:
    """Return the idle motion of a player.

    Args:
        rests: when it rests, at least once.
        times: times in seconds, one per frame.
        bow: motion of the bow, -1 to 1, one value per frame.
        hand: motion of the hand, likewise.
        held: position of the hand of a player without notes, 0 to 1.
    """
    begins, ends = np.array(rests).T
    inside = np.minimum(times[:, None] - begins, ends - times[:, None]).max(axis=1)
    weight = np.clip(inside / _EASE_SECONDS, 0, 1)
    return Idle(weight, _IDLE_BOW * weight * bow, _IDLE_HAND * weight * hand, held)


def poses(
    notes: Sequence[Note], times: NDArray[np.float64], bow: float, resting: Idle | None = None
) -> list[Pose]:
    """Return the poses of a player that follow its notes.

    Args:
        notes: melody, sorted by onset; none if the player rests all through.
        times: evenly spaced times in seconds, one per frame.
        bow: initial position of the bow, -1 to 1.
        resting: motion in the rests; None if the player has none.
    """
    waiting = not notes
    if waiting:
        # The player waits for a note that comes after the video.
        notes = [Note(float(times[-1]) + 1.0, 1.0, 440.0, 1.0)]
    onsets = np.array([note.onset_seconds for note in notes])
    lengths = np.array([note.seconds for note in notes])
    strengths = np.array([note.loudness for note in notes])
    heights = np.log2([note.pitch_hz for note in notes])
    heights = (heights - heights.min()) / max(float(np.ptp(heights)), 1e-6)
    since = times[:, None] - onsets
    rising = np.clip(since / 0.06, 0, 1)
    falling = np.clip((lengths + 0.06 - since) / 0.06, 0, 1)
    levels = np.where(since >= 0, rising * falling * strengths, 0.0).max(axis=1)
    starts = np.unique(onsets)
    counts = np.searchsorted(starts, times, side="right")
    last = np.where(counts > 0, starts[np.maximum(counts - 1, 0)], -np.inf)
    strikes = np.exp(-(times - last) / 0.09)
    playing = np.clip(np.searchsorted(onsets, times, side="right") - 1, 0, None)
    direction = np.where(counts % 2 == 0, 1.0, -1.0)
    seconds_per_frame = float(times[1] - times[0]) if len(times) > 1 else 0.0
    speeds = direction * (0.15 + levels)
    if resting:
        speeds = speeds * (1 - resting.rest)
    moved = np.cumsum(speeds) * seconds_per_frame * 3.2 + bow
    bows = np.abs((moved + 1) % 4 - 2) - 1
    columns = [levels, strikes, bows, heights[playing], counts]
    if resting:
        hands = np.full(len(times), resting.held) if waiting else heights[playing]
        moving = [np.clip(bows + resting.bow, -1, 1), np.clip(hands + resting.hand, 0, 1)]
        columns = [levels, strikes, *moving, counts, resting.rest]
    return [Pose(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def look(instrument: str, rng: Generator) -> Look:
    """Choose colours around those typical for the instrument; clothes, skin and hair are free."""
    hue, hue_spread, saturation, value = _COLOURS[instrument]
    hue += rng.uniform(-hue_spread, hue_spread)
    saturation *= rng.uniform(0.85, 1.1)
    value *= rng.uniform(0.85, 1.1)
    skin_tone = rng.uniform()
    return Look(
        skin=rgb(rng.uniform(0.05, 0.085), 0.35 + 0.25 * skin_tone, 0.95 - 0.5 * skin_tone),
        hair=rgb(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.08, 0.6)),
        long_hair=bool(rng.uniform() < 0.4),
        shirt=rgb(rng.uniform(), rng.uniform(0.1, 0.75), rng.uniform(0.3, 0.9)),
        trousers=rgb(rng.uniform(), rng.uniform(0.05, 0.5), rng.uniform(0.12, 0.5)),
        body=rgb(hue, saturation, value),
        shade=rgb(hue, saturation * 1.1, value * 0.5),
        light=rgb(hue, saturation * 0.5, value * 0.6 + 0.48),
        hues=float(rng.uniform(-0.06, 0.06)),
    )


def draw_player(pen: Pen, instrument: str, style: Look, pose: Pose) -> None:
    """Draw the figure with its instrument; `pen.box` then encloses both."""
    _figure(pen, style, pose, seated=instrument in ("cello", "tuba"))
    _INSTRUMENTS[instrument](pen, style, pose)


def _accordion(pen: Pen, style: Look, pose: Pose) -> None:
    """A wide box with bellows that open and close, a keyboard on its right."""
    half = 0.15 + 0.075 * pose.bow
    top, bottom = 0.38, 0.8
    spread = 0.03 + 0.02 * pose.bow
    folds = 9
    for i in range(folds):
        left = -half + 2 * half * i / folds
        right = left + 2 * half / folds
        out = 0.02 if i % 2 else 0.0
        upper = [(x, top + out + spread * abs(x) / half * 0.4) for x in (left, right)]
        lower = [(right, bottom - out), (left, bottom - out)]
        pen.polygon(upper + lower, style.light if i % 2 else _DARK)
    pen.rectangle((-half - 0.16, top - 0.02, -half, bottom + 0.02), style.body)
    for row in range(4):
        for column in range(2):
            centre = (-half - 0.11 + 0.055 * column, top + 0.07 + 0.09 * row)
            pen.disc(centre, 0.016, _IVORY)
    pen.rectangle((half, top - 0.02, half + 0.08, bottom + 0.02), style.body)
    pen.rectangle((half + 0.08, top - 0.02, half + 0.23, bottom + 0.02), _IVORY)
    for key in range(7):
        y = top + 0.02 + 0.06 * key
        pen.rectangle((half + 0.08, y - 0.015, half + 0.16, y + 0.017), _DARK)
    hand = top + 0.1 + 0.22 * pose.pitch
    _arm(pen, style, -1, (-half - 0.16, 0.6), bend=0.1)
    _arm(pen, style, 1, (half + 0.2 - 0.02 * pose.strike, hand), bend=0.1)


def _acoustic_guitar(pen: Pen, style: Look, pose: Pose) -> None:
    """A pale figure of eight with a round hole across the lap, its neck aslant to the right."""
    guitar = pen.along((-0.06, 0.66), -0.38)
    for colour, margin in ((style.shade, 0.016), (style.body, 0.0)):
        guitar.oval((-0.13, 0), (0.175 + margin, 0.19 + margin), colour)
        guitar.oval((0.09, 0), (0.125 + margin, 0.14 + margin), colour)
        guitar.profile([(-0.1, 0.125 + margin / 2), (0.08, 0.125 + margin / 2)], colour)
    guitar.profile([(0.12, 0.024), (0.56, 0.024)], style.shade)
    guitar.profile([(0.54, 0.042), (0.66, 0.042)], style.shade)
    guitar.disc((0.04, 0), 0.068, _DARK)
    guitar.profile([(-0.2, 0.065), (-0.17, 0.065)], _DARK)
    guitar.line([(-0.18, 0), (0.6, 0)], 0.012, _IVORY, rounded=False)
    _arm(pen, style, 1, guitar.place(0.5 - 0.26 * pose.pitch, 0.02), bend=0.12)
    strum = 0.1 * pose.strike * (1 if pose.count % 2 else -1)
    _arm(pen, style, -1, guitar.place(-0.04, strum), bend=-0.1)


def _cello(pen: Pen, style: Look, pose: Pose) -> None:
    """A tall brown figure of eight between the knees, the bow across it."""
    for colour, margin in ((style.shade, 0.016), (style.body, 0.0)):
        pen.oval((0.03, 0.77), (0.2 + margin, 0.17 + margin), colour)
        pen.oval((0.03, 0.53), (0.15 + margin, 0.12 + margin), colour)
        pen.rectangle((-0.08 - margin, 0.55, 0.14 + margin, 0.75), colour)
    pen.line([(0.03, 0.94), (0.03, 1.03)], 0.02, _DARK)
    pen.line([(0.03, 0.66), (0.12, 0.04)], 0.04, _DARK)
    pen.disc((0.12, 0.04), 0.032, style.shade)
    pen.rectangle((-0.02, 0.72, 0.08, 0.74), _IVORY)
    pen.line([(-0.09, 0.66), (-0.08, 0.76)], 0.018, _DARK, rounded=False)
    pen.line([(0.15, 0.66), (0.14, 0.76)], 0.018, _DARK, rounded=False)
    _arm(pen, style, 1, (0.06, 0.22 + 0.24 * pose.pitch), bend=0.16)
    shift = 0.17 * pose.bow
    pen.line([(-0.36 + shift, 0.7), (0.34 + shift, 0.63)], 0.022, _IVORY)
    _arm(pen, style, -1, (-0.34 + shift, 0.69), bend=-0.06)


def _clarinet(pen: Pen, style: Look, pose: Pose) -> None:
    """A thin black tube from the mouth downwards, with metal keys and a small bell."""
    swing = 0.05 * pose.bow
    tube = pen.along((0.02, 0.23), math.pi / 2 - 0.42 - swing - 0.04 * pose.level)
    _arm(pen, style, -1, tube.place(0.46, 0.03), bend=-0.03)
    # A black tube in front of dark clothes is lost without its gleaming edge.
    for colour, margin in ((style.light, 0.012), (style.body, 0.0)):
        tube.profile([(0.56, 0.03 + margin), (0.72 + margin, 0.085 + margin)], colour)
        tube.profile([(0.0, 0.018 + margin), (0.1, 0.018 + margin)], colour)
        tube.profile([(0.08, 0.034 + margin), (0.6, 0.034 + margin)], colour)
    for key in range(7):
        tube.disc((0.16 + 0.06 * key, 0.0), 0.018, style.light)
    tube.profile([(0.33, 0.036), (0.35, 0.036)], style.light)
    tube.profile([(0.56, 0.036), (0.58, 0.036)], style.light)
    fingers = 0.012 * math.sin(2.4 * pose.count)
    _arm(pen, style, 1, tube.place(0.24 + fingers, -0.03), bend=0.05)


def _flute(pen: Pen, style: Look, pose: Pose) -> None:
    """A thin silver bar held sideways from the mouth."""
    flute = pen.along((0.0, 0.225), 0.1 + 0.06 * pose.bow - 0.03 * pose.level)
    flute.rectangle((-0.13, -0.034, 0.6, 0.034), style.shade)
    flute.rectangle((-0.12, -0.024, 0.59, 0.02), style.light)
    for key in range(8):
        flute.disc((0.14 + 0.052 * key, 0.0), 0.015, style.shade)
    fingers = 0.015 * math.sin(2.4 * pose.count)
    _arm(pen, style, -1, flute.place(0.17, 0.03 + fingers), bend=0.02)
    _arm(pen, style, 1, flute.place(0.42, 0.035 - fingers), bend=0.12)


def _saxophone(pen: Pen, style: Look, pose: Pose) -> None:
    """A golden J from the mouth down, its wide bell turned up."""
    sax = pen.along((0.02, 0.24), 0.09 * pose.bow - 0.08 * pose.level)
    for colour, margin in ((style.shade, 0.018), (style.body, 0.0)):
        sax.line([(0.0, 0.0), (0.08, -0.02), (0.13, 0.06)], 0.03 + margin, colour)
        sax.line([(0.13, 0.06), (0.1, 0.3)], 0.055 + margin, colour)
        sax.line([(0.1, 0.28), (0.07, 0.5)], 0.085 + margin, colour)
        sax.line([(0.07, 0.5), (0.11, 0.61), (0.2, 0.63), (0.28, 0.56)], 0.115 + margin, colour)
        left, right = [(0.22 - margin / 2, 0.58), (0.24 - margin, 0.27)], (0.52 + margin, 0.33)
        sax.polygon([*left, right, (0.34 + margin / 2, 0.62)], colour)
    sax.oval((0.38, 0.3), (0.145, 0.05), style.shade, 0.21)
    sax.oval((0.38, 0.3), (0.11, 0.032), _DARK, 0.21)
    for key in range(5):
        sax.disc((0.115 - 0.01 * key, 0.16 + 0.075 * key), 0.018, style.light)
    fingers = 0.015 * math.sin(2.4 * pose.count)
    _arm(pen, style, 1, sax.place(0.12, 0.17 + fingers), bend=0.04)
    _arm(pen, style, -1, sax.place(0.07, 0.42 - fingers), bend=-0.05)


def _trumpet(pen: Pen, style: Look, pose: Pose) -> None:
    """Golden and level: a narrow loop with three valves, and a wide bell in front."""
    angle = 0.06 - 0.12 * pose.level + 0.03 * pose.bow
    tube = pen.along((0.02, 0.23), angle)
    _arm(pen, style, -1, tube.place(0.2, 0.07), bend=0.02)
    for colour, margin in ((style.shade, 0.014), (style.body, 0.0)):
        tube.line([(0.02, 0.0), (0.5, 0.0)], 0.032 + margin, colour)
        tube.line([(0.36, 0.0), (0.36, 0.12), (0.12, 0.12), (0.12, 0.0)], 0.03 + margin, colour)
        bell = [(0.38, 0.02 + margin / 2), (0.52, 0.05 + margin / 2), (0.62, 0.155 + margin)]
        tube.profile(bell, colour)
    tube.oval((0.625, 0.0), (0.025, 0.15), style.light, -angle)
    tube.rectangle((-0.01, -0.022, 0.03, 0.022), style.light)
    for valve in range(3):
        pressed = 0.04 * pose.level if (pose.count >> valve) % 2 else 0.0
        x = 0.19 + 0.05 * valve
        tube.rectangle((x - 0.016, -0.075 + pressed, x + 0.016, 0.15), style.light)
    _arm(pen, style, 1, tube.place(0.25, -0.03 + 0.02 * pose.strike), bend=0.1)


def _tuba(pen: Pen, style: Look, pose: Pose) -> None:
    """A huge golden coil in front of the body, its bell above the head."""
    coil = pen.along((0.06, 0.66), 0.04 * pose.bow)
    top = -0.64 * (1 + 0.04 * pose.level)
    for colour, margin in ((style.shade, 0.015), (style.body, 0.0)):
        left = [(0.1 - margin, 0.05), (0.14 - margin, -0.4), (0.02 - margin, top)]
        right = [(0.46 + margin, top), (0.3 + margin, -0.4), (0.28 + margin, 0.05)]
        coil.polygon(left + right, colour)
    coil.oval((0.24, top), (0.225, 0.055), style.light)
    coil.oval((0.24, top), (0.17, 0.035), style.shade)
    rings = (
        style.shade,
        style.body,
        style.shade,
        style.light,
        style.shade,
        style.body,
        style.shade,
    )
    for radius, colour in zip((0.3, 0.285, 0.21, 0.195, 0.135, 0.12, 0.06), rings, strict=True):
        coil.oval((0.0, 0.0), (radius * 0.95, radius * 1.08), colour)
    pen.line([(0.0, 0.24), coil.place(-0.12, -0.25)], 0.035, style.body)
    for valve in range(3):
        pressed = 0.04 * pose.level if (pose.count >> valve) % 2 else 0.0
        x = -0.07 + 0.06 * valve
        coil.rectangle((x - 0.02, -0.16 + pressed, x + 0.02, 0.08), style.light)
    _arm(pen, style, -1, coil.place(-0.05, -0.12 + 0.02 * pose.strike), bend=-0.08)
    _arm(pen, style, 1, coil.place(0.24, 0.1), bend=0.1)


def _violin(pen: Pen, style: Look, pose: Pose) -> None:
    """A small reddish figure of eight on the shoulder, the bow aslant across it."""
    turned = -0.1 + 0.05 * pose.level
    violin = pen.along((0.09, 0.33), turned)
    _arm(pen, style, 1, violin.place(0.42 - 0.1 * pose.pitch, 0.03), bend=0.16)
    for colour, margin in ((style.shade, 0.014), (style.body, 0.0)):
        violin.oval((0.06, 0), (0.1 + margin, 0.105 + margin), colour)
        violin.oval((0.2, 0), (0.08 + margin, 0.085 + margin), colour)
        violin.profile([(0.06, 0.065 + margin), (0.2, 0.065 + margin)], colour)
    violin.profile([(0.14, 0.02), (0.46, 0.02)], _DARK)
    violin.disc((0.47, 0.0), 0.03, style.shade)
    violin.profile([(0.07, 0.04), (0.085, 0.04)], _IVORY)
    shift = 0.15 * pose.bow
    bow = pen.along(violin.place(0.14, 0.0), turned + 1.95)
    bow.line([(-0.3 + shift, 0.0), (0.3 + shift, 0.0)], 0.022, _IVORY)
    _arm(pen, style, -1, bow.place(0.28 + shift, 0.0), bend=-0.04)


def _xylophone(pen: Pen, style: Look, pose: Pose) -> None:
    """A table of bars in rainbow colours, struck with two mallets."""
    for x in (-0.44, 0.44):
        pen.line([(x, 0.8), (x * 0.92, 1.0)], 0.035, _DARK)
    bars = 9
    left, right = -0.52, 0.52
    step = (right - left) / bars
    pen.polygon([(left, 0.66), (right, 0.7), (right, 0.84), (left, 0.88)], style.shade)
    played = round(pose.pitch * (bars - 1))
    for bar in range(bars):
        x = left + step * bar
        half = 0.16 - 0.009 * bar
        struck = 0.012 * pose.strike if bar == played else 0.0
        colour = rgb(bar / bars * 0.85 + style.hues, 0.85, 0.95 if not struck else 1.0)
        sides = (x + 0.012, 0.76 - half + struck, x + step - 0.012, 0.76 + half + struck)
        pen.rectangle(sides, colour)
    for side in (-1, 1):
        strikes = (pose.count % 2 == 0) == (side > 0)
        height = 0.16 * (1 - pose.strike) if strikes else 0.17
        # At rest the mallet drifts; while playing it is always above a bar.
        above = played + pose.rest * (pose.pitch * (bars - 1) - played)
        head = (left + step * (0.5 + above) if strikes else 0.22 * side, 0.7 - height)
        hand = (0.22 * side * 0.9 + 0.25 * head[0], 0.52 - 0.4 * height)
        _arm(pen, style, side, hand, bend=0.06 * side)
        pen.line([hand, head], 0.018, _IVORY)
        pen.disc(head, 0.034, style.body)


_INSTRUMENTS = {
    draw.__name__.removeprefix("_"): draw
    for draw in (
        *(_accordion, _acoustic_guitar, _cello, _clarinet, _flute),
        *(_saxophone, _trumpet, _tuba, _violin, _xylophone),
    )
}

_COLOURS = {
    "accordion": (0.99, 0.05, 0.85, 0.75),
    "acoustic_guitar": (0.1, 0.015, 0.6, 0.9),
    "cello": (0.055, 0.015, 0.8, 0.5),
    "clarinet": (0.65, 0.3, 0.12, 0.14),
    "flute": (0.58, 0.05, 0.08, 0.8),
    "saxophone": (0.115, 0.015, 0.85, 0.85),
    "trumpet": (0.135, 0.015, 0.75, 0.95),
    "tuba": (0.125, 0.015, 0.75, 0.8),
    "violin": (0.03, 0.015, 0.85, 0.7),
    "xylophone": (0.9, 0.5, 0.6, 0.7),
}
"""Hue, spread of hue, saturation and value of each instrument's typical colour."""


def _figure(pen: Pen, style: Look, pose: Pose, seated: bool) -> None:
    """Legs, trunk and head; the head nods with the onsets."""
    apart = 0.17 if seated else 0.09
    for side in (-1, 1):
        knee = (side * (apart + 0.06), 0.8) if seated else (side * apart, 0.85)
        pen.line([(side * 0.08, 0.7), knee, (side * apart, 0.97)], 0.1, style.trousers)
        pen.oval((side * (apart + 0.03), 0.98), (0.065, 0.022), _DARK)
    pen.polygon(
        [(-0.13, 0.29), (0.13, 0.29), (0.18, 0.36), (0.135, 0.74), (-0.135, 0.74), (-0.18, 0.36)],
        style.shirt,
    )
    nod = 0.03 * pose.strike
    if style.long_hair:
        pen.oval((0.0, 0.16 + nod), (0.13, 0.16), style.hair)
    pen.disc((0.0, 0.12 + nod), 0.12, style.hair)
    pen.oval((0.0, 0.155 + nod), (0.095, 0.105), style.skin)
    for x in (-0.04, 0.04):
        pen.disc((x, 0.14 + nod), 0.013, _DARK)


def _arm(pen: Pen, style: Look, side: int, hand: Point, bend: float) -> None:
    """An arm from a shoulder to a hand; `bend` moves the elbow outwards to the right."""
    shoulder = (side * _SHOULDER, 0.34)
    elbow = ((shoulder[0] + hand[0]) / 2 + bend, (shoulder[1] + hand[1]) / 2 + 0.07)
    pen.line([shoulder, elbow, hand], 0.065, style.shirt)
    pen.disc(hand, 0.04, style.skin)
