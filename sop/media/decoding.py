"""One decode of a video: sound and pictures on one timeline, which begins with the video."""

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
    error_message,
    exact_rate,
    file_url,
    input_file,
    parse_header,
    run_ffmpeg,
)
from sop.runtime.errors import LeftOut

# A file that holds less than its header says, by more than this, was cut off.
MISSING_SECONDS = 1.0
MISSING_SHARE = 0.02

# Sound and pictures that drift apart by more are put in step again; shorter gaps are jitter.
STEP_SECONDS = 0.04

# The sound's last packet can decode to a little less than it announces.
TAIL_SECONDS = 0.1

# Of packets only: a decoder also calls a remark beside the picture (SEI) truncated, and goes on.
_CUT_OFF = re.compile(
    r"partial file|prematurely|truncating packet|error during demuxing", re.IGNORECASE
)


class CutOff(LeftOut):
    """The end of the video is missing."""


@dataclass(frozen=True)
class SoundOutput:
    """A mono 16-bit PCM WAV: sample k is second k / sample_rate."""

    path: Path
    sample_rate: int
    """Hz."""

    def samples(self, seconds: float) -> int:
        """Samples of a video of this length."""
        return round(seconds * self.sample_rate)


@dataclass(frozen=True)
class PictureOutput:
    """JPEGs: the n-th, from 1, is what is on display at second (n - 0.5) / frame_rate."""

    frame_rate: float
    """Per second."""
    height: int
    """Pixels; the width follows, even, from the picture's shape on display."""
    quality: int
    """ffmpeg's scale: 2 is best, 31 is smallest."""

    def count(self, seconds: float) -> int:
        """Pictures of a video of this length."""
        return ceil(seconds * self.frame_rate - 0.5)


@dataclass(frozen=True)
class Probe:
    """What a whole video holds."""

    seconds: float
    """Length of what can be both seen and heard, from the beginning of the video."""
    format: str
    """Codecs, size and rates, as `h264 640x360, aac 44100 Hz stereo`."""


def probe(video: Path, limits: Limits) -> Probe:
    """Read all packets of a video and decode none.

    So the result depends on no parameter of extraction.

    Raises:
        LeftOut: not a video, without pictures or sound, or cut off.
    """
    streams = input_file(video)
    packets = ffmpeg.output(streams["V:0?"], streams["a:0?"], "pipe:1", format="framecrc", c="copy")
    with run_ffmpeg(packets, limits) as run:
        ends = _ends(run.stdout)
    header = parse_header(run)
    seconds = header.seconds
    for kind, what in (("video", "pictures"), ("audio", "sound")):
        if ends.get(kind, 0.0) <= 0:
            raise LeftOut(f"holds no {what}")
    _check_whole(run)
    held = max(ends.values())
    if seconds is not None and seconds - held > max(MISSING_SECONDS, MISSING_SHARE * seconds):
        raise CutOff(f"cut off: holds {held:.1f} s of the {seconds:.1f} s that its header says")
    if run.code:
        raise LeftOut(f"not readable ({error_message(run)})")
    return Probe(min(ends.values()), header.format)


def decode(
    video: Path,
    seconds: float,
    sound: SoundOutput | None,
    pictures: PictureOutput | None,
    limits: Limits,
) -> Iterator[bytes]:
    """Decode a video once: yield its pictures, each a JPEG, and write its sound.

    Args:
        video: the file, an MP4; in a transport stream a stream that is decoded alone would begin
            at 0 although it is late.
        seconds: its length, of `probe`; sound and pictures end there.
        sound: the WAV that is written, or None for pictures only. It is whole when the last
            picture has been taken, and shorter than it should be only if its stream is.
        pictures: or None for sound only.
        limits: of time and memory.

    Raises:
        LeftOut: the video is damaged.
    """
    # When pictures change their size, the filters must go on instead of beginning again at 0.
    streams = input_file(video, **{"reinit_filter:v": 0})
    outputs = []
    if pictures is not None:
        outputs.append(_pictures(streams["V:0"], pictures, seconds))
    if sound is not None:
        outputs.append(_sound(streams["a:0"], sound, seconds))
    with run_ffmpeg(ffmpeg.merge_outputs(*outputs), limits) as run:
        yield from _parts(run.stdout)
    _check_whole(run)
    if run.code:
        # Decoders of sound and pictures complain beside each other; sorted, runs say the same.
        run.messages.sort()
        raise LeftOut(f"damaged: {error_message(run)}")
    if any(text.startswith("Reconfiguring filter graph") for _, text in run.messages):
        raise LeftOut("its sound changes rate or channels on the way; transcode it")


def _check_whole(run: FfmpegRun) -> None:
    for error in run.errors:
        if _CUT_OFF.search(error):
            raise CutOff(f"cut off or damaged: {error}")


def _pictures(stream: Any, output: PictureOutput, seconds: float) -> Any:
    height = output.height
    frames = (
        # Rounding to the nearest makes a picture begin half a frame early, so that what frame n
        # shows is what is on display in the middle of its time. A late first picture counts from 0.
        stream.filter("fps", fps=exact_rate(output.frame_rate), start_time=0, round="near")
        # Here, so that no picture after the last is made: a hostile file may have years of them.
        .filter("trim", end_frame=max(1, output.count(seconds)))
        .filter(
            "scale",
            w=f"max(2,2*round(iw*sar*{height / 2:g}/ih))",
            h=height,
            # What JPEG means by YUV, whatever the video meant.
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
            "aresample",
            output.sample_rate,
            first_pts=0,
            min_hard_comp=STEP_SECONDS,
            **{"async": 1},
        )
        .filter("aformat", sample_fmts="s16", channel_layouts="mono")
        .filter("apad", pad_dur=TAIL_SECONDS)
        .filter("atrim", end_sample=output.samples(seconds))
    )
    return ffmpeg.output(
        samples, file_url(output.path), format="wav", acodec="pcm_s16le", bitexact=None
    )


def _ends(lines: IO[bytes]) -> dict[str, float]:
    """The second at which each kind of stream ends, from ffmpeg's list of packets."""
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
        # A packet without a time of display has the time of decoding.
        begin = max(int(decoded), int(shown))
        # A container that does not say how long the last picture stays means: like the one before.
        gap = begin - last.get(stream, begin)
        ends[stream] = max(ends.get(stream, 0), begin + (int(duration) or max(gap, 0)))
        last[stream] = begin
    return {kinds[stream]: end * bases[stream] for stream, end in ends.items()}


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    """The bodies of a multipart stream, each announced with its length."""
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
