"""Pictures of a video: a moving background, silent shapes, and the players."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sop.download.synthetic.melody import Note, Rest
from sop.download.synthetic.pen import Box, Colour, Pen, rgb
from sop.download.synthetic.player import draw_player, idle, look, poses
from sop.download.synthetic.speech import CONTROL_RATE, Speech, gestures
from sop.download.synthetic.talker import HALF_WIDTH, Face, draw_talker, talker_look

FloatArray = NDArray[np.float64]

_OVERSAMPLING = 2
_MARGIN = 1.2
"""Ratio of the background's size to the frame's size, so that the background can pan."""
_HEIGHTS = (0.52, 0.85)
"""Height of a player with its instrument, as a fraction of the frame's height."""
_BREATH = 0.04
_SWAY = 0.06
_TALKER_HEIGHTS = (0.88, 1.08)
"""Height of a talker from the top of the head to the chest, as a fraction of the frame's height."""
_TALKER_BREATH = 0.015
_MEASURED_POSES = 48
_MEASURED_SCALE = 200.0
"""Close to the scale of the drawing, because lines have a minimum width in pixels."""
_SHAPES = ("ball", "box", "triangle", "stripes", "star")


class RenderedScene:
    """Frames of one video, and the boxes of its players."""

    def __init__(
        self,
        instruments: Sequence[str],
        melodies: Sequence[Sequence[Note] | Speech],
        width: int,
        height: int,
        frame_rate: int,
        frames: int,
        rng: Generator,
        rests: Sequence[Sequence[Rest]] | None = None,
    ) -> None:
        """Choose colours, places and motions; nothing is drawn yet.

        Args:
            instruments: names, N, which may be 0; the order of the players from left to right is
                random.
            melodies: notes of each instrument, or what each talker says.
            width: width of the frames, pixels.
            height: height of the frames, pixels.
            frame_rate: frames per second.
            frames: number of frames, F.
            rng: source of all random choices.
            rests: long rests of each instrument, with idle motion; None = nobody has any.
        """
        self._size = (width, height)
        self._times = np.arange(frames) / frame_rate
        self._backdrop = _Backdrop(width, height, self._times, rng)
        self._distractors = [
            _Distractor(width, height, self._times, rng) for _ in range(rng.integers(2, 5))
        ]
        slots = _slots(len(instruments), width, height)
        order = rng.permutation(len(instruments))
        rests = rests or [()] * len(instruments)
        self._players = [
            _Talker(notes, slots[place], self._times, rng)
            if isinstance(notes, Speech)
            else _Player(name, notes, own_rests, slots[place], self._times, rng)
            for name, notes, own_rests, place in zip(
                instruments, melodies, rests, order, strict=True
            )
        ]
        self.boxes: NDArray[np.float32] = np.array(
            [[player.box(f, width, height) for f in range(frames)] for player in self._players],
            dtype=np.float32,
        )
        """Box of each player with its instrument, (N, F, 4): left, top, right, bottom in pixels."""

    def frames(self) -> Iterator[bytes]:
        """Yield the frames as RGB, height x width x 3 bytes each."""
        for frame in range(len(self._times)):
            image = self._backdrop.cut(frame)
            draw = ImageDraw.Draw(image)
            for distractor in self._distractors:
                distractor.draw(draw, frame)
            for player in self._players:
                player.draw(draw, frame)
            yield self._backdrop.lit(image.reduce(_OVERSAMPLING), frame).tobytes()


class _Backdrop:
    """Gradients and soft noise in colours of their own, panned slowly under a drifting light."""

    def __init__(self, width: int, height: int, times: FloatArray, rng: Generator) -> None:
        self._size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
        self._image = _texture(self._size, rng)
        slack = np.array(self._image.size) - np.array(self._size)
        centre = rng.uniform(0.3, 0.7, 2) * slack
        places = [
            np.clip(middle + 0.35 * room * _drift(times, 0.09, rng), 0, room).astype(int)
            for middle, room in zip(centre, slack, strict=True)
        ]
        self._corners = np.stack(places, axis=1).tolist()
        light = rng.uniform(0.85, 1.1) + 0.12 * _drift(times, 0.15, rng)
        levels = np.arange(256)
        self._lights = [np.clip(levels * value, 0, 255).astype(int).tolist() * 3 for value in light]

    def cut(self, frame: int) -> Image.Image:
        """The part of the background in sight, oversampled, to draw on."""
        x, y = self._corners[frame]
        return self._image.crop((x, y, x + self._size[0], y + self._size[1]))

    def lit(self, image: Image.Image, frame: int) -> Image.Image:
        """The finished picture under the light of its moment."""
        return image.point(self._lights[frame])


class _Distractor:
    """A shape that moves and makes no sound."""

    def __init__(self, width: int, height: int, times: FloatArray, rng: Generator) -> None:
        self._shape = _SHAPES[rng.integers(len(_SHAPES))]
        self._radius = float(rng.uniform(0.05, 0.13)) * height
        self._colours = (_any_colour(rng), _any_colour(rng))
        self._x = width * (rng.uniform(0, 1) + rng.uniform(0.1, 0.4) * _drift(times, 0.3, rng))
        self._y = height * (rng.uniform(0, 1) + rng.uniform(0.1, 0.4) * _drift(times, 0.3, rng))
        self._angle = rng.uniform(0, 6) + rng.uniform(-1.5, 1.5) * times

    def draw(self, image: ImageDraw.ImageDraw, frame: int) -> None:
        """Draw it where it is in this frame."""
        origin = (_OVERSAMPLING * self._x[frame], _OVERSAMPLING * self._y[frame])
        pen = Pen(image, origin, _OVERSAMPLING * self._radius, float(self._angle[frame]))
        first, second = self._colours
        if self._shape == "ball":
            pen.disc((0, 0), 1.0, first)
            pen.disc((0.3, -0.3), 0.35, second)
        elif self._shape == "box":
            pen.rectangle((-1, -0.8, 1, 0.8), first)
            pen.rectangle((-0.5, -0.4, 0.5, 0.4), second)
        elif self._shape == "triangle":
            pen.polygon([(0, -1.1), (1, 0.8), (-1, 0.8)], first)
        elif self._shape == "stripes":
            for i, y in enumerate((-0.8, -0.3, 0.2, 0.7)):
                pen.rectangle((-1.2, y, 1.2, y + 0.3), second if i % 2 else first)
        else:
            corners = [(0.4 + 0.7 * (i % 2 == 0), math.pi * i / 5) for i in range(10)]
            pen.polygon([(r * math.sin(a), r * math.cos(a)) for r, a in corners], first)


class _Player:
    """One player: its looks, its poses, and its way through the frame."""

    def __init__(
        self,
        instrument: str,
        notes: Sequence[Note],
        rests: Sequence[Rest],
        slot: Box,
        times: FloatArray,
        rng: Generator,
    ) -> None:
        resting = None
        if rests:
            bow, hand = (_drift(times, 0.25, rng) for _ in range(2))
            resting = idle(rests, times, bow, hand, held=float(rng.uniform()))
        self._poses = poses(notes, times, float(rng.uniform(-1, 1)), resting)
        self._instrument = instrument
        self._look = look(instrument, rng)
        self._mirrored = bool(rng.uniform() < 0.5)
        self._angles = _SWAY * _drift(times, 0.4, rng)
        reach = self._reach()
        tall, wide = reach[3] - reach[1], reach[2] - reach[0]
        left, top, right, bottom = slot
        # Both bounds hold at the top of a breath, so that the player never leaves its slot.
        biggest = min((bottom - top) * 0.98 / tall, (right - left) / wide) / (1 + _BREATH)
        wanted = rng.uniform(*_HEIGHTS) * (bottom - top) / tall
        size = min(wanted, biggest)
        self._scales = size * (1 + _BREATH * _drift(times, 0.2, rng))
        largest = size * (1 + _BREATH)
        self._x = _way(left - reach[0] * largest, right - reach[2] * largest, times, rng)
        self._y = _way(top - reach[1] * largest, bottom - reach[3] * largest, times, rng)

    def box(self, frame: int, width: int, height: int) -> Box:
        """Its box within the frame, in pixels."""
        left, top, right, bottom = (side / _OVERSAMPLING for side in self.draw(None, frame))
        return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)

    def draw(self, image: ImageDraw.ImageDraw | None, frame: int) -> Box:
        """Draw it on the oversampled image, if there is one; return its box there."""
        x, y, scale = (
            _OVERSAMPLING * float(values[frame]) for values in (self._x, self._y, self._scales)
        )
        pen = Pen(image, (x, y), scale, float(self._angles[frame]), self._mirrored)
        draw_player(pen, self._instrument, self._look, self._poses[frame])
        return pen.box

    def _reach(self) -> Box:
        """How far it reaches from its origin in any pose, at scale 1."""
        step = max(len(self._poses) // _MEASURED_POSES, 1)
        boxes = []
        for frame in range(0, len(self._poses), step):
            angle = float(self._angles[frame])
            pen = Pen(None, scale=_MEASURED_SCALE, angle=angle, mirrored=self._mirrored)
            draw_player(pen, self._instrument, self._look, self._poses[frame])
            boxes.append([side / _MEASURED_SCALE for side in pen.box])
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)


class _Talker:
    """One talker: its looks, its face, and its way through the frame.

    Only the mouth depends on what is said.
    """

    def __init__(self, speech: Speech, slot: Box, times: FloatArray, rng: Generator) -> None:
        left, top, right, bottom = slot
        seconds = float(times[-1]) if len(times) else 0.0
        moves = gestures(speech, seconds)
        at = times * CONTROL_RATE
        opening, width = (
            np.interp(at, np.arange(len(track)), track) for track in (moves.opening, moves.width)
        )
        self._look = talker_look(rng)
        columns = (
            *(opening, width, _lids(times, rng)),
            *(reach * _drift(times, 0.35, rng) for reach in (0.07, 0.02, 0.012)),
        )
        self._faces = [Face(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
        half_width = HALF_WIDTH * (1 + _TALKER_BREATH)
        size = min(
            rng.uniform(*_TALKER_HEIGHTS) * (bottom - top), 0.96 * (right - left) / (2 * half_width)
        )
        self._scales = size * (1 + _TALKER_BREATH * _drift(times, 0.2, rng))
        self._x = _way(left + half_width * size, right - half_width * size, times, rng)
        # The head is in sight, and so are the shoulders.
        high, low = top + 0.05 * size, max(bottom - 0.86 * size, top + 0.05 * size)
        self._y = _way(high, low, times, rng)

    def box(self, frame: int, width: int, height: int) -> Box:
        """Its box within the frame, in pixels."""
        left, top, right, bottom = (side / _OVERSAMPLING for side in self.draw(None, frame))
        return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)

    def draw(self, image: ImageDraw.ImageDraw | None, frame: int) -> Box:
        """Draw it on the oversampled image, if there is one; return its box there."""
        x, y, scale = (
            _OVERSAMPLING * float(values[frame]) for values in (self._x, self._y, self._scales)
        )
        pen = Pen(image, (x, y), scale)
        draw_talker(pen, self._look, self._faces[frame])
        return pen.box


def _lids(times: FloatArray, rng: Generator) -> FloatArray:
    """Opening of the eyes, 0 to 1, one value per frame: they blink every few seconds."""
    lids: FloatArray = np.ones(len(times))
    now = rng.uniform(0.0, 3.0)
    while len(times) and now < times[-1]:
        lids = np.minimum(lids, np.clip((np.abs(times - now) - 0.05) / 0.06, 0, 1))
        now += rng.uniform(1.5, 5.0)
    return lids


def _slots(count: int, width: int, height: int) -> list[Box]:
    """Where the players may be: one near the middle, several side by side."""
    if count == 1:
        # The square that every crop of the frame nearly contains, and not the far edges.
        half = min(width, height * 1.06) / 2
        return [(width / 2 - half, 0.0, width / 2 + half, float(height))]
    share = width / max(count, 1)
    return [(share * i + 1, 0.0, share * (i + 1) - 1, float(height)) for i in range(count)]


def _way(low: float, high: float, times: FloatArray, rng: Generator) -> FloatArray:
    """A slow way within two bounds, one value per frame."""
    room = max(high - low, 0.0)
    swing = room * rng.uniform(0.15, 0.45)
    middle = low + rng.uniform(swing, room - swing) if room > 0 else (low + high) / 2
    return middle + swing * _drift(times, 0.12, rng)


def _drift(times: FloatArray, rate_hz: float, rng: Generator) -> FloatArray:
    """A smooth wandering within -1 and 1, one value per frame."""
    rates = rate_hz * rng.uniform(0.6, 1.4, 2)
    phases = rng.uniform(0, 2 * np.pi, 2)
    slow: FloatArray = np.sin(2 * np.pi * rates[0] * times + phases[0])
    quick: FloatArray = np.sin(2 * np.pi * 2.3 * rates[1] * times + phases[1])
    return 0.7 * slow + 0.3 * quick


def _texture(size: tuple[int, int], rng: Generator) -> Image.Image:
    """A background larger than the frame: a gradient of two colours under two soft noises."""
    width, height = (round(side * _MARGIN) for side in size)
    colours = np.array([_any_colour(rng) for _ in range(4)], dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope = (0.5 + 0.35 * (x * math.cos(angle) + y * math.sin(angle)))[..., None]
    picture = colours[0] * (1 - slope) + colours[1] * slope
    for colour, cells, strength in ((colours[2], 4, 0.7), (colours[3], 14, 0.35)):
        shape = (cells, round(cells * width / height))
        coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        weight = (strength * soft / 255)[..., None]
        picture = picture * (1 - weight) + colour * weight
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _any_colour(rng: Generator) -> Colour:
    return rgb(rng.uniform(), rng.uniform(0.05, 0.65), rng.uniform(0.2, 0.9))
