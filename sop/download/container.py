"""Convert videos of any container to MP4: copy their streams, or else transcode them."""

import logging
import shutil
from pathlib import Path
from typing import Any

import ffmpeg

from sop.media.decoding import probe
from sop.media.ffmpeg import (
    Header,
    Limits,
    check_run,
    file_url,
    input_file,
    probe_header,
    run_to_end,
)

logger = logging.getLogger(__name__)

# Fixed, so that the result does not depend on the machine.
TRANSCODE = {"vcodec": "libx264", "acodec": "aac", "crf": 20, "pix_fmt": "yuv420p", "threads": 1}

# The encoder holds this many pictures; fewer of large ones, so that 4K fits into 1 GiB.
LOOKAHEAD = 40
LOOKAHEAD_PIXELS = LOOKAHEAD * 1920 * 1088


def to_mp4(video: Path, mp4: Path, limits: Limits) -> None:
    """Write `video` as an MP4: as a copy if it is one, else with copied or transcoded streams.

    Args:
        video: a file of any container.
        mp4: path to write; its name ends in `.mp4`.
        limits: limits of each run of ffmpeg.

    Raises:
        LeftOut: the file is not a video; or it is no MP4 and is truncated, lacks pictures or
            sound, or cannot be converted.
    """
    header = probe_header(video, limits)
    if video.suffix.lower() == ".mp4" and "mp4" in header.containers:
        shutil.copyfile(video, mp4)
        return
    # A copy of a truncated file would look like a complete one.
    found = probe(video, limits)
    for note in found.sound_notes:
        logger.info(f"{video}: {note}")
    if run_to_end(_convert(video, found.sound, mp4, {"c": "copy"}), limits).code:
        transcoding = run_to_end(_convert(video, found.sound, mp4, _codecs(header)), limits)
        check_run(transcoding, "not convertible to MP4 ({})")


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


def _convert(video: Path, sound: str, mp4: Path, codecs: dict[str, Any]) -> Any:
    stream = input_file(video)
    return ffmpeg.output(
        stream["V:0"],
        stream[sound],
        file_url(mp4),
        format="mp4",
        movflags="+faststart",
        bitexact=None,
        **codecs,
    )
