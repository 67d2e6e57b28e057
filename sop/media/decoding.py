"""Decode a video once: sound and pictures on one timeline, which starts with the video.

Pictures are JPEGs for the eye of the model, and small luminance pictures for its sense of motion.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import ceil, log10
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from sop.media.ffmpeg import (
    FfmpegRun,
    Header,
    Limits,
    SoundTrack,
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

# A video whose loudest sample is below this is silent.
SILENCE_DBFS = -70.0

# The longer side of extracted pictures is at most this many times the shorter one.
MAX_ASPECT = 4

# Larger samples are clipped. Decoders of lossy sound exceed full scale slightly; a file of floats
# can contain any number.
MAX_AMPLITUDE = 16.0

# Codecs that store floats as they are, also those that are no numbers.
_FLOAT_CODECS = re.compile(r"pcm_f\d+[bl]e|wavpack")

# Sound tracks beyond these are not listened to.
MAX_TRACKS = 16

BLOCK_BYTES = 1 << 20

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
    """Height in pixels; the width, an even number, keeps the displayed aspect ratio, but neither
    side is more than `MAX_ASPECT` times the other."""
    quality: int
    """JPEG quality on ffmpeg's scale: 2 is best, 31 is smallest."""

    def count(self, seconds: float) -> int:
        """Return the number of pictures of a video of this length."""
        return picture_count(seconds, self.frame_rate)


@dataclass(frozen=True)
class MotionOutput:
    """Luminance pictures: picture n, from 0, is the one displayed at second (n + 0.5) / frame_rate.

    The file is YUV4MPEG2, which states the size of its pictures: `pack_motion` makes a track of it.
    """

    path: Path
    """File to write."""
    frame_rate: float
    """Pictures per second."""
    height: int
    """Height in pixels; the width follows as in `PictureOutput`."""

    def count(self, seconds: float) -> int:
        """Return the number of pictures of a video of this length."""
        return picture_count(seconds, self.frame_rate)


def picture_count(seconds: float, frame_rate: float) -> int:
    """Return the number of pictures of a video of this length."""
    return ceil(seconds * frame_rate - 0.5)


@dataclass(frozen=True)
class Probe:
    """Length and format of a complete video, and how its streams are read."""

    seconds: float
    """Length of the part with both pictures and sound, from the start of the video."""
    format: str = ""
    """Codecs, size and rates, such as `h264 640x360, aac 44100 Hz stereo`."""
    sound: str = "a:0"
    """Stream specifier of the sound."""
    cleaned_samples: int = 0
    """Number of samples that are no numbers or above `MAX_AMPLITUDE`; 0 for lossy sound."""
    sound_notes: tuple[str, ...] = ()
    """What is done with the sound that is not done with most videos, and why."""
    picture_notes: tuple[str, ...] = ()
    """The same for the pictures when they are extracted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done that is not done with most videos, and why."""
        return self.sound_notes + self.picture_notes


def probe(video: Path, limits: Limits, needs_sound: bool = True) -> Probe:
    """Read all packets of a video without decoding them.

    Sound is decoded only to choose one of several tracks, or if it may contain any number. The
    result does not depend on any parameter of the extraction.

    Args:
        video: the file.
        limits: maximum time and memory of each run of ffmpeg.
        needs_sound: False if its sound is in a file of its own.

    Raises:
        LeftOut: the file is not a video, has no pictures or no sound, or is truncated.
    """
    run, header, ends = _packets(video, "a:0?", limits)
    sound = "a:0"
    notes: list[str] = []
    picture_notes: list[str] = []
    track = header.sounds[0] if header.sounds else None
    if len(header.sounds) > 1:
        track, note = choose_sound(video, header, limits)
        notes.append(note)
        if track is not header.sounds[0]:
            sound = str(track.index)
            # Without the other tracks, since the first stream that is read determines the start.
            run, _, ends = _packets(video, sound, limits)
    for kind, what in (("video", "pictures"), ("audio", "sound"))[: 1 + needs_sound]:
        if ends.get(kind, 0.0) <= 0:
            raise LeftOut(f"contains no {what}")
    _check_whole(run)
    held, seconds = max(ends.values()), header.seconds
    if seconds is not None and seconds - held > max(MISSING_SECONDS, MISSING_SHARE * seconds):
        raise CutOff(f"cut off: contains {held:.1f} s, but its header says {seconds:.1f} s")
    check_run(run, "not readable ({})")
    cleaned = 0
    if track is not None and _FLOAT_CODECS.fullmatch(track.codec):
        cleaned = sum(
            np.count_nonzero(~(np.abs(block) <= MAX_AMPLITUDE))
            for block in _samples(video, track, limits)
        )
    if cleaned:
        notes.append(
            f"{cleaned} samples of its sound are no numbers, which become 0, or above "
            f"{20 * log10(MAX_AMPLITUDE):.0f} dB of full scale, which are clipped"
        )
    if header.aspect is not None and not 1 / MAX_ASPECT <= header.aspect <= MAX_ASPECT:
        across, down = header.size
        picture_notes.append(
            f"its pictures of {across} x {down} pixels are longer than {MAX_ASPECT}:1; for the "
            "model they are squeezed to that"
        )
    words = [header.pictures, track.format if track else ""]
    return Probe(
        min(ends.values()),
        ", ".join(filter(None, words)),
        sound,
        cleaned,
        tuple(notes),
        tuple(picture_notes),
    )


def has_sound(video: Path, header: Header, limits: Limits) -> bool:
    """Return whether a video contains anything louder than silence.

    Args:
        video: the file.
        header: its header.
        limits: maximum time and memory of listening to a track.
    """
    return any(_sounds(video, track, limits) for track in header.sounds[:MAX_TRACKS])


def choose_sound(video: Path, header: Header, limits: Limits) -> tuple[SoundTrack, str]:
    """Choose one of several sound tracks: the default one, or the first other one that sounds.

    Args:
        video: the file.
        header: its header, with several sounds.
        limits: maximum time and memory of listening to a track.

    Returns:
        The track, and a sentence that says which it is and why.
    """
    tracks = sorted(header.sounds, key=lambda track: not track.is_default)
    chosen = next(
        (track for track in tracks[:MAX_TRACKS] if _sounds(video, track, limits)), tracks[0]
    )
    reason = "the default one" if chosen.is_default else "none is marked as the default"
    if chosen is not tracks[0]:
        silent = header.sounds.index(tracks[0]) + 1
        reason = f"the first that sounds; track {silent}, which players take, is silent"
    number = header.sounds.index(chosen) + 1
    return chosen, f"its sound is track {number} of {len(tracks)}: {reason}"


def decode(
    video: Path,
    found: Probe,
    sound: SoundOutput | None,
    pictures: PictureOutput | None,
    limits: Limits,
    motion: MotionOutput | None = None,
) -> Iterator[bytes]:
    """Decode a video once: yield its pictures as JPEGs, and write its sound and its motion.

    Args:
        video: the file, an MP4. In a transport stream, a late stream that is decoded alone would
            start at 0.
        found: result of `probe`; sound and pictures end at its length.
        sound: WAV to write, or None. It is complete when the last picture has been yielded, and
            shorter than the video only if its stream is.
        pictures: format of the pictures, or None to yield none.
        limits: maximum time and memory.
        motion: luminance pictures to write, or None. They are complete when the sound is.

    Raises:
        LeftOut: the video is damaged.
    """
    # When the size of the pictures changes, the filters must not restart at time 0.
    streams = input_file(video, **{"reinit_filter:v": 0})
    outputs = []
    if pictures is not None:
        outputs.append(_pictures(streams["V:0"], pictures, found.seconds))
    if motion is not None:
        outputs.append(_motion(streams["V:0"], motion, found.seconds))
    if sound is not None:
        outputs.append(_sound(sound_stream(streams, found), sound, found.seconds))
    with run_ffmpeg(ffmpeg.merge_outputs(*outputs), limits) as run:
        yield from _parts(run.stdout)
    _check_whole(run)
    check_run(run)
    if any(text.startswith("Reconfiguring filter graph") for _, text in run.messages):
        raise LeftOut("its sound changes rate or channels; transcode it")


def sound_stream(streams: Any, found: Probe) -> Any:
    """Return the sound of a video as a stream of ffmpeg-python, without invalid samples.

    Args:
        streams: the video, from `input_file`.
        found: result of `probe`.
    """
    stream = streams[found.sound]
    if not found.cleaned_samples:
        return stream
    # Comparisons with what is no number are false; infinity exceeds every number of 32 bits.
    valid = f"if(lte(abs(val(ch)),3.5e38),clip(val(ch),-{MAX_AMPLITUDE},{MAX_AMPLITUDE}),0)"
    return stream.filter("aeval", valid, c="same")


def _packets(video: Path, sound: str, limits: Limits) -> tuple[FfmpegRun, Header, dict[str, float]]:
    """Read all packets of the pictures and of one sound.

    Args:
        video: the file.
        sound: stream specifier of the sound.
        limits: maximum time and memory.

    Returns:
        The run, the header, and the end of each kind of stream in seconds.

    Raises:
        LeftOut: the file is not a video.
    """
    streams = input_file(video)
    packets = ffmpeg.output(streams["V:0?"], streams[sound], "pipe:1", format="framecrc", c="copy")
    with run_ffmpeg(packets, limits) as run:
        ends = _ends(run.stdout)
    return run, parse_header(run), ends


def _sounds(video: Path, track: SoundTrack, limits: Limits) -> bool:
    """Return True if a track contains anything louder than silence; stop at the first of it."""
    threshold = 10 ** (SILENCE_DBFS / 20)
    samples = _samples(video, track, limits, "mono")
    heard = any((np.abs(block) >= threshold).any() for block in samples)
    samples.close()
    return heard


def _samples(
    video: Path, track: SoundTrack, limits: Limits, layout: str | None = None
) -> Generator[NDArray[np.float32], None, None]:
    """Decode a track, and yield blocks of its samples; nothing if it cannot be decoded.

    Args:
        video: the file.
        track: one of its sounds.
        limits: maximum time and memory.
        layout: layout of the channels, whose samples are interleaved; None for that of the track.
    """
    stream = input_file(video)[str(track.index)].filter("aformat", sample_fmts="flt")
    if layout is not None:
        stream = stream.filter("aformat", channel_layouts=layout)
    raw = ffmpeg.output(stream, "pipe:1", format="f32le", acodec="pcm_f32le")
    with run_ffmpeg(raw, limits) as run:
        while data := run.stdout.read(BLOCK_BYTES):
            yield np.frombuffer(data[: len(data) // 4 * 4], "<f4")


def _check_whole(run: FfmpegRun) -> None:
    for error in run.errors:
        if _CUT_OFF.search(error):
            raise CutOff(f"cut off or damaged: {error}")


def _pictures(stream: Any, output: PictureOutput, seconds: float) -> Any:
    return ffmpeg.output(
        _sampled(stream, output, seconds).filter("format", "yuvj420p"),
        "pipe:1",
        format="mpjpeg",
        vcodec="mjpeg",
        threads=1,
        bitexact=None,
        **{"q:v": output.quality},
    )


def _motion(stream: Any, output: MotionOutput, seconds: float) -> Any:
    return ffmpeg.output(
        _sampled(stream, output, seconds).filter("format", "gray"),
        file_url(output.path),
        format="yuv4mpegpipe",
        # The format is an extension of YUV4MPEG2 in gray.
        strict="unofficial",
        threads=1,
        bitexact=None,
    )


def _sampled(stream: Any, output: PictureOutput | MotionOutput, seconds: float) -> Any:
    """Return the pictures of a stream at the rate and of the size of an output."""
    height, half = output.height, output.height / 2
    # Otherwise the model would have as many cells as the aspect ratio of a video asks for.
    low, high = half / MAX_ASPECT, half * MAX_ASPECT
    return (
        # Rounding to the nearest starts each picture half a frame early, so that frame n shows the
        # middle of its interval. The first picture, if late, is shown from 0.
        stream.filter("fps", fps=exact_rate(output.frame_rate), start_time=0, round="near")
        # Trimmed here so that no later picture is created: a hostile file may last for years.
        .filter("trim", end_frame=max(1, output.count(seconds)))
        .filter(
            "scale",
            w=f"max(2,2*round(clip(iw*sar*{half:g}/ih,{low:g},{high:g})))",
            h=height,
            # The colour matrix of JPEG, whatever that of the video is.
            out_color_matrix="bt601",
            out_range="pc",
            flags="bicubic+accurate_rnd+bitexact",
        )
        .filter("setsar", 1)
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
