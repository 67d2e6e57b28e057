"""Read and write the sound and pictures of videos, on the timeline of `sop.media.decoding.decode`.

Second 0 is the start of the first stream of the video. Shapes: H x W pixels, S consecutive samples.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.cancellation.wav import read_header
from sop.dataset.clips import Audio
from sop.media.decoding import MAX_AMPLITUDE, PictureOutput, Probe, sound_stream
from sop.media.ffmpeg import (
    Limits,
    check_run,
    error_message,
    exact_rate,
    file_url,
    input_file,
    probe_header,
    run_ffmpeg,
    run_to_end,
)
from sop.player.clip import browser_output, pictures_input, shown_height, synchronised, wav_input
from sop.runtime.errors import LeftOut, LeftOutForNow
from sop.runtime.files import replacing

Picture = NDArray[np.uint8]

# A malicious header can contain any number; music stays well below these.
MAX_CHANNELS = 32
MAX_SAMPLE_RATE = 768_000

BLOCK_SAMPLES = 1 << 15

# Bit rate of a remix, per channel and in all.
CHANNEL_BIT_RATE = 96_000
MAX_BIT_RATE = 512_000

# Speaker layouts that both encoders accept; others are converted, such as 5.1(side) to 5.1.
LAYOUTS = "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"

# Suffixes of a remix by the container of the video, the default first.
SUFFIXES = {"nut": (".mp4",), "mov": (".mp4", ".m4v", ".mov"), "matroska": (".mkv", ".webm")}

# Containers of a remix. Each can hold its sound and any picture stream, or those of its own kind.
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class SoundStream:
    """The sound of a video while it is decoded."""

    sample_rate: int
    """Sample rate, Hz."""
    channels: int
    """Number of channels."""
    channel_mask: int
    """Speakers of the channels, as in WAVEFORMATEXTENSIBLE; 0 if unknown."""
    samples: int
    """Number of samples of each channel in all blocks."""
    blocks: Iterator[Audio]
    """Consecutive blocks, (S, channels), full scale 1. Can be read once, inside the block of
    `open_sound`. Raises `LeftOut` where the sound is damaged."""


@contextmanager
def open_sound(video: Path, found: Probe, limits: Limits) -> Iterator[SoundStream]:
    """Decode the sound of a video with its sample rate and channels.

    It is synchronised with the output of `decode`: same start and end, gaps filled with silence.

    Args:
        video: any file that ffmpeg reads.
        found: result of `probe`.
        limits: maximum time, including that of the reader, and memory; see `limits_of`.

    Raises:
        LeftOut: the sound is damaged, or its format is not supported.
    """
    streams = input_file(video)
    sound_ = sound_stream(streams, found)
    samples = synchronised(sound_, found.seconds).filter("aformat", sample_fmts="flt")
    sound = ffmpeg.output(samples, "pipe:1", format="wav", acodec="pcm_f32le", bitexact=None)
    ended = True
    with run_ffmpeg(_with_unused(sound, streams["V:0"]), limits) as run:
        if (format_ := read_header(run.stdout)) is not None:
            sample_rate, channels, channel_mask = format_
            if channels > MAX_CHANNELS or sample_rate > MAX_SAMPLE_RATE:
                raise LeftOut(
                    f"the sound has {channels} channels at {sample_rate} Hz; the maximum is "
                    f"{MAX_CHANNELS} channels at {MAX_SAMPLE_RATE} Hz"
                )
            count = round(found.seconds * sample_rate)
            blocks = _sound_blocks(run.stdout, channels, sample_rate, count)
            yield SoundStream(sample_rate, channels, channel_mask, count, blocks)
            # A reader that stops early makes ffmpeg fail, although the file is not damaged.
            ended = not run.stdout.read(1)
    if format_ is None or (ended and run.code):
        run.messages.sort()
        raise LeftOut(f"damaged: {error_message(run)}")
    if any(text.startswith("Reconfiguring filter graph") for _, text in run.messages):
        raise LeftOut("the sound changes its sample rate or channels; transcode the video")


def read_pictures(
    video: Path, found: Probe, frame_rate: float, max_lines: int | None, limits: Limits
) -> Iterator[Picture]:
    """Decode pictures, upright and with square pixels.

    Args:
        video: any file that ffmpeg reads.
        found: result of `probe`.
        frame_rate: pictures per second; picture n, from 0, is on display at second
            (n + 0.5) / frame_rate.
        max_lines: maximum height, pixels; the maximum width is `MAX_ASPECT` times that. None keeps
            the size of the video.
        limits: maximum time, including that of the reader, and memory.

    Yields:
        (H, W, 3), RGB, all of one size.

    Raises:
        LeftOut: the video is damaged.
    """
    height = "ih" if max_lines is None else shown_height(max_lines)
    across = f"iw*sar*{height}/ih"
    # When the picture size changes, the filters must not restart their timeline at 0.
    streams = input_file(video, **{"reinit_filter:v": 0})
    pictures = (
        streams["V:0"]
        .filter("fps", fps=exact_rate(frame_rate), start_time=0, round="near")
        .filter("trim", end_frame=PictureOutput(frame_rate, 0, 0).count(found.seconds) or 1)
        .filter("scale", w=f"max(1,round({across}))", h=f"max(1,round({height}))", flags="bicubic")
        .filter("format", "rgb24")
    )
    command = ffmpeg.output(pictures, "pipe:1", format="image2pipe", vcodec="ppm")
    with run_ffmpeg(_with_unused(command, streams[found.sound]), limits) as run:
        while run.stdout.readline() == b"P6\n":
            width, rows = map(int, run.stdout.readline().split())
            run.stdout.readline()
            data = run.stdout.read(3 * width * rows)
            if len(data) < 3 * width * rows:
                break
            yield np.frombuffer(data, np.uint8).reshape(rows, width, 3)
    check_run(run)


def write_video(
    pictures: Iterable[Picture],
    frame_rate: float,
    video: Path,
    found: Probe,
    out: Path,
    limits: Limits,
) -> None:
    """Write new pictures with the sound of a video as an MP4 that browsers play.

    Args:
        pictures: (H, W, 3), RGB, all of one size; the last row or column of an odd size is
            repeated.
        frame_rate: pictures per second.
        video: source of the sound.
        found: result of `probe`.
        out: path of the MP4.
        limits: maximum time, including that of making the pictures, and memory.

    Raises:
        LeftOut: there are no pictures, or the sound is damaged.
        UserError: the file cannot be written.
    """
    rest = iter(pictures)
    first = next(rest, None)
    if first is None:
        raise LeftOut("contains no pictures")
    height, width = (size + size % 2 for size in first.shape[:2])
    raw = pictures_input(width, height, frame_rate)
    encoded = (
        raw.filter("scale", out_color_matrix="bt709", out_range="tv")
        .filter("format", "yuv420p")
        .filter("setparams", colorspace="bt709", color_primaries="bt709", color_trc="bt709")
    )
    streams = input_file(video)
    sound = synchronised(sound_stream(streams, found), found.seconds)
    with replacing(out) as partial:
        # A keyframe every two seconds, so that browsers can seek.
        command = browser_output(encoded, sound, partial, g=max(1, round(2 * frame_rate)))
        raw_pictures = _raw_pictures(chain([first], rest), first.shape)
        check_run(run_to_end(_with_unused(command, streams["V:0"]), limits, raw_pictures))


def write_remix(video: Path, found: Probe, sound: Path, out: Path, limits: Limits) -> Path:
    """Write a copy of a video with a new sound.

    The pictures are copied without encoding. The container is that of the video if it is MP4, MOV,
    MKV or WebM and holds both streams, otherwise MKV. The sound is AAC, or Opus in WebM.

    Args:
        video: source of pictures, rotation, titles and chapters.
        found: result of `probe`.
        sound: a WAV that begins when the video does, as that of `open_sound` does.
        out: path of the result without its suffix.
        limits: maximum time and memory of each run of ffmpeg.

    Returns:
        Path of the result.

    Raises:
        LeftOut: no container can hold the pictures.
        UserError: the file cannot be written.
    """
    failure = None
    header = probe_header(video, limits)
    suffixes = SUFFIXES.get(header.containers[0], (".mkv",))
    # Of pictures from memory, which are stored without loss; few programs play those.
    lossless = header.pictures.startswith("ffv1")
    preferred = own if (own := video.suffix.lower()) in suffixes else suffixes[0]
    bit_rate = min(MAX_BIT_RATE, CHANNEL_BIT_RATE * int(soundfile.info(sound).channels))
    for suffix in dict.fromkeys([preferred, ".mkv"]):
        path = out.with_name(out.name + suffix)
        try:
            with replacing(path) as partial:
                # An AVI stores when pictures are decoded, not when they are shown.
                streams = input_file(video, fflags="+genpts")
                command = ffmpeg.output(
                    streams["V:0"].filter("format", "yuv420p") if lossless else streams["V:0"],
                    wav_input(sound).filter("aformat", channel_layouts=LAYOUTS),
                    file_url(partial),
                    format=MUXERS[suffix],
                    vcodec="libx264" if lossless else "copy",
                    acodec="libopus" if suffix == ".webm" else "aac",
                    audio_bitrate=bit_rate,
                    movflags="+faststart",
                )
                run = run_to_end(_with_unused(command, streams[found.sound]), limits)
                if run.code:
                    raise LeftOut(error_message(run))
            return path
        except LeftOutForNow:
            raise
        except LeftOut as error:
            failure = error
    raise LeftOut(f"the pictures cannot be copied into a new file ({failure})")


def _with_unused(command: Any, stream: Any) -> Any:
    """Also map an unused stream so that timestamps stay aligned.

    A transport stream starts with the first stream that is read: the delay of a late stream that
    is read alone would be lost.
    """
    unused = ffmpeg.output(stream, "-", format="null", c="copy")
    return ffmpeg.merge_outputs(command, unused)


def _sound_blocks(pipe: IO[bytes], channels: int, sample_rate: int, count: int) -> Iterator[Audio]:
    """Yield blocks of a stream of floats, `count` samples of each channel in all."""
    size = 4 * channels
    left = count
    while data := pipe.read(BLOCK_SAMPLES * size):
        samples = np.frombuffer(data[: len(data) // size * size], "<f4")
        block = samples.reshape(-1, channels)[:left].astype(np.float32)
        left -= len(block)
        if len(block):
            yield np.nan_to_num(block, posinf=0, neginf=0).clip(-MAX_AMPLITUDE, MAX_AMPLITUDE)
    if left:
        decoded, whole = (n / sample_rate for n in (count - left, count))
        raise LeftOut(f"damaged: only {decoded:.1f} of {whole:.1f} s of sound could be decoded")


def _raw_pictures(pictures: Iterable[Picture], shape: tuple[int, ...]) -> Iterator[bytes]:
    """Yield the bytes of pictures, padded to an even size."""
    height, width, _ = shape
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.shape != shape or shape[2] != 3:
            raise ValueError(f"shape {picture.shape}, {picture.dtype}; expected {shape}, uint8")
        yield np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").tobytes()
