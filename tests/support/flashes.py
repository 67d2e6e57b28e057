"""Test videos with flashes and bursts of sound that begin at the same time."""

import wave
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from sop.params import ExtractParams

PARAMS = ExtractParams(
    frame_rate=8.0,
    frame_height=48,
    jpeg_quality=3,
    sample_rate=11025,
    motion_rate=None,
    motion_height=24,
    timeout_seconds=60.0,
    memory_limit_mib=512,
)
IN_STEP = 0.5 / PARAMS.frame_rate

SECONDS = 4.2
# Chosen so that, at all rates here, edges come in all phases of a frame of 1/8 s.
FLASHES = (0.93, 1.62, 2.31, 2.91, 3.52)
FLASH_SECONDS = 0.28
BURST_SECONDS = 0.1
LATE = 0.8
OTHER_TRACK = 0.4
SOUND_RATE = 48000

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
# All that ultrafast leaves out: pictures that are coded in another order than shown.
B_FRAMES = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "3", "-b_strategy", "0")
HEVC_10 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
HDR = (
    *("-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020", "-color_trc", "smpte2084"),
    *("-colorspace", "bt2020nc", "-color_range", "tv"),
)
# The time at which a file starts.
AT_2 = ("-output_ts_offset", "2")
BEFORE_0 = ("-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.5")
IRREGULAR = "lt(mod(n*n,13),5)+not(mod(n,9))"
# Packets of a silent and dark part, from about 1.9 to 2.2 s.
SOUND_GAP = "noise=drop=between(n\\,90\\,103)"
PICTURE_GAP = "noise=drop=between(n\\,49\\,56)"


@dataclass(frozen=True)
class Form:
    """What a video of flashes is stored as."""

    ending: str = "mp4"
    rate: str = "25"
    codecs: tuple[str, ...] = (*H264, "-c:a", "aac")
    late_sound: float = 0.0
    """Seconds until its track begins."""
    late_pictures: float = 0.0
    sound_seconds: float = SECONDS
    pictures_seconds: float = SECONDS
    delay: float = 0.0
    """Seconds by which the sound is out of step."""
    second_track: bool = False
    """Whether there is another sound, of other bursts."""
    copied: tuple[str, ...] = ()
    """Options of the input of a second run, which copies the streams."""
    begin: float | None = 0.0
    """Second of the pictures and sounds here at which the video begins; None for any."""


FORMS = {
    "plain": Form(),
    "rotated by 90": Form(copied=("-display_rotation", "90")),
    "rotated by 180": Form(copied=("-display_rotation", "180")),
    "odd size": Form(codecs=("-vf", "crop=161:121", *H264, "-pix_fmt", "yuv444p")),
    "odd size, MJPEG in MOV": Form(
        "mov",
        codecs=("-vf", "crop=161:121", "-c:v", "mjpeg", "-pix_fmt", "yuvj444p", "-c:a", "aac"),
    ),
    "variable rate": Form(rate="60", codecs=("-vf", "EDGES", "-fps_mode", "vfr", *H264)),
    "variable rate, MKV": Form("mkv", "60", ("-vf", "EDGES", "-fps_mode", "vfr", *B_FRAMES)),
    "pictures only where something changes": Form(
        codecs=("-vf", "mpdecimate=max=20", "-fps_mode", "passthrough", *B_FRAMES)
    ),
    "10 bits, H.264": Form(codecs=(*H264, "-pix_fmt", "yuv420p10le")),
    "10 bits, HEVC": Form(codecs=(*HEVC_10, "-pix_fmt", "yuv420p10le")),
    "HDR, HEVC": Form(codecs=(*HEVC_10, *HDR, "-tag:v", "hvc1")),
    "HDR, VP9": Form("webm", codecs=(*VP9, *HDR, "-c:a", "libopus")),
    "interlaced, upper field first": Form(
        codecs=(
            *("-vf", "fps=50,tinterlace=interleave_top,setfield=tff"),
            *(*H264, "-flags", "+ildct+ilme", "-field_order", "tt"),
        )
    ),
    "interlaced, lower field first, MPEG-2": Form(
        "ts",
        codecs=(
            *("-vf", "fps=50,tinterlace=interleave_bottom,setfield=bff"),
            *("-c:v", "mpeg2video", "-pix_fmt", "yuv420p", "-bf", "2", "-c:a", "mp2"),
            *("-flags", "+ildct+ilme", "-field_order", "bb"),
        ),
    ),
    "two sounds": Form(second_track=True),
    "two sounds, MKV": Form("mkv", second_track=True),
    "5.1, from behind": Form(codecs=(*H264, "-af", "pan=5.1|FL=0*c0|BL=c0", "-c:a", "aac")),
    "5.1, AC-3": Form("mkv", codecs=(*H264, "-ac", "6", "-c:a", "ac3")),
    "stereo": Form(codecs=(*H264, "-ac", "2")),
    "mono": Form(codecs=(*H264, "-ac", "1")),
    "8 kHz, AAC": Form(codecs=(*H264, "-c:a", "aac", "-ar", "8000")),
    "8 kHz, PCM": Form("mov", codecs=(*H264, "-c:a", "pcm_s16le", "-ar", "8000")),
    "96 kHz, AAC": Form(codecs=(*H264, "-c:a", "aac", "-ar", "96000")),
    "96 kHz, PCM": Form("mov", codecs=(*H264, "-c:a", "pcm_s24le", "-ar", "96000")),
    "96 kHz, FLAC": Form("mkv", codecs=(*H264, "-c:a", "flac", "-ar", "96000")),
    "sound begins late": Form(late_sound=LATE),
    "sound begins late, MKV": Form("mkv", late_sound=LATE),
    "sound begins late, PCM in MOV": Form(
        "mov", late_sound=LATE, codecs=(*H264, "-c:a", "pcm_s16le")
    ),
    "sound begins late, PCM in MKV": Form(
        "mkv", late_sound=LATE, codecs=(*H264, "-c:a", "pcm_s16le")
    ),
    "sound begins late, TS": Form("ts", late_sound=LATE),
    "sound begins late, FLV": Form("flv", late_sound=LATE, codecs=(*H264, "-c:a", "aac")),
    "sound begins late, fragmented": Form(
        late_sound=LATE, codecs=(*H264, "-movflags", "+frag_keyframe+empty_moov+default_base_moof")
    ),
    "sound with a gap": Form(codecs=(*H264, "-c:a", "aac", "-bsf:a", SOUND_GAP)),
    "sound with a gap, TS": Form("ts", codecs=(*H264, "-c:a", "aac", "-bsf:a", SOUND_GAP)),
    "pictures with a gap": Form(codecs=(*H264, "-g", "1", "-bsf:v", PICTURE_GAP)),
    "pictures with a gap, MKV": Form("mkv", codecs=(*H264, "-g", "1", "-bsf:v", PICTURE_GAP)),
    "sound ends early": Form(sound_seconds=2.75),
    "pictures begin late": Form(late_pictures=LATE),
    "pictures begin late, MKV": Form("mkv", late_pictures=LATE),
    "pictures begin late, TS": Form("ts", late_pictures=LATE, codecs=(*B_FRAMES, "-c:a", "aac")),
    "pictures end early": Form(pictures_seconds=2.76),
    "B-frames": Form(codecs=B_FRAMES),
    # Both tracks begin two pictures late.
    "B-frames without edit list": Form(codecs=(*B_FRAMES, "-use_editlist", "0"), begin=-0.08),
    "B-frames, fragmented": Form(
        codecs=(*B_FRAMES, "-movflags", "+frag_keyframe+empty_moov+default_base_moof"), begin=-0.08
    ),
    # What yt-dlp makes of a part of a video: an edit list leads into the middle of pictures.
    "cut without decoding": Form(codecs=B_FRAMES, copied=("-ss", "0.6"), begin=0.6),
    "cut without decoding, MKV": Form(
        "mkv", codecs=(*B_FRAMES, "-g", "5"), copied=("-ss", "0.6"), begin=None
    ),
    "MKV": Form("mkv", codecs=(*B_FRAMES, "-c:a", "libvorbis")),
    "WebM, VP8": Form("webm", codecs=("-c:v", "libvpx", "-c:a", "libvorbis")),
    "WebM, VP9": Form("webm", codecs=(*VP9, "-c:a", "libopus")),
    "AVI, MPEG-4": Form("avi", codecs=("-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame")),
    "AVI, H.264": Form("avi", codecs=(*H264, "-c:a", "pcm_s16le")),
    "TS": Form("ts", codecs=(*B_FRAMES, "-c:a", "aac")),
    "TS whose clock starts again at 0": Form(
        "ts", codecs=(*B_FRAMES, "-c:a", "aac", "-output_ts_offset", "95440.5")
    ),
    "starts at 2 s": Form(codecs=(*B_FRAMES, "-c:a", "aac", *AT_2)),
    "starts at 2 s, MKV": Form("mkv", codecs=(*B_FRAMES, "-c:a", "aac", *AT_2)),
    "starts at 2 s, WebM": Form("webm", codecs=(*VP9, "-c:a", "libopus", *AT_2)),
    "starts at 2 s, TS": Form("ts", codecs=(*B_FRAMES, "-c:a", "aac", *AT_2)),
    "starts at 2 s, WMV": Form("wmv", codecs=("-c:v", "wmv2", "-c:a", "wmav2", *AT_2)),
    # Of an MP4 the part before 0 is not shown.
    "starts at -0.5 s": Form(codecs=(*B_FRAMES, "-c:a", "aac", *BEFORE_0), begin=0.5),
    "starts at -0.5 s, MKV": Form("mkv", codecs=(*B_FRAMES, "-c:a", "aac", *BEFORE_0)),
    "starts at -0.5 s, WebM": Form("webm", codecs=(*VP9, "-c:a", "libopus", *BEFORE_0)),
    "starts at -0.5 s, WMV": Form("wmv", codecs=("-c:v", "wmv2", "-c:a", "wmav2", *BEFORE_0)),
    "MPEG": Form("mpg", codecs=("-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2")),
    "FLV, H.264": Form("flv", codecs=(*B_FRAMES, "-c:a", "aac")),
    "FLV, Sorenson": Form("flv", codecs=("-c:v", "flv1", "-c:a", "libmp3lame", "-ar", "44100")),
    "OGG": Form("ogg", codecs=("-c:v", "libtheora", "-c:a", "libvorbis")),
    "WMV": Form("wmv", codecs=("-c:v", "wmv2", "-c:a", "wmav2")),
    "MOV": Form("mov", codecs=("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le")),
    "pixels twice as wide as high": Form(codecs=("-vf", "setsar=2", *H264)),
    "15 fps": Form(rate="15"),
    "29.97 fps": Form(rate="30000/1001"),
    "60 fps": Form(rate="60"),
}


def edges(rate: str) -> list[tuple[float, float]]:
    """The seconds at which flashes begin and end: where a picture does."""
    frames = Fraction(rate)
    return [
        (float(round(t * frames) / frames), float(round((t + FLASH_SECONDS) * frames) / frames))
        for t in FLASHES
    ]


def render(path: Path, form: Form, ffmpeg_run: Callable) -> Path:
    """Write a video whose every flash begins with a burst of sound."""
    frames = float(Fraction(form.rate))
    middles = (np.arange(round(form.pictures_seconds * frames)) + 0.5) / frames
    white = np.any([(begin < middles) & (middles < end) for begin, end in edges(form.rate)], axis=0)
    white = white[round(form.late_pictures * frames) :]
    pictures = np.where(white, 235, 16).astype(np.uint8).repeat(176 * 128)
    # The picture at which a track begins late begins where a picture of the other would.
    late_pictures = round(form.late_pictures * frames) / frames
    sounds: list[Any] = []
    for number, shift in enumerate((form.delay, OTHER_TRACK)[: 1 + form.second_track]):
        sound = path.with_name(f"{number}.wav")
        # Of a WAV, unlike of raw samples, ffmpeg heeds the offset.
        soundfile.write(sound, bursts(form, shift), SOUND_RATE)
        sounds += ["-itsoffset", form.late_sound, "-i", sound]
    first = path.with_name(f"first.{form.ending}") if form.copied else path
    kept = "+".join(f"eq(n,{round(e * frames)})" for pair in edges(form.rate) for e in pair)
    codecs = [c.replace("EDGES", f"select='{IRREGULAR}+{kept}'") for c in form.codecs]
    ffmpeg_run(
        *("-itsoffset", late_pictures, "-f", "rawvideo", "-pix_fmt", "gray"),
        *("-s", "176x128", "-framerate", form.rate, "-i", "pipe:0", *sounds, "-map", "0:v"),
        *(o for n in range(1 + form.second_track) for o in ("-map", f"{n + 1}:a")),
        *(*codecs, first),
        stdin=pictures.tobytes(),
    )
    if form.copied:
        ffmpeg_run(*form.copied, "-i", first, "-c", "copy", path)
    return path


def bursts(form: Form, shift: float) -> NDArray[np.int16]:
    """A tone with each flash, so much later."""
    seconds = np.arange(round(form.sound_seconds * SOUND_RATE)) / SOUND_RATE
    on = np.any(
        [
            (t + shift <= seconds) & (seconds < t + shift + BURST_SECONDS)
            for t, _ in edges(form.rate)
        ],
        axis=0,
    )
    sound = np.where(on, 20000 * np.sin(2 * np.pi * 1000 * seconds), 0).astype("<i2")
    return sound[round(form.late_sound * SOUND_RATE) :]


def onsets_of(sound: Path) -> list[float]:
    """The seconds at which sound begins after a silence."""
    with wave.open(str(sound)) as file:
        samples = np.abs(np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float))
    (loud,) = (samples > 0.25 * samples.max()).nonzero()
    silent_before = np.diff(loud, prepend=-PARAMS.sample_rate) > BURST_SECONDS * PARAMS.sample_rate
    return list(loud[silent_before] / PARAMS.sample_rate)


def brightness_of(frames: Path) -> NDArray[np.bool_]:
    """Whether each picture shows a flash."""
    with zipfile.ZipFile(frames) as archive:
        levels = []
        for name in archive.namelist():
            with archive.open(name) as file:
                levels.append(np.asarray(Image.open(file).convert("L")).mean())
    assert all(level < 60 or level > 195 for level in levels)
    return np.array(levels) > 128


def offsets_of(bright: NDArray[np.bool_], flashes: list[tuple[float, float]]) -> list[float]:
    """The least and the most by which all flashes may be late to show what the pictures show."""
    changes = np.diff(bright, prepend=False, append=False).nonzero()[0]
    assert len(changes) == 2 * len(flashes), f"{len(changes) / 2} flashes are seen"
    middles = (changes + 0.5) / PARAMS.frame_rate
    most = middles - np.ravel(flashes)
    return [float(max(most - 1 / PARAMS.frame_rate)), float(min(most))]


def check_in_step(sound: Path, frames: Path, flashes: list[tuple[float, float]]) -> None:
    """Fail unless each flash is seen and heard when it happens."""
    least, most = offsets_of(brightness_of(frames), flashes)
    # A container's clock may tick in milliseconds.
    assert least < most + 0.002, f"pictures are late by {least:.3f} to {most:.3f} s"
    assert max(abs(least), abs(most)) <= IN_STEP, f"pictures are late by {least:.3f} s"
    onsets = onsets_of(sound)
    assert len(onsets) == len(flashes), f"{len(onsets)} bursts are heard"
    for onset, (begin, _) in zip(onsets, flashes, strict=True):
        late = onset - begin
        assert abs(late) <= IN_STEP, f"sound is late by {late:.3f} s"
        apart = max(abs(late - least), abs(late - most))
        assert apart <= IN_STEP, f"sound and pictures are apart by {apart:.3f} s"
