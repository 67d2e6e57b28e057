"""Decode a video once: sound and pictures on one timeline, which starts with the video."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Any

import ffmpeg

from sop.media.ffmpeg import (
    FfmpegRun,
    Limits,
    check_run,
    exact_rate,
    file_url,
    input_file,
    parse_header,
    run_ffmpeg,
)
from sop.runtime.errors import LeftOut

# A file that is shorter than its header says, by more than this, is truncated.
MISSING_SECONDS = 1.0
MISSING_SHARE = 0.02

# Larger offsets between sound and pictures are corrected; smaller ones are jitter.
STEP_SECONDS = 0.04

# The last packet of the sound can decode to slightly less than its duration.
TAIL_SECONDS = 0.1

# Messages about packets only: a decoder also reports truncated SEI messages, and continues.
_CUT_OFF = re.compile(
    r"partial file|prematurely|truncating packet|error during demuxing", re.IGNORECASE
)


class CutOff(LeftOut):
    """The video is truncated."""


@dataclass(frozen=True)
class SoundOutput:
    """Mono 16-bit PCM WAV: sample k is at second k / sample_rate."""

    path: Path
    """File to write."""
    sample_rate: int
    """Sample rate, Hz."""

    def samples(self, seconds: float) -> int:
        """Return the number of samples of a video of this length."""
        return round(seconds * self.sample_rate)


@dataclass(frozen=True)
class PictureOutput:
    """JPEGs: picture n, from 1, is the one displayed at second (n - 0.5) / frame_rate."""

    frame_rate: float
    """Pictures per second."""
    height: int
    """Height in pixels; the width, an even number, keeps the displayed aspect ratio."""
    quality: int
    """JPEG quality on ffmpeg's scale: 2 is best, 31 is smallest."""

    def count(self, seconds: float) -> int:
        """Return the number of pictures of a video of this length."""
        return ceil(seconds * self.frame_rate - 0.5)


@dataclass(frozen=True)
class Probe:
    """Length and format of a complete video."""

    seconds: float
    """Length of the part with both pictures and sound, from the start of the video."""
    format: str
    """Codecs, size and rates, such as `h264 640x360, aac 44100 Hz stereo`."""


def probe(video: Path, limits: Limits) -> Probe:
    """Read all packets of a video without decoding them.

    The result does not depend on any parameter of the extraction.

    Raises:
        LeftOut: the file is not a video, has no pictures or no sound, or is truncated.
    """
    streams = input_file(video)
    packets = ffmpeg.output(streams["V:0?"], streams["a:0?"], "pipe:1", format="framecrc", c="copy")
    with run_ffmpeg(packets, limits) as run:
        ends = _ends(run.stdout)
    header = parse_header(run)
    seconds = header.seconds
    for kind, what in (("video", "pictures"), ("audio", "sound")):
        if ends.get(kind, 0.0) <= 0:
            raise LeftOut(f"contains no {what}")
    _check_whole(run)
    held = max(ends.values())
    if seconds is not None and seconds - held > max(MISSING_SECONDS, MISSING_SHARE * seconds):
        raise CutOff(f"cut off: contains {held:.1f} s, but its header says {seconds:.1f} s")
    check_run(run, "not readable ({})")
    return Probe(min(ends.values()), header.format)


def decode(
    video: Path,
    seconds: float,
    sound: SoundOutput | None,
    pictures: PictureOutput | None,
    limits: Limits,
) -> Iterator[bytes]:
    """Decode a video once: yield its pictures as JPEGs, and write its sound.

    Args:
        video: the file, an MP4. In a transport stream, a late stream that is decoded alone would
            start at 0.
        seconds: length from `probe`; sound and pictures end there.
        sound: WAV to write, or None for pictures only. It is complete when the last picture has
            been yielded, and shorter than `seconds` only if its stream is.
        pictures: format of the pictures, or None for sound only.
        limits: maximum time and memory.

    Raises:
        LeftOut: the video is damaged.
    """
    # When the size of the pictures changes, the filters must not restart at time 0.
    streams = input_file(video, **{"reinit_filter:v": 0})
    outputs = []
    if pictures is not None:
        outputs.append(_pictures(streams["V:0"], pictures, seconds))
    if sound is not None:
        outputs.append(_sound(streams["a:0"], sound, seconds))
    with run_ffmpeg(ffmpeg.merge_outputs(*outputs), limits) as run:
        yield from _parts(run.stdout)
    _check_whole(run)
    check_run(run)
    if any(text.startswith("Reconfiguring filter graph") for _, text in run.messages):
        raise LeftOut("its sound changes rate or channels; transcode it")


def _check_whole(run: FfmpegRun) -> None:
    for error in run.errors:
        if _CUT_OFF.search(error):
            raise CutOff(f"cut off or damaged: {error}")


def _pictures(stream: Any, output: PictureOutput, seconds: float) -> Any:
    height = output.height
    frames = (
        # Rounding to the nearest starts each picture half a frame early, so that frame n shows the
        # middle of its interval. The first picture, if late, is shown from 0.
        stream.filter("fps", fps=exact_rate(output.frame_rate), start_time=0, round="near")
        # Trimmed here so that no later picture is created: a hostile file may last for years.
        .filter("trim", end_frame=max(1, output.count(seconds)))
        .filter(
            "scale",
            w=f"max(2,2*round(iw*sar*{height / 2:g}/ih))",
            h=height,
            # The colour matrix of JPEG, whatever that of the video is.
            out_color_matrix="bt601",
            out_range="pc",
            flags="bicubic+accurate_rnd+bitexact",
        )
        .filter("setsar", 1)
        .filter("format", "yuvj420p")
    )
    return ffmpeg.output(
        frames,
        "pipe:1",
        format="mpjpeg",
        vcodec="mjpeg",
        threads=1,
        bitexact=None,
        **{"q:v": output.quality},
    )


def _sound(stream: Any, output: SoundOutput, seconds: float) -> Any:
    samples = (
        stream.filter(
            "aresample", output.sample_rate, first_pts=0, min_hard_comp=STEP_SECONDS, **{"async": 1}
        )
        .filter("aformat", sample_fmts="s16", channel_layouts="mono")
        .filter("apad", pad_dur=TAIL_SECONDS)
        .filter("atrim", end_sample=output.samples(seconds))
    )
    return ffmpeg.output(
        samples, file_url(output.path), format="wav", acodec="pcm_s16le", bitexact=None
    )


def _ends(lines: IO[bytes]) -> dict[str, float]:
    """Return the end of each kind of stream in seconds, from ffmpeg's list of packets."""
    kinds: dict[bytes, str] = {}
    bases: dict[bytes, float] = {}
    last: dict[bytes, int] = {}
    ends: dict[bytes, int] = {}
    for line in lines:
        if line.startswith(b"#"):
            if match := re.match(rb"#tb (\d+): (\d+)/(\d+)", line):
                bases[match[1]] = int(match[2]) / int(match[3])
            elif match := re.match(rb"#media_type (\d+): (\w+)", line):
                kinds[match[1]] = match[2].decode()
            continue
        stream, decoded, shown, duration = line.split(b",", 4)[:4]
        # A packet without a presentation time has a decoding time.
        begin = max(int(decoded), int(shown))
        # If the container has no duration for the last picture, use that of the previous one.
        gap = begin - last.get(stream, begin)
        ends[stream] = max(ends.get(stream, 0), begin + (int(duration) or max(gap, 0)))
        last[stream] = begin
    return {kinds[stream]: end * bases[stream] for stream, end in ends.items()}


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the bodies of a multipart stream, each preceded by its length."""
    length = 0
    while line := stream.readline():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif line == b"\r\n" and length:
            body = stream.read(length)
            if len(body) == length:
                yield body
            length = 0
