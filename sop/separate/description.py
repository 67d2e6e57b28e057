"""The description of a separation: `regions.json`.

Shapes: K regions, h x w cells of the picture.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sop.denoise.guard import Kept
from sop.denoise.settings import FilterSettings
from sop.inference.localization import Localization, Region
from sop.model.card import ModelAbout
from sop.player.colours import hex_colour
from sop.runtime.files import unicode_name
from sop.separate.activity import DECIBEL_RATE, Activity
from sop.separate.doubt import Note
from sop.separate.overlay import cell_brightness
from sop.separate.source import Source
from sop.separate.video import SoundStream

REST = "rest"


def describe(
    source: Source,
    size: tuple[int, int],
    sound: SoundStream,
    localization: Localization,
    activity: Activity,
    energy: NDArray[np.float64],
    files: Sequence[str],
    denoise: FilterSettings | None,
    kept: Kept,
    model: ModelAbout | None,
    notes: Sequence[Note] = (),
    like: Sequence[tuple[str, float] | None] = (),
) -> dict[str, Any]:
    """Return the content of `regions.json`.

    Args:
        source: what was separated.
        size: width and height of the picture on display, pixels.
        sound: format of the sounds.
        localization: the regions and the energy of each cell.
        activity: activity of the regions and the rest.
        energy: energy of each region and of the rest, (K + 1,).
        files: names of all files, first those of the sounds, (K + 1,).
        denoise: filter of the sounds.
        kept: where the filter would have made a region louder, so that it was kept.
        model: the model that separated it; None if it is of no file.
        notes: reasons to doubt the result.
        like: the category that each region looks most like, and its probability.
    """
    shares = energy / (energy.sum() or 1.0)
    components = [
        {"energy": round(float(share), 6), "sounds": intervals}
        for share, intervals in zip(shares, activity.intervals(), strict=True)
    ]
    regions = [
        {"number": n + 1, "file": files[n], "colour": hex_colour(n)}
        | _position(region, localization.energy, size)
        | components[n]
        | _guess(like[n] if n < len(like) else None)
        for n, region in enumerate(localization.regions)
    ]
    return {
        "video": source.name,
        "model": None if model is None else _identity(model),
        **_part(source),
        "seconds": round(activity.seconds, 6),
        "width": size[0],
        "height": size[1],
        "sample_rate": sound.sample_rate,
        "channels": sound.channels,
        "denoise": None
        if denoise is None
        else {"filter": denoise.method, **denoise.values, "kept": asdict(kept)},
        "notes": [
            {"kind": note.kind, "text": note.text, "regions": list(note.regions)} for note in notes
        ],
        "regions": regions,
        REST: {"file": files[len(regions)], **components[-1]},
        "files": list(files),
        "loudness": _loudness(activity),
    }


def _guess(like: tuple[str, float] | None) -> dict[str, Any]:
    """Return what a region looks like; nothing if that is not known."""
    if like is None:
        return {}
    category, probability = like
    return {"like": {"category": category, "probability": round(probability, 4)}}


def _part(source: Source) -> dict[str, Any]:
    """Return which part of a video was separated, and with which picture; nothing usually."""
    part: dict[str, Any] = {}
    if source.start is not None or source.end is not None:
        part["part"] = {"start": source.start or 0.0, "end": source.end}
    if source.image is not None:
        part["image"] = unicode_name(source.image)
    return part


def _identity(model: ModelAbout) -> dict[str, Any]:
    """Return the name of a model, its SHA-256, and what it was trained on."""
    data = model.card.data
    trained: dict[str, Any] | None = None
    if data is not None:
        trained = {"source": data.source, "videos": data.videos, "hours": data.hours}
        trained["categories"] = sorted(data.categories)
    return {"name": model.name, "sha256": model.sha256, "trained_on": trained}


def _loudness(activity: Activity) -> dict[str, Any]:
    """Return the level of the regions and of the rest over time, dB of a tone of full scale."""
    *regions, rest = activity.decibels().round(1).tolist()
    return {"values_per_second": DECIBEL_RATE, "regions": regions, REST: rest}


def _position(region: Region, energy: NDArray[np.float64], size: tuple[int, int]) -> dict[str, Any]:
    """Return the box, centre and size of a region, as shares of the picture and in pixels."""
    width, height = size
    box = dict(zip(("left", "top", "right", "bottom"), region.box, strict=True))
    sizes = zip(box.items(), (width, height) * 2, strict=True)
    weights = cell_brightness(region, energy) ** 2
    sides = (weights.sum(axis=0), weights.sum(axis=1))
    x, y = (float(side @ (np.arange(len(side)) + 0.5) / side.sum() / len(side)) for side in sides)
    return {
        "box": box,
        "box_pixels": {side: round(share * pixels) for (side, share), pixels in sizes},
        "centre": {"x": x, "y": y},
        "centre_pixels": {"x": round(x * width), "y": round(y * height)},
        "size": float(region.cells.mean()),
    }
