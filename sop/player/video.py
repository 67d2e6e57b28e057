"""Sound and video files, read and written through ffmpeg on the timeline that `decode` has.

Second 0 is where the video begins: its first stream, as ffmpeg counts.
"""

import errno
import os
import select
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.cancellation.wav import WavHeader, read_header
from sop.media.decoding import STEP_SECONDS, TAIL_SECONDS, PictureOutput
from sop.media.ffmpeg import (
    FfmpegRun,
    Limits,
    error_message,
    exact_rate,
    file_url,
    input_file,
    probe_header,
    run_ffmpeg,
    run_to_end,
)
from sop.runtime.errors import LeftOut, LeftOutForNow
from sop.runtime.files import writable

Values = NDArray[np.float32]
Picture = NDArray[np.uint8]

# A hostile file may claim any; what music has is well within.
MOST_CHANNELS = 32
MOST_SAMPLE_RATE = 768_000

# Decoders of lossy sound go a little over full scale; a file of floats may hold anything.
LOUDEST = 16.0

BLOCK_SAMPLES = 1 << 15

# Decoded past the end and thrown away: how many samples a length is depends on a rate that only
# ffmpeg knows beforehand.
SPARE_SECONDS = 0.001

# How often a pipe is tried that ffmpeg has not opened yet.
OPEN_SECONDS = 0.005

# What is slower has stalled: a tenth of real time, and an hour for any file.
SECONDS_PER_SECOND = 10.0
LEAST_LIMIT_SECONDS = 3600.0

# A picture that stays on display for long began before the stretch that shows it.
CLIP_LEAD_SECONDS = 5.0
CLIP_LINES = 480
CLIP_RATE = 30

# Of the sound in a remix and in what is made for browsers, of each channel.
BIT_RATE = 96_000
MOST_BIT_RATE = 512_000

# Loudspeakers that both encoders know; 5.1 with sides, for one, becomes 5.1 with backs.
LAYOUTS = "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"

# Endings of containers that can hold any picture's stream or those that belong in them, and the
# sound of a remix.
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Sound:
    """The sound of a video, being decoded."""

    sample_rate: int
    """Hz."""
    channels: int
    channel_mask: int
    """Which loudspeakers they are for, as in WAVEFORMATEXTENSIBLE; 0 if the file does not say."""
    samples: int
    """Of each channel, in all blocks together."""
    blocks: Iterator[Values]
    """Consecutive, (S, channels); full scale is 1, and lossy sound goes a little over it. Raises
    `LeftOut` where the sound is damaged. To be read once, inside the block of `reading_sound`."""


def limits_of(seconds: float) -> Limits:
    """Limits of a run of ffmpeg over a whole video of any length, its reader's time included."""
    return Limits(max(LEAST_LIMIT_SECONDS, SECONDS_PER_SECOND * seconds))


@contextmanager
def reading_sound(video: Path, seconds: float, limits: Limits) -> Iterator[Sound]:
    """Decode the original sound, at its own rate and with all its channels.

    It is in step with what `decode` makes: it begins and ends there, gaps are silence.

    Args:
        video: the file.
        seconds: its length, of `probe`.
        limits: of time, the reader's included, and memory; see `limits_of`.

    Raises:
        LeftOut: it is damaged, or of a form that is not supported.
    """
    streams = input_file(video)
    samples = _in_step(streams["a:0"], seconds).filter("aformat", sample_fmts="flt")
    sound = ffmpeg.output(samples, "pipe:1", format="wav", acodec="pcm_f32le", bitexact=None)
    ended = True
    with run_ffmpeg(_beside(sound, streams["V:0"]), limits) as run:
        if (found := read_header(run.stdout)) is not None:
            sample_rate, channels = found.sample_rate, found.channels
            if channels > MOST_CHANNELS or sample_rate > MOST_SAMPLE_RATE:
                raise LeftOut(
                    f"its sound has {channels} channels at {sample_rate} Hz; at most "
                    f"{MOST_CHANNELS} channels and {MOST_SAMPLE_RATE} Hz are read"
                )
            count = round(seconds * sample_rate)
            blocks = _blocks(run.stdout, found, count)
            yield Sound(sample_rate, channels, found.channel_mask, count, blocks)
            # Whoever stops in the middle makes ffmpeg fail, which is no fault of the file.
            ended = not run.stdout.read(1)
    if found is None or (ended and run.code):
        run.messages.sort()
        raise LeftOut(f"damaged: {error_message(run)}")
    if any(text.startswith("Reconfiguring filter graph") for _, text in run.messages):
        raise LeftOut("its sound changes rate or channels on the way; transcode it")


def reading_pictures(
    video: Path, seconds: float, frame_rate: float, lines: int | None, limits: Limits
) -> Iterator[Picture]:
    """Decode pictures, upright and with square pixels, on the timeline that `decode` has.

    Args:
        video: the file.
        seconds: its length, of `probe`.
        frame_rate: per second; the n-th picture, from 0, is that in the middle of its time.
        lines: height at most, pixels; None keeps that of the video.
        limits: of time, the reader's included, and memory.

    Yields:
        (H, W, 3), RGB, all of one size.

    Raises:
        LeftOut: it is damaged.
    """
    height = "ih" if lines is None else f"min(ih,{lines})"
    # When pictures change their size, the filters must go on instead of beginning again at 0.
    streams = input_file(video, **{"reinit_filter:v": 0})
    pictures = (
        streams["V:0"]
        .filter("fps", fps=exact_rate(frame_rate), start_time=0, round="near")
        .filter("trim", end_frame=PictureOutput(frame_rate, 0, 0).count(seconds) or 1)
        .filter("scale", w=f"max(1,round(iw*sar*{height}/ih))", h=height, flags="bicubic")
        .filter("format", "rgb24")
    )
    command = ffmpeg.output(pictures, "pipe:1", format="image2pipe", vcodec="ppm")
    with run_ffmpeg(_beside(command, streams["a:0"]), limits) as run:
        while run.stdout.readline() == b"P6\n":
            width, rows = map(int, run.stdout.readline().split())
            run.stdout.readline()
            data = run.stdout.read(3 * width * rows)
            if len(data) < 3 * width * rows:
                break
            yield np.frombuffer(data, np.uint8).reshape(rows, width, 3)
    _check(run)


def write_video(
    frames: Iterable[Picture],
    frame_rate: float,
    sound: Path,
    seconds: float,
    out: Path,
    limits: Limits,
) -> None:
    """Write an MP4 that browsers play: H.264 and AAC, mono or stereo.

    Args:
        frames: (H, W, 3), RGB, all of one size; an odd size gets a copy of its last row or column.
        frame_rate: per second.
        sound: a WAV, or else a video of which it is the sound.
        seconds: where the sound of a video ends, by `probe`.
        out: the file.
        limits: of time, that of making the frames included, and memory.

    Raises:
        LeftOut: there are no frames, or the sound is damaged.
        UserError: it cannot be written.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise LeftOut("holds no pictures")
    height, width = (size + size % 2 for size in first.shape[:2])
    with writable(out) as partial, tempfile.TemporaryDirectory(prefix="sop-") as folder:
        # Standard input is no way in: `run_ffmpeg` closes it, so that no ffmpeg can ask a question.
        pipe = Path(folder) / "frames"
        os.mkfifo(pipe)
        pictures = (
            ffmpeg.input(
                file_url(pipe),
                format="rawvideo",
                pix_fmt="rgb24",
                video_size=(width, height),
                framerate=exact_rate(frame_rate),
                protocol_whitelist="file",
            )
            .video.filter("scale", out_color_matrix="bt709", out_range="tv")
            .filter("format", "yuv420p")
            .filter("setparams", colorspace="bt709", color_primaries="bt709", color_trc="bt709")
        )
        if sound.suffix.lower() == ".wav":
            command = _for_browsers(pictures, _wav(sound), partial, g=_group(frame_rate))
        else:
            streams = input_file(sound)
            heard = _in_step(streams["a:0"], seconds)
            command = _for_browsers(pictures, heard, partial, g=_group(frame_rate))
            command = _beside(command, streams["V:0"])
        with run_ffmpeg(command, limits) as run:
            _feed(pipe, run, chain([first], rest))
        _check(run)


def write_remix(video: Path, sound: Path, out: Path, limits: Limits) -> Path:
    """Write a video with the pictures of another, copied as they are, and a new sound.

    It keeps the container if that is MP4, MOV, MKV or WebM and holds both, else it becomes an MKV.
    Sound is AAC, in WebM Opus, of as many channels.

    Args:
        video: gives pictures, rotation, titles and chapters.
        sound: a WAV that begins when the video does, as that of `reading_sound` does.
        out: the file, without the ending.
        limits: of each run of ffmpeg.

    Returns:
        The file.

    Raises:
        LeftOut: the pictures can be copied into none.
        UserError: it cannot be written.
    """
    endings = _endings(video, probe_header(video, limits).containers)
    failure = None
    for ending in endings:
        place = out.with_name(out.name + ending)
        try:
            with writable(place) as partial:
                # An AVI tells when a picture is decoded, not when it is shown.
                streams = input_file(video, fflags="+genpts")
                command = ffmpeg.output(
                    streams["V:0"],
                    _wav(sound).filter("aformat", channel_layouts=LAYOUTS),
                    file_url(partial),
                    format=MUXERS[ending],
                    vcodec="copy",
                    acodec="libopus" if ending == ".webm" else "aac",
                    audio_bitrate=_bit_rate(sound),
                    movflags="+faststart",
                )
                run = run_to_end(_beside(command, streams["a:0"]), limits)
                if run.code:
                    raise LeftOut(error_message(run))
            return place
        except LeftOutForNow:
            raise
        except LeftOut as error:
            failure = error
    raise LeftOut(f"its pictures cannot be copied into a new file ({failure})")


def write_clip(video: Path, begin: float, seconds: float, out: Path, limits: Limits) -> None:
    """Write a stretch of a video as a small MP4 that browsers play.

    At most 480 lines and 30 pictures a second, upright, with square pixels; H.264 and AAC.

    Args:
        video: the file.
        begin: second at which the stretch begins.
        seconds: how long it is; the clip is shorter where the video ends before.
        out: the file.
        limits: of time and memory.

    Raises:
        LeftOut: it is damaged, or ends before the stretch begins.
        UserError: it cannot be written.
    """
    # A picture that stays for long, and what decoders of sound have to hear first.
    lead = min(begin, CLIP_LEAD_SECONDS)
    # From the beginning nothing is sought: not every container finds its own first picture again.
    seek = {"ss": begin - lead} if begin > lead else {}
    streams = input_file(video, **seek, **{"reinit_filter:v": 0})
    # A rate that is unknown or low, as of pictures that change now and then, is too coarse a grid.
    rate = f"if(gte(source_fps,{CLIP_RATE / 2}),min(source_fps,{CLIP_RATE}),{CLIP_RATE})"
    lines = f"min(ih,{CLIP_LINES})"
    pictures = (
        streams["V:0"]
        .filter("setpts", f"PTS-{lead}/TB")
        .filter("fps", fps=rate, start_time=0, round="near")
        .filter("trim", end=seconds)
        .filter(
            "scale",
            w=f"max(2,2*round(iw*sar*{lines}/ih/2))",
            h=f"max(2,2*round({lines}/2))",
            out_range="tv",
            flags="bicubic",
        )
        .filter("setsar", 1)
        .filter("format", "yuv420p")
    )
    heard = (
        _in_step(streams["a:0"], lead + seconds)
        .filter("atrim", start=lead, end=lead + seconds)
        .filter("asetpts", "PTS-STARTPTS")
    )
    with writable(out) as partial:
        run = run_to_end(_for_browsers(pictures, heard, partial, crf=26, preset="medium"), limits)
        _check(run)
        if any("Output file is empty" in text for _, text in run.messages):
            raise LeftOut(f"ends before second {begin:g}")


def write_beside(videos: Sequence[Path], sound: Path, side: int, out: Path, limits: Limits) -> None:
    """Write the middle squares of videos beside each other, with one sound, for browsers.

    Args:
        videos: any files that ffmpeg reads, equally long.
        sound: a WAV.
        side: of each square, pixels; even.
        out: an MP4.
        limits: of ffmpeg.

    Raises:
        LeftOut: one of them cannot be read.
    """
    squares = [
        input_file(video)["V:0"]
        .filter("fps", fps=CLIP_RATE, start_time=0, round="near")
        .filter("crop", "min(iw,ih)", "min(iw,ih)")
        .filter("scale", side, side, out_range="tv", flags="bicubic")
        .filter("setsar", 1)
        for video in videos
    ]
    together = ffmpeg.filter(squares, "hstack", inputs=len(squares)) if squares[1:] else squares[0]
    with writable(out) as partial:
        pictures = together.filter("format", "yuv420p")
        _check(run_to_end(_for_browsers(pictures, _wav(sound), partial), limits))


def _in_step(stream: Any, seconds: float) -> Any:
    """Sound at its own rate on the video's timeline: as `decode` does it, and a little longer."""
    return (
        stream.filter("aresample", first_pts=0, min_hard_comp=STEP_SECONDS, **{"async": 1})
        .filter("apad", pad_dur=TAIL_SECONDS)
        .filter("atrim", end=seconds + SPARE_SECONDS)
    )


def _beside(command: Any, stream: Any) -> Any:
    """Read another stream of the file as well, to no purpose.

    A transport stream begins with the first stream that is read: one that is late would be early.
    """
    unused = ffmpeg.output(stream, "-", format="null", c="copy")
    return ffmpeg.merge_outputs(command, unused)


def _wav(sound: Path) -> Any:
    return ffmpeg.input(file_url(sound), format="wav", protocol_whitelist="file").audio


def _for_browsers(pictures: Any, sound: Any, out: Path, **options: Any) -> Any:
    return ffmpeg.output(
        pictures,
        sound.filter("aformat", channel_layouts="mono|stereo"),
        file_url(out),
        format="mp4",
        vcodec="libx264",
        acodec="aac",
        audio_bitrate=2 * BIT_RATE,
        movflags="+faststart",
        map_metadata=-1,
        map_chapters=-1,
        bitexact=None,
        threads=1,
        **({"preset": "veryfast", "crf": 23} | options),
    )


def _group(frame_rate: float) -> int:
    """Pictures from one that can be jumped to to the next: two seconds."""
    return max(1, round(2 * frame_rate))


def _bit_rate(sound: Path) -> int:
    return min(MOST_BIT_RATE, BIT_RATE * int(soundfile.info(sound).channels))


def _endings(video: Path, containers: tuple[str, ...]) -> list[str]:
    """What a remix may be called, the best first."""
    ending = video.suffix.lower()
    kept = {
        "mov": ending if ending in (".mp4", ".m4v", ".mov") else ".mp4",
        "matroska": ending if ending == ".webm" else ".mkv",
    }
    return list(dict.fromkeys([kept.get(containers[0], ".mkv"), ".mkv"]))


def _blocks(pipe: IO[bytes], header: WavHeader, count: int) -> Iterator[Values]:
    """Blocks of a stream of floats, `count` samples of each channel in all."""
    size = 4 * header.channels
    left = count
    while data := pipe.read(BLOCK_SAMPLES * size):
        samples = np.frombuffer(data[: len(data) // size * size], "<f4")
        block = samples.reshape(-1, header.channels)[:left].astype(np.float32)
        left -= len(block)
        if len(block):
            yield np.nan_to_num(block, posinf=0, neginf=0).clip(-LOUDEST, LOUDEST)
    if left:
        decoded, whole = ((n / header.sample_rate) for n in (count - left, count))
        raise LeftOut(f"damaged: sound of only {decoded:.1f} of {whole:.1f} s could be decoded")


def _feed(pipe: Path, run: FfmpegRun, frames: Iterable[Picture]) -> None:
    """Write frames into a pipe until they or the reader, an ffmpeg, end."""
    descriptor = _open(pipe, run)
    if descriptor is None:
        return
    shape = None
    try:
        for frame in frames:
            shape = shape or frame.shape
            if frame.dtype != np.uint8 or frame.shape != shape or frame.shape[2:] != (3,):
                raise ValueError(f"a frame of shape {frame.shape}, {frame.dtype}; expected {shape}")
            height, width, _ = shape
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            left = memoryview(even.tobytes())
            while left:
                try:
                    left = left[os.write(descriptor, left) :]
                except BrokenPipeError:
                    return
    finally:
        os.close(descriptor)


def _open(pipe: Path, run: FfmpegRun) -> int | None:
    """Open a named pipe once its reader has; None if the reader ends without."""
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # Ends when ffmpeg does; nothing is ever written there.
            if select.select([run.stdout], [], [], OPEN_SECONDS)[0]:
                return None
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _check(run: FfmpegRun) -> None:
    if run.code:
        run.messages.sort()
        raise LeftOut(f"damaged: {error_message(run)}")
