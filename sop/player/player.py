"""The pixel player: a page that plays the sound of any pixel of a clip, without a server.

Shapes: W windows, h x w cells of the picture, C channels, E envelopes, R mask rows, F x M frequency
bins x spectrogram frames, L samples. `page/` contains the template, style and script of the page;
the script computes what `sop.inference.embedding` does from the numbers that are written here.
"""

import base64
import html
import re
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sop.inference.embedding import Embedding, MotionEmbedding
from sop.inference.localization import MIN_CELL_ENERGY, SILENCE_AMPLITUDE
from sop.model.motion import ENVELOPES, LEAD, MAPS, TAIL
from sop.model.spectrogram import MaskRule, unwarp_rows
from sop.player.colours import hex_colour
from sop.player.embedded import SHARED_STYLE, WHOLE_SCRIPT, digest, script_json
from sop.runtime.errors import UserError
from sop.runtime.files import replacing, require_file, write_text

Floats = NDArray[np.float32]

VIDEO_FORMATS = (".mp4", ".webm")

_TEMPLATES = Path(__file__).parent / "page"
_SCRIPTS = ("fourier.js", "sound.js", "playback.js", "drawing.js", "page.js")
# Largest level of component maps and envelopes, and of the maps that motion weighs: there are more
# of these, and they count less.
_LEVELS = 255
_MAP_LEVELS = 127
_FULL_SCALE = 32767

# A file by its path from the folder of the page, with the place in it: no address of another site.
_RELATIVE = re.compile(r"(\.\./)*([\w-][\w.-]*/)*[\w-][\w.-]*(#[\w-]+)?", re.ASCII)


@dataclass(frozen=True)
class PlayerRegion:
    """A region of the picture with its own sound."""

    name: str
    """Name of the region, any text."""
    cells: NDArray[np.bool_]
    """True for the cells of the region, (h, w)."""
    features: NDArray[np.float32]
    """Visual features in each window, as for `Embedding.masks`, (W, C)."""
    envelopes: NDArray[np.float32] | None = None
    """Envelopes, as for `Embedding.masks`, (E, LEAD + M + TAIL); None without motion."""


@dataclass(frozen=True)
class PlayerClip:
    """A stretch of a video with the data from which the page separates its sound."""

    title: str
    """Title of the page, any text."""
    embedding: Embedding
    """Embedding of exactly this stretch."""
    regions: tuple[PlayerRegion, ...]
    """Regions that the page lists, in this order."""
    heat: NDArray[np.float32]
    """Energy of the sound under the mask of each cell, >= 0, (T, h, w): in each of W windows, or,
    with motion, in each of T equal parts of the clip."""
    colours: NDArray[np.uint8]
    """Colour of the sound of each cell, (h, w, 3); similar sounds have similar colours."""
    rule: MaskRule | None = None
    """How evaluation makes gains of the masks of the regions, to play these as it separates them:
    they may overlap, and the rest is the mixture minus all of them. None divides each bin among
    regions and rest by the squares of their masks."""
    notes: tuple[str, ...] = ()
    """Why the sounds may not be what they seem to be, any texts; the page lists them."""
    report: str | None = None
    """Path, from the folder of the page, of the report that it belongs to, with `/` and, if wanted,
    `#` and a place in it. None has no link."""


def write_player(folder: Path, clip: PlayerClip, video: Path) -> Path:
    """Write a page that plays a clip and the sound of any of its pixels.

    Args:
        folder: folder for `index.html` and the video; other files in it stay.
        clip: content of the page.
        video: the same stretch as MP4 with H.264 and AAC, or as WebM; it is copied.

    Returns:
        Path of the page, which a browser opens without a server or a network.

    Raises:
        UserError: the video is missing, or browsers do not play its format.
        ValueError: shapes do not match, numbers are not finite, or `report` is not such a path.
    """
    _check(clip)
    ending = video.suffix.lower()
    if ending not in VIDEO_FORMATS:
        raise UserError(
            f"{video}: browsers play only {' and '.join(VIDEO_FORMATS)} files; convert it"
        )
    require_file(video)
    copy = folder / f"video{ending}"
    if not (copy.exists() and copy.samefile(video)):
        with replacing(copy) as partial:
            shutil.copyfile(video, partial)
    page = folder / "index.html"
    write_text(page, _page(clip, copy.name))
    return page


def quantise(
    components: Floats, largest: int = _LEVELS
) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Quantise each channel to equally spaced levels between its minimum and maximum.

    Args:
        components: (C, R, M).
        largest: largest level, at most 255.

    Returns:
        Levels, (C, R, M), and step and offset of each channel, (C,); a value is
        `level * step + offset`.
    """
    flat = components.reshape(len(components), -1).astype(np.float64)
    offsets = flat.min(axis=1)
    steps = (flat.max(axis=1) - offsets) / largest
    divisors = np.where(steps > 0, steps, 1)
    levels = np.rint((flat - offsets[:, None]) / divisors[:, None]).astype(np.uint8)
    return (levels.reshape(components.shape), steps.astype(np.float32), offsets.astype(np.float32))


def _check(clip: PlayerClip) -> None:
    embedding = clip.embedding
    windows, height, width, channels = embedding.cells.shape
    frames = embedding.components.shape[-1]
    # Masks have 256 rows on the logarithmic frequency axis, or one for each bin.
    bins = embedding.spectrogram.stft_frame // 2 + 1
    rows = embedding.components.shape[1] if embedding.spectrogram.log_frequency else bins
    expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "components": (embedding.components, (channels, rows, frames)),
        "scale": (embedding.scale, (channels,)),
        "crossfade": (embedding.crossfade, (windows, frames)),
        "heat": (clip.heat, (windows, height, width)),
        "colours": (clip.colours, (height, width, 3)),
    }
    for number, region in enumerate(clip.regions):
        expected[f"cells of region {number}"] = (region.cells, (height, width))
        expected[f"features of region {number}"] = (region.features, (windows, channels))
    motion, length = embedding.motion, LEAD + frames + TAIL
    if motion is not None:
        expected["heat"] = (clip.heat, (len(clip.heat), height, width))
        expected["maps"] = (motion.maps, (MAPS, rows, frames))
        expected["cells of motion"] = (motion.cells, (ENVELOPES, length, height, width))
        expected["taps"] = (motion.taps, (MAPS, ENVELOPES, LEAD + 1 + TAIL))
    for number, region in enumerate(clip.regions):
        if (motion is None) != (region.envelopes is None):
            raise ValueError(f"envelopes of region {number}: they belong to motion")
        if region.envelopes is not None:
            expected[f"envelopes of region {number}"] = (region.envelopes, (ENVELOPES, length))
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name}: shape {array.shape}, expected {shape}")
    if 1 + len(embedding.audio) // embedding.spectrogram.stft_hop != frames or frames < 2:
        raise ValueError(f"{len(embedding.audio)} samples do not make {frames} spectrogram frames")
    others = (embedding.audio, embedding.cells, np.asarray(embedding.bias))
    if not all(np.isfinite(array).all() for array in (*(a for a, _ in expected.values()), *others)):
        raise ValueError("the clip contains numbers that are not finite")
    if clip.report is not None and not _RELATIVE.fullmatch(clip.report):
        raise ValueError(f"report: {clip.report!r} is not a relative path")


def _page(clip: PlayerClip, video: str) -> str:
    template, style, *scripts = (
        (_TEMPLATES / name).read_text(encoding="utf-8")
        for name in ("page.html", "style.css", *_SCRIPTS)
    )
    style = SHARED_STYLE + style
    script = "\n".join(scripts)
    described, data = _contents(clip)
    description = script_json(described)
    # Allow only these scripts, this style and the video in this folder, and no connections.
    policy = (
        "default-src 'none'; "
        f"script-src '{digest(WHOLE_SCRIPT)}' '{digest(script)}'; style-src '{digest(style)}'; "
        "media-src 'self' file:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(template).substitute(
        policy=policy,
        title=html.escape(clip.title),
        back=_link_back(clip.report),
        video=video,
        style=style,
        whole=WHOLE_SCRIPT,
        script=script,
        clip=description,
        data=data,
        checksum=zlib.crc32((description + data).encode()),
    )


def _link_back(report: str | None) -> str:
    if report is None:
        return ""
    return f'<p id="back"><a href="{html.escape(report)}">Back to the report</a></p>'


def _contents(clip: PlayerClip) -> tuple[dict[str, Any], str]:
    """Return the input of the script: a description, and all arrays deflated, as base64."""
    embedding = clip.embedding
    motion = embedding.motion
    levels, steps, offsets = quantise(embedding.components)
    if motion is not None:
        of_maps = quantise(motion.maps, _MAP_LEVELS)
        levels, steps, offsets = (
            np.concatenate([levels, of_maps[0]]),
            np.concatenate([steps, of_maps[1]]),
            np.concatenate([offsets, of_maps[2]]),
        )
    differences = _differences(levels.transpose(0, 2, 1))
    peak = float(np.abs(embedding.audio).max())
    samples = np.rint(embedding.audio * (_FULL_SCALE / peak if peak else 1)).astype("<i2")
    positions = np.zeros(0, np.float32)
    if embedding.spectrogram.log_frequency:
        positions = unwarp_rows(embedding.spectrogram.stft_frame // 2 + 1).float().numpy()
    floats = {
        "steps": steps,
        "offsets": offsets,
        # Weighted here, so that the page does not need the activation and the scale.
        "cells": embedding.weights(embedding.cells),
        "crossfade": embedding.crossfade,
        "features": np.array([embedding.weights(region.features) for region in clip.regions]),
        "positions": positions,
        # With motion, a map is that of a moment: by amplitude, so that quiet sounds are visible.
        "heat": clip.heat if motion is None else np.sqrt(clip.heat),
    }
    envelopes = None if motion is None else _envelopes(motion)
    if motion is not None and envelopes is not None:
        floats |= {"envelopeSteps": envelopes[1], "envelopeOffsets": envelopes[2]}
        floats["taps"] = motion.taps
        floats["regionEnvelopes"] = np.array([region.envelopes for region in clip.regions])
    # Ordered by item size, so that each array is aligned.
    arrays: dict[str, NDArray[Any]] = {
        **{name: array.astype("<f4") for name, array in floats.items()},
        "samples": samples,
        "components": differences,
        **({} if envelopes is None else {"envelopes": envelopes[0]}),
        "colours": clip.colours,
    }
    _, height, width, channels = embedding.cells.shape
    described = {
        "title": clip.title,
        "sampleRate": embedding.sample_rate,
        "peak": peak,
        "frame": embedding.spectrogram.stft_frame,
        "hop": embedding.spectrogram.stft_hop,
        "logFrequency": embedding.spectrogram.log_frequency,
        "bias": float(embedding.bias),
        "activation": embedding.activation,
        "rule": clip.rule and asdict(clip.rule),
        "notes": clip.notes,
        "silence": {"amplitude": SILENCE_AMPLITUDE, "share": MIN_CELL_ENERGY},
        "windows": len(embedding.cells),
        "height": height,
        "width": width,
        "channels": channels,
        "rows": embedding.components.shape[1],
        "frames": embedding.components.shape[2],
        "arrays": [[name, array.dtype.str[1:], array.size] for name, array in arrays.items()],
        "regions": [
            {
                "name": region.name,
                "colour": hex_colour(number),
                "cells": np.flatnonzero(region.cells).tolist(),
            }
            for number, region in enumerate(clip.regions)
        ],
    }
    if motion is not None:
        described["motion"] = {
            "envelopes": ENVELOPES,
            "maps": MAPS,
            "lead": LEAD,
            "tail": TAIL,
            "heats": len(clip.heat),
        }
    raw = b"".join(array.tobytes() for array in arrays.values())
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return described, base64.b64encode(deflate.compress(raw) + deflate.flush()).decode()


def _envelopes(motion: MotionEmbedding) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Quantise the envelopes of the cells.

    Returns:
        Differences between consecutive levels, (E, h, w, LEAD + M + TAIL), and step and offset of
        each envelope, (E,).
    """
    levels, steps, offsets = quantise(motion.cells)
    return _differences(levels.transpose(0, 2, 3, 1)[..., None]), steps, offsets


def _differences(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return differences of consecutive frames, modulo 256, (..., M, n): they compress better."""
    frames = np.ascontiguousarray(levels)
    first = np.zeros_like(frames[..., :1, :])
    return np.diff(frames, axis=-2, prepend=first)
