"""Pictures that show where it sounds: greyed and dark, and lit in a region's colour where it does.

Shapes: K regions, W windows of time, h x w cells of the picture, H x W pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

Values = NDArray[np.float32]
Picture = NDArray[np.uint8]

# Told apart by colour-blind eyes too, and bright enough on dark grey. Source: Okabe and Ito, Color
# Universal Design, 2008; the order is ours.
COLOURS = np.array(
    [
        [230, 159, 0],
        [86, 180, 233],
        [204, 121, 167],
        [0, 158, 115],
        [240, 228, 66],
        [213, 94, 0],
        [0, 114, 178],
    ],
    np.uint8,
)

# Of the picture where nothing sounds.
DARK = 0.4
# Of the colour in what is lit; the rest is the picture.
TINT = 0.5


def hex_colour(number: int) -> str:
    """The colour of a region, counted from 0, as `#rrggbb`; after the last comes the first."""
    return "#" + bytes(COLOURS[number % len(COLOURS)]).hex()


@dataclass(frozen=True)
class Heat:
    """How loud each region is, over time, in each cell of the picture."""

    values: Values
    """(K, W, h, w), from 0, dark, to 1, in full colour."""
    seconds: NDArray[np.float64]
    """The middle of each window, rising, (W,)."""
    colours: Picture = field(default_factory=lambda: COLOURS)
    """RGB of each region, taken in turn if there are fewer, (any number, 3)."""

    def at(self, seconds: float) -> Values:
        """At a moment, (K, h, w): between the middles of windows interpolated, held at the ends."""
        position = np.interp(seconds, self.seconds, np.arange(len(self.seconds)))
        before = int(position)
        after = min(before + 1, len(self.seconds) - 1)
        weight = np.float32(position - before)
        blended: Values = self.values[:, before] * (1 - weight) + self.values[:, after] * weight
        return blended


def overlaid(frames: Iterable[Picture], frame_rate: float, heat: Heat) -> Iterator[Picture]:
    """Show heat on consecutive frames.

    Args:
        frames: (H, W, 3), RGB; the n-th, from 0, is on display from second n / frame_rate.
        frame_rate: per second.
        heat: on the same timeline.

    Yields:
        As many frames, (H, W, 3).
    """
    for number, frame in enumerate(frames):
        yield _lit(frame, heat.at((number + 0.5) / frame_rate), heat.colours)


def _lit(frame: Picture, heat: Values, colours: Picture) -> Picture:
    """One frame, (H, W, 3), lit by the heat of K regions, (K, h, w)."""
    heat = heat.clip(0, 1)
    # Where regions overlap their colours mix, and it is not brighter than one of them alone.
    heat = heat / np.maximum(heat.sum(axis=0), 1)
    colour = colours[np.arange(len(heat)) % len(colours)].astype(np.float32)
    # Colour goes with brightness, so that at the edge of a light it does not fade into another.
    light = _image(TINT * np.tensordot(heat, colour, axes=(0, 0)))
    alpha = _image(255 * heat.sum(axis=0))
    picture = Image.fromarray(frame)
    dark = picture.convert("L").point([round(DARK * level) for level in range(256)]).convert("RGB")
    bright = picture.point([round((1 - TINT) * level) for level in range(256)] * 3)
    smooth = Image.Resampling.BILINEAR
    behind = Image.composite(bright, dark, alpha.resize(picture.size, smooth))
    return np.asarray(ImageChops.add(behind, light.resize(picture.size, smooth)))


def _image(levels: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.rint(levels).astype(np.uint8))
