"""Talkers: a head and shoulders, drawn with a mouth that moves with what is said.

Coordinates: the top of the head is at y = 0, the closed chin at y = 0.66, and the middle at x = 0.
The body continues below y = 1, as in a portrait.
"""

import math
from typing import NamedTuple

from numpy.random import Generator

from sop.download.synthetic.pen import Colour, Pen, rgb

HALF_WIDTH = 0.37
"""Half of the width of the shoulders."""

_NECK = 0.62
_DARK: Colour = (26, 22, 26)
_WHITE: Colour = (238, 234, 226)
_HAIR_STYLES = ("short", "long", "bun", "bald")


class Face(NamedTuple):
    """What a talker's head does at one moment."""

    opening: float
    """Opening of the mouth: 0 closed, 1 widest."""
    width: float
    """Width of the mouth: -1 rounded, 0 neutral, 1 spread."""
    lids: float
    """Opening of the eyes, 0 to 1."""
    tilt: float
    """Angle of the head, radians."""
    shift: float
    """Shift of the head to the side."""
    nod: float
    """Shift of the head downwards."""


class TalkerLook(NamedTuple):
    """Looks of one talker; they say nothing about the voice."""

    skin: Colour
    shade: Colour
    """Nose and neck."""
    lips: Colour
    hair: Colour
    hair_style: str
    eyes: Colour
    shirt: Colour
    collar: Colour
    glasses: bool
    face_width: float
    """Half of the width of the face."""


def talker_look(rng: Generator) -> TalkerLook:
    """Choose the looks of a talker."""
    hue, tone = rng.uniform(0.04, 0.085), rng.uniform()
    saturation, value = 0.3 + 0.25 * tone, 0.97 - 0.45 * tone
    return TalkerLook(
        skin=rgb(hue, saturation, value),
        shade=rgb(hue - 0.01, saturation + 0.1, value * 0.8),
        lips=rgb(rng.uniform(-0.03, 0.02), rng.uniform(0.45, 0.65), value * rng.uniform(0.6, 0.78)),
        hair=rgb(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.08, 0.75)),
        hair_style=_HAIR_STYLES[int(rng.choice(len(_HAIR_STYLES), p=(0.35, 0.35, 0.15, 0.15)))],
        eyes=rgb(rng.uniform(), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.5)),
        shirt=rgb(rng.uniform(), rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9)),
        collar=rgb(rng.uniform(), rng.uniform(0.0, 0.5), rng.uniform(0.3, 0.95)),
        glasses=bool(rng.uniform() < 0.3),
        face_width=float(rng.uniform(0.205, 0.235)),
    )


def draw_talker(pen: Pen, look: TalkerLook, face: Face) -> None:
    """Draw the talker; `pen.box` then encloses all of it."""
    head = pen.along((face.shift, _NECK + face.nod), face.tilt)
    wide = look.face_width
    if look.hair_style == "long":
        head.oval((0.0, -0.27), (wide + 0.045, 0.35), look.hair)
        head.rectangle((-wide - 0.045, -0.27, wide + 0.045, 0.12), look.hair)
    if look.hair_style == "bun":
        head.disc((0.0, -0.6), 0.075, look.hair)
    _body(pen, look)
    pen.line([head.place(0.0, -0.12), (0.0, 0.76)], 0.19, look.shade)
    if look.hair_style != "bald":
        head.oval((0.0, -0.36), (wide + 0.03, 0.26), look.hair)
    _head(head, look, face)


def _body(pen: Pen, look: TalkerLook) -> None:
    """Shoulders and chest, which reach below any frame."""
    shoulder = 0.89
    pen.polygon(
        [
            *((-0.1, 0.72), (0.1, 0.72), (0.28, 0.78), (HALF_WIDTH, shoulder)),
            *((HALF_WIDTH, 1.6), (-HALF_WIDTH, 1.6), (-HALF_WIDTH, shoulder), (-0.28, 0.78)),
        ],
        look.shirt,
    )
    pen.polygon([(-0.14, 0.72), (0.14, 0.72), (0.0, 0.98)], look.collar)


def _head(head: Pen, look: TalkerLook, face: Face) -> None:
    """Face, eyes, nose and mouth, in coordinates around the neck."""
    wide = look.face_width
    drop = 0.055 * face.opening
    for side in (-1, 1):
        head.oval((side * wide, -0.27), (0.035, 0.06), look.shade)
    head.oval((0.0, -0.28), (wide, 0.24), look.skin)
    head.oval((0.0, -0.17 + drop), (wide * 0.87, 0.21), look.skin)
    for side in (-1, 1):
        x = side * 0.095
        head.oval((x, -0.31), (0.047, 0.005 + 0.027 * face.lids), _WHITE)
        if face.lids > 0.3:
            head.disc((x, -0.31), 0.022, look.eyes)
        else:
            head.line([(x - 0.045, -0.31), (x + 0.045, -0.31)], 0.012, look.shade, rounded=False)
        head.line([(x - 0.055, -0.375), (x + 0.055, -0.38)], 0.018, look.hair, rounded=False)
        if look.glasses:
            corners = [(math.cos(a), math.sin(a)) for a in (math.pi * i / 6 for i in range(13))]
            rim = [(x + 0.075 * u, -0.31 + 0.06 * v) for u, v in corners]
            head.line(rim, 0.012, _DARK, rounded=False)
    head.polygon([(-0.012, -0.28), (0.012, -0.28), (0.036, -0.2), (-0.036, -0.2)], look.shade)
    _mouth(head, look, face)


def _mouth(head: Pen, look: TalkerLook, face: Face) -> None:
    """Lips around the dark of the mouth; the upper lip hardly moves, the lower with the jaw."""
    half = 0.082 + 0.036 * face.width
    gap = 0.145 * face.opening
    lip = 0.02 - 0.006 * face.width
    centre = (0.0, -0.12 + 0.42 * gap)
    head.oval(centre, (half + lip, gap / 2 + lip), look.lips)
    if gap < 0.008:
        head.line([(-half, -0.12), (half, -0.12)], 0.008, _DARK, rounded=False)
        return
    head.oval(centre, (half, gap / 2), _DARK)
    if gap > 0.03:
        top = centre[1] - gap / 2
        teeth = min(0.028, 0.3 * gap)
        head.oval((0.0, top + 0.6 * teeth + 0.002), (0.62 * half, 0.55 * teeth), _WHITE)
