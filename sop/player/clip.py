"""Short videos for browsers: stretches of a video, and videos side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ffmpeg

from sop.media.decoding import MAX_ASPECT, STEP_SECONDS, TAIL_SECONDS, Probe, probe, sound_stream
from sop.media.ffmpeg import (
    Limits,
    check_run,
    exact_rate,
    file_url,
    free_memory_limits,
    input_file,
    run_to_end,
)
from sop.runtime.errors import LeftOut
from sop.runtime.files import replacing

# Maximum run time of ffmpeg, per second of the video and for any video; slower runs have stalled.
SECONDS_PER_SECOND = 10.0
MIN_LIMIT_SECONDS = 3600.0

# Decoding starts this long before a clip: a picture that is on display for long has started
# earlier, and audio decoders need some input before their output is right.
CLIP_LEAD_SECONDS = 5.0
CLIP_LINES = 480
CLIP_RATE = 30

AUDIO_BIT_RATE = 192_000

# Silence appended to the sound before it is cut. The number of samples in a length depends on the
# sample rate, which only ffmpeg knows at this point.
SPARE_SECONDS = 0.001


def limits_of(seconds: float) -> Limits:
    """Return the limits of a run of ffmpeg, including its reader, over a video of any length."""
    return free_memory_limits(max(MIN_LIMIT_SECONDS, SECONDS_PER_SECOND * seconds))


def write_clip(
    video: Path, begin: float, seconds: float, out: Path, limits: Limits, found: Probe | None = None
) -> None:
    """Write a stretch of a video as a small MP4 that browsers play.

    The result has at most 480 lines of 1920 pixels and 30 pictures per second, upright, with square
    pixels, as H.264 and AAC.

    Args:
        video: any file that ffmpeg reads.
        begin: start of the stretch, seconds from the start of the video.
        seconds: length; the clip is shorter if the video ends earlier.
        out: path of the MP4.
        limits: maximum time and memory.
        found: result of `probe`; None to probe the video.

    Raises:
        LeftOut: the video is damaged, or ends before the stretch begins.
        UserError: the file cannot be written.
    """
    found = found or probe(video, limits)
    # A low or unknown rate, as of pictures that change rarely, is too coarse for an exact cut.
    rate = f"if(gte(source_fps,{CLIP_RATE / 2}),min(source_fps,{CLIP_RATE}),{CLIP_RATE})"
    pictures, sound = stretch(video, found, begin, seconds, rate, CLIP_LINES, out_range="tv")
    with replacing(out) as partial:
        command = browser_output(pictures, sound, partial, crf=26, preset="medium")
        run = run_to_end(command, limits)
        check_run(run)
        if any("Output file is empty" in text for _, text in run.messages):
            raise LeftOut(f"ends before second {begin:g}")


def stretch(
    video: Path,
    found: Probe,
    begin: float,
    seconds: float,
    rate: str,
    max_lines: int,
    **scaling: str,
) -> tuple[Any, Any]:
    """Return the streams of pictures and sound of a stretch of a video, cut exactly.

    Args:
        video: any file that ffmpeg reads.
        found: result of `probe`.
        begin: start of the stretch, seconds.
        seconds: its length.
        rate: pictures per second, an expression of the filter `fps`.
        max_lines: maximum height, pixels; pixels become square.
        **scaling: further options of the filter `scale`.
    """
    lead = min(begin, CLIP_LEAD_SECONDS)
    # No seek to the very beginning: it misses the first picture in some containers.
    seek = {"ss": begin - lead} if begin > lead else {}
    streams = input_file(video, **seek, **{"reinit_filter:v": 0})
    lines = shown_height(max_lines)
    pictures = (
        streams["V:0"]
        .filter("setpts", f"PTS-{lead}/TB")
        .filter("fps", fps=rate, start_time=0, round="near")
        .filter("trim", end=seconds)
        .filter(
            "scale",
            w=f"max(2,2*round(iw*sar*{lines}/ih/2))",
            h=f"max(2,2*round({lines}/2))",
            **scaling,
            flags="bicubic",
        )
        .filter("setsar", 1)
        .filter("format", "yuv420p")
    )
    sound = (
        synchronised(sound_stream(streams, found), lead + seconds)
        .filter("atrim", start=lead, end=lead + seconds)
        .filter("asetpts", "PTS-STARTPTS")
    )
    return pictures, sound


def write_side_by_side(
    videos: Sequence[Path], sound: Path, side: int, out: Path, limits: Limits
) -> None:
    """Write the central squares of videos side by side, with one sound, for browsers.

    Args:
        videos: files of equal length that ffmpeg reads.
        sound: a WAV.
        side: width and height of each square, pixels; even.
        out: path of the MP4.
        limits: maximum time and memory.

    Raises:
        LeftOut: a video cannot be read.
        UserError: the file cannot be written.
    """
    squares = [
        input_file(video)["V:0"]
        .filter("fps", fps=CLIP_RATE, start_time=0, round="near")
        .filter("crop", "min(iw,ih)", "min(iw,ih)")
        .filter("scale", side, side, out_range="tv", flags="bicubic")
        .filter("setsar", 1)
        for video in videos
    ]
    row = ffmpeg.filter(squares, "hstack", inputs=len(squares)) if squares[1:] else squares[0]
    pictures = row.filter("format", "yuv420p")
    with replacing(out) as partial:
        check_run(run_to_end(browser_output(pictures, wav_input(sound), partial), limits))


def browser_output(pictures: Any, sound: Any, out: Path, **options: Any) -> Any:
    """Return an output of ffmpeg-python that browsers play: H.264 and AAC, mono or stereo.

    Args:
        pictures: stream of pictures, yuv420p.
        sound: stream of sound.
        out: path of the MP4.
        options: further options of the output.
    """
    return ffmpeg.output(
        pictures,
        sound.filter("aformat", channel_layouts="mono|stereo"),
        file_url(out),
        format="mp4",
        vcodec="libx264",
        acodec="aac",
        audio_bitrate=AUDIO_BIT_RATE,
        movflags="+faststart",
        map_metadata=-1,
        map_chapters=-1,
        bitexact=None,
        threads=1,
        **({"preset": "veryfast", "crf": 23} | options),
    )


def shown_height(lines: int) -> str:
    """Return ffmpeg's expression for the height of a picture on display.

    Args:
        lines: maximum height, pixels; the maximum width is `MAX_ASPECT` times that.
    """
    return f"min(min(ih,{lines}),{MAX_ASPECT * lines}*ih/(iw*sar))"


def synchronised(sound: Any, seconds: float) -> Any:
    """Place a stream of sound on the timeline of `decode`, at its own rate, slightly longer."""
    return (
        sound.filter("aresample", first_pts=0, min_hard_comp=STEP_SECONDS, **{"async": 1})
        .filter("apad", pad_dur=TAIL_SECONDS)
        .filter("atrim", end=seconds + SPARE_SECONDS)
    )


def pictures_input(width: int, height: int, frame_rate: float) -> Any:
    """Return pictures as an input of ffmpeg-python that reads their bytes, RGB, from a pipe."""
    return ffmpeg.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt="rgb24",
        video_size=(width, height),
        framerate=exact_rate(frame_rate),
        protocol_whitelist="pipe",
    ).video


def wav_input(sound: Path) -> Any:
    """Return a WAV as an input of ffmpeg-python."""
    return ffmpeg.input(file_url(sound), format="wav", protocol_whitelist="file").audio
