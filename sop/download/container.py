"""Convert videos of any container to MP4: copy their streams, or else transcode them."""

import shutil
from pathlib import Path
from typing import Any

import ffmpeg

from sop.media.decoding import probe
from sop.media.ffmpeg import Limits, check_run, file_url, input_file, probe_header, run_to_end

# Fixed, so that the result does not depend on the machine.
TRANSCODE = {"vcodec": "libx264", "acodec": "aac", "crf": 20, "pix_fmt": "yuv420p", "threads": 1}


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
    containers = probe_header(video, limits).containers
    if video.suffix.lower() == ".mp4" and "mp4" in containers:
        shutil.copyfile(video, mp4)
        return
    # A copy of a truncated file would look like a complete one.
    probe(video, limits)
    if run_to_end(_convert(video, mp4, {"c": "copy"}), limits).code:
        transcoding = run_to_end(_convert(video, mp4, TRANSCODE), limits)
        check_run(transcoding, "not convertible to MP4 ({})")


def _convert(video: Path, mp4: Path, codecs: dict[str, Any]) -> Any:
    stream = input_file(video)
    return ffmpeg.output(
        stream["V:0"],
        stream["a:0"],
        file_url(mp4),
        format="mp4",
        movflags="+faststart",
        bitexact=None,
        **codecs,
    )
