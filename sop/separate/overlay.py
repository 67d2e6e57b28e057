"""Pictures that show the regions: grey and dark, but lit in a region's colour where it sounds.

Shapes: K regions, M spectrogram frames, h x w cells of the picture, H x W pixels.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from sop.inference.localization import Localization, Region
from sop.media.decoding import Probe
from sop.media.ffmpeg import Limits
from sop.player.colours import COLOURS
from sop.runtime.files import replacing
from sop.runtime.progress import progress
from sop.separate.activity import Activity
from sop.separate.video import Picture, read_pictures, write_video

OVERLAY_LINES = 360
OVERLAY_RATE = 12

# Brightness of the picture where nothing sounds.
DARK = 0.4
# Share of the colour where a region is lit; the rest is the picture.
TINT = 0.5


def write_overlay(
    video: Path,
    found: Probe,
    folder: Path,
    localization: Localization,
    activity: Activity,
    limits: Limits,
) -> list[str]:
    """Write the overlay video and two pictures of its loudest moment.

    Args:
        video: the original video.
        found: result of `probe`.
        folder: folder for the results.
        localization: the regions and the energy of each cell.
        activity: loudness of the regions over time.
        limits: maximum time and memory.

    Returns:
        Names of the files.
    """
    seconds, energy = activity.seconds, localization.energy
    bright = [cell_brightness(region, energy) for region in localization.regions]
    cells = np.array(bright, np.float32).reshape(-1, *energy.shape)
    total = math.ceil(seconds * OVERLAY_RATE)
    loudest = int(activity.total_loudness.argmax() * activity.hop_seconds * OVERLAY_RATE)
    still: Picture | None = None

    def pictures() -> Iterator[Picture]:
        nonlocal still
        originals = read_pictures(video, found, OVERLAY_RATE, OVERLAY_LINES, limits)
        for number, picture in enumerate(progress(originals, "drawing", total, "picture")):
            if number <= loudest:
                still = picture
            loudness = activity.loudness_at((number + 0.5) / OVERLAY_RATE)
            yield light_up(picture, loudness[:, None, None] * cells)

    write_video(pictures(), OVERLAY_RATE, video, found, folder / "overlay.mp4", limits)
    assert still is not None
    heat = light_up(still, np.sqrt(energy / (energy.max(initial=0) or 1)).astype(np.float32)[None])
    # On the right of the picture, the picture in grey under the colours of the cells.
    grey = Image.fromarray(still).convert("L").convert("RGB")
    sounds = Image.fromarray(localization.colours).resize(grey.size, Image.Resampling.BILINEAR)
    colours = np.concatenate([still, np.asarray(Image.blend(grey, sounds, 0.7))], axis=1)
    for name, picture in (("heat.png", heat), ("colours.png", colours)):
        with replacing(folder / name) as partial:
            Image.fromarray(picture).save(partial, "PNG")
    return ["overlay.mp4", "heat.png", "colours.png"]


def cell_brightness(region: Region, energy: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the brightness of the cells of a region, 1 at its loudest cell, (h, w).

    Args:
        region: the region.
        energy: energy of each cell, (h, w).
    """
    inside = np.where(region.cells, energy, 0)
    largest = inside.max()
    bright = np.sqrt(inside / largest) if largest > 0 else region.cells
    return bright.astype(np.float32)


def light_up(picture: Picture, brightness: NDArray[np.float32]) -> Picture:
    """Light up the regions of a picture in their colours, and darken the rest.

    Args:
        picture: (H, W, 3), RGB.
        brightness: brightness of each region, (K, h, w), from 0 (dark) to 1 (full colour).

    Returns:
        (H, W, 3), RGB.
    """
    brightness = brightness.clip(0, 1)
    # Where regions overlap, their colours mix at the brightness of a single region.
    brightness = brightness / np.maximum(brightness.sum(axis=0), 1)
    colours = np.array(COLOURS, np.float32)[np.arange(len(brightness)) % len(COLOURS)]
    # Premultiplied colours, so that the edge of a light does not show another colour.
    light = _image(TINT * np.tensordot(brightness, colours, axes=(0, 0)))
    alpha = _image(255 * brightness.sum(axis=0))
    image = Image.fromarray(picture)
    dark = image.convert("L").point([round(DARK * level) for level in range(256)]).convert("RGB")
    bright = image.point([round((1 - TINT) * level) for level in range(256)] * 3)
    smooth = Image.Resampling.BILINEAR
    background = Image.composite(bright, dark, alpha.resize(image.size, smooth))
    return np.asarray(ImageChops.add(background, light.resize(image.size, smooth)))


def _image(levels: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.rint(levels).astype(np.uint8))
