"""The description of a separation: `regions.json`.

Shapes: K regions, h x w cells of the picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sop.denoise.settings import FilterSettings
from sop.inference.localization import Localization, Region
from sop.player.colours import hex_colour
from sop.separate.activity import Activity
from sop.separate.overlay import cell_brightness
from sop.separate.staging import printable
from sop.separate.video import SoundStream

REST = "rest"


def describe(
    video: Path,
    size: tuple[int, int],
    sound: SoundStream,
    localization: Localization,
    activity: Activity,
    energy: NDArray[np.float64],
    sounds: Sequence[str],
    files: Sequence[str],
    denoise: FilterSettings | None,
) -> dict[str, Any]:
    """Return the content of `regions.json`.

    Args:
        video: the original video.
        size: width and height of the picture on display, pixels.
        sound: format of the sounds.
        localization: the regions and the energy of each cell.
        activity: activity of the regions and the rest.
        energy: energy of each region and of the rest, (K + 1,).
        sounds: file names of the sounds, (K + 1,).
        files: names of all files.
        denoise: filter of the sounds.
    """
    shares = energy / (energy.sum() or 1.0)
    *components, rest = [
        {"file": file, "energy": round(float(share), 6), "sounds": intervals}
        for file, share, intervals in zip(sounds, shares, activity.intervals(), strict=True)
    ]
    regions = [
        {
            "number": number,
            "file": component.pop("file"),
            "colour": hex_colour(number - 1),
            **_position(region, localization.energy, size),
            **component,
        }
        for number, (region, component) in enumerate(
            zip(localization.regions, components, strict=True), start=1
        )
    ]
    return {
        "video": printable(video.name),
        "seconds": round(activity.seconds, 6),
        "width": size[0],
        "height": size[1],
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "denoise": None if denoise is None else {"filter": denoise.method, **denoise.values},
        "regions": regions,
        REST: rest,
        "files": list(files),
    }


def _position(region: Region, energy: NDArray[np.float64], size: tuple[int, int]) -> dict[str, Any]:
    """Return the box, centre and size of a region, as shares of the picture and in pixels."""
    width, height = size
    left, top, right, bottom = region.box
    weights = cell_brightness(region, energy) ** 2
    rows, columns = region.cells.shape
    x = float((weights.sum(axis=0) @ (np.arange(columns) + 0.5)) / weights.sum() / columns)
    y = float((weights.sum(axis=1) @ (np.arange(rows) + 0.5)) / weights.sum() / rows)
    return {
        "box": {"left": left, "top": top, "right": right, "bottom": bottom},
        "box_pixels": {
            "left": round(left * width),
            "top": round(top * height),
            "right": round(right * width),
            "bottom": round(bottom * height),
        },
        "centre": {"x": x, "y": y},
        "centre_pixels": {"x": round(x * width), "y": round(y * height)},
        "size": float(region.cells.mean()),
    }
