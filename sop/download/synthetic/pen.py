"""Pen that draws in a player's own coordinates and records the box of its drawing."""

import colorsys
import copy
import math
from collections.abc import Iterable, Sequence

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

_CIRCLE = tuple((math.cos(2 * math.pi * i / 22), math.sin(2 * math.pi * i / 22)) for i in range(22))


def rgb(hue: float, saturation: float, value: float) -> Colour:
    """Return a colour; the hue is in turns, saturation and value are cut at 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


class Pen:
    """Draw on an image with a similarity transform: scale, then mirror, rotate and shift.

    Lengths and points are in the coordinates of the drawing, y downwards. Without an image only the
    box is recorded.
    """

    def __init__(
        self,
        image: ImageDraw.ImageDraw | None,
        origin: Point = (0.0, 0.0),
        scale: float = 1.0,
        angle: float = 0.0,
        mirrored: bool = False,
    ) -> None:
        self._image = image
        self._origin = origin
        self._scale = scale
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        side = -1.0 if mirrored else 1.0
        self._matrix = (side * cos, -sin, side * sin, cos)
        self._axis = (0.0, 0.0, 1.0, 0.0, 0.0)
        # Shared by the pens of all axes.
        self._sides = [math.inf, math.inf, -math.inf, -math.inf]

    @property
    def box(self) -> Box:
        """Box of the drawing: left, top, right, bottom in pixels of the image."""
        left, top, right, bottom = self._sides
        return left, top, right, bottom

    def along(self, origin: Point, angle: float) -> "Pen":
        """Return this pen with points along and across an axis of the drawing."""
        pen = copy.copy(self)
        pen._axis = (*origin, math.cos(angle), math.sin(angle), angle)
        return pen

    def place(self, along: float, across: float) -> Point:
        """Return a point of the pen's axis in the coordinates of the drawing."""
        x, y, cos, sin, _ = self._axis
        return x + along * cos - across * sin, y + along * sin + across * cos

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._fill([self.place(*point) for point in points], colour)

    def profile(self, halves: Sequence[Point], colour: Colour) -> None:
        """Fill a shape that is symmetric about the axis: places along it, and half widths there."""
        self.polygon([(x, -half) for x, half in halves] + [*reversed(halves)], colour)

    def rectangle(self, sides: Box, colour: Colour) -> None:
        """Fill a rectangle: left, top, right, bottom."""
        left, top, right, bottom = sides
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(
        self, points: Sequence[Point], width: float, colour: Colour, rounded: bool = True
    ) -> None:
        """Draw a line through points."""
        thick = max(width * self._scale, 1.5)
        placed = self._pixels([self.place(*point) for point in points], thick / 2)
        if self._image is None:
            return
        self._image.line(placed, fill=colour, width=round(thick))
        if rounded and thick > 2:
            half = thick / 2
            for x, y in placed:
                self._image.ellipse((x - half, y - half, x + half, y + half), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        reach = radius * self._scale
        ((x, y),) = self._pixels([self.place(*centre)], reach)
        if self._image is not None:
            self._image.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def oval(self, centre: Point, radii: Point, colour: Colour, turned: float = 0.0) -> None:
        """Fill an ellipse whose first radius is turned from the axis by an angle."""
        angle = self._axis[-1] + turned
        cos, sin = math.cos(angle), math.sin(angle)
        (x, y), (a, b) = self.place(*centre), radii
        self._fill(
            [(x + a * u * cos - b * v * sin, y + a * u * sin + b * v * cos) for u, v in _CIRCLE],
            colour,
        )

    def _fill(self, points: Sequence[Point], colour: Colour) -> None:
        placed = self._pixels(points, 0.0)
        if self._image is not None:
            self._image.polygon(placed, fill=colour)

    def _pixels(self, points: Sequence[Point], margin: float) -> list[Point]:
        """Return points of the drawing in pixels; the box then encloses them with a margin."""
        ox, oy = self._origin
        a, b, c, d = self._matrix
        placed = [(ox + a * x + b * y, oy + c * x + d * y) for x, y in points]
        left, top, right, bottom = self._sides
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        self._sides[:2] = min(left, min(xs) - margin), min(top, min(ys) - margin)
        self._sides[2:] = max(right, max(xs) + margin), max(bottom, max(ys) + margin)
        return placed
