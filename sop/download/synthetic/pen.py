"""Pen that draws in a player's own coordinates and records the box of its drawing."""

import math
from collections.abc import Iterable, Sequence

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

_CIRCLE = tuple((math.cos(2 * math.pi * i / 22), math.sin(2 * math.pi * i / 22)) for i in range(22))


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
        self._box = (math.inf, math.inf, -math.inf, -math.inf)

    @property
    def box(self) -> Box:
        """Box of the drawing: left, top, right, bottom in pixels of the image."""
        return self._box

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        """Fill a polygon."""
        placed = self._placed(points)
        self._reach(placed, 0.0)
        if self._image is not None:
            self._image.polygon(placed, fill=colour)

    def line(
        self, points: Sequence[Point], width: float, colour: Colour, rounded: bool = True
    ) -> None:
        """Draw a line through points."""
        placed = self._placed(points)
        thick = max(width * self._scale, 1.5)
        self._reach(placed, thick / 2)
        if self._image is None:
            return
        self._image.line(placed, fill=colour, width=round(thick))
        if rounded and thick > 2:
            half = thick / 2
            for x, y in placed:
                self._image.ellipse((x - half, y - half, x + half, y + half), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        placed = self._placed((centre,))
        reach = radius * self._scale
        self._reach(placed, reach)
        if self._image is not None:
            x, y = placed[0]
            self._image.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def oval(self, centre: Point, radii: Point, colour: Colour, turned: float = 0.0) -> None:
        """Fill an ellipse whose axes are turned by an angle."""
        cos, sin = math.cos(turned), math.sin(turned)
        (x, y), (a, b) = centre, radii
        self.polygon(
            [(x + a * u * cos - b * v * sin, y + a * u * sin + b * v * cos) for u, v in _CIRCLE],
            colour,
        )

    def _placed(self, points: Iterable[Point]) -> list[Point]:
        ox, oy = self._origin
        a, b, c, d = self._matrix
        return [(ox + a * x + b * y, oy + c * x + d * y) for x, y in points]

    def _reach(self, placed: Sequence[Point], margin: float) -> None:
        left, top, right, bottom = self._box
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        self._box = (
            min(left, min(xs) - margin),
            min(top, min(ys) - margin),
            max(right, max(xs) + margin),
            max(bottom, max(ys) + margin),
        )
