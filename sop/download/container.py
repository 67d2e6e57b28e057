"""Convert videos of any container to MP4: copy their streams, or else transcode them."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg

from sop.media.decoding import has_sound, probe
from sop.media.ffmpeg import (
    Header,
    Limits,
    check_run,
    file_url,
    input_file,
    probe_header,
    run_to_end,
    sound_file,
)
from sop.runtime.errors import LeftOut

logger = logging.getLogger(__name__)

# Fixed, so that the result does not depend on the machine.
TRANSCODE = {"vcodec": "libx264", "acodec": "aac", "crf": 20, "pix_fmt": "yuv420p", "threads": 1}

# For sounds that are not compressed.
LOSSLESS = "flac"

# The encoder holds this many pictures; fewer of large ones, so that 4K fits into 1 GiB.
LOOKAHEAD = 40
LOOKAHEAD_PIXELS = LOOKAHEAD * 1920 * 1088


def to_mp4(
    video: Path,
    mp4: Path,
    limits: Limits,
    sound: Path | None = None,
    clip: tuple[float, float] | None = None,
) -> None:
    """Write `video` as an MP4: as a copy if it is one, else with copied or transcoded streams.

    Args:
        video: a file of any container.
        mp4: path to write; its name ends in `.mp4`.
        limits: limits of each run of ffmpeg.
        sound: a sound file, which is used if the video has no sound or a silent one.
        clip: begin and end, in seconds, of the part to write, which is transcoded; None for all.

    Raises:
        LeftOut: the file is not a video; or it is no MP4, or its sound or a part of it is to be
            written, and is truncated, lacks pictures or sound, or cannot be converted.
    """
    header = probe_header(video, limits)
    if sound is not None and has_sound(video, header, limits):
        sound = None
    is_mp4 = video.suffix.lower() == ".mp4" and "mp4" in header.containers
    if is_mp4 and sound is None and clip is None:
        shutil.copyfile(video, mp4)
        return
    # A copy of a truncated file would look like a complete one.
    found = probe(video, limits, needs_sound=sound is None)
    for note in found.sound_notes if sound is None else ():
        logger.info(f"{video}: {note}")
    part = {} if clip is None else {"ss": clip[0], "t": clip[1] - clip[0]}
    if clip is not None and found.seconds <= clip[0]:
        raise LeftOut(
            f"nothing between {clip[0]:g} and {clip[1]:g} s: it is {found.seconds:.1f} s long"
        )
    pictures = input_file(video, **part)
    if sound is None:
        heard, kept = pictures[found.sound], "copy"
    else:
        kept = _kept_codec(sound, limits)
        heard = sound_file(sound, **part)["a:0"]
    convert = partial(_convert, pictures["V:0"], heard, mp4)
    copying = {"c:v": "copy", "c:a": kept}
    # Only a transcoded part begins exactly where it should, not at the key frame before.
    if clip is not None or run_to_end(convert(copying), limits).code:
        codecs = _codecs(header) | ({} if sound is None else {"acodec": LOSSLESS})
        check_run(run_to_end(convert(codecs), limits), "not convertible to MP4 ({})")


def _kept_codec(sound: Path, limits: Limits) -> str:
    """Return the codec with which a sound file loses nothing in an MP4."""
    try:
        header = probe_header(sound, limits, is_sound=True)
    except LeftOut as reason:
        raise LeftOut(f"its sound {sound.name} is {reason}") from None
    if not header.sounds:
        raise LeftOut(f"its sound {sound.name} contains no sound")
    return LOSSLESS if header.sounds[0].codec.startswith("pcm") else "copy"


def _codecs(header: Header) -> dict[str, Any]:
    """Return the options of a transcoding."""
    width, height = header.size
    options: dict[str, Any] = dict(TRANSCODE)
    if width % 2 or height % 2:
        # The encoder takes even sizes only.
        options["vf"] = "scale=2*ceil(iw/2):2*ceil(ih/2)"
    lookahead = LOOKAHEAD_PIXELS // max(1, width * height)
    if lookahead < LOOKAHEAD:
        options["rc-lookahead"] = lookahead
    return options


def _convert(pictures: Any, sound: Any, mp4: Path, codecs: dict[str, Any]) -> Any:
    return ffmpeg.output(
        pictures, sound, file_url(mp4), format="mp4", movflags="+faststart", bitexact=None, **codecs
    )
