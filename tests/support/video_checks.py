"""Videos with a given sound, and what videos contain."""

import subprocess
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.cancellation.wav import writing_wav
from sop.media.decoding import probe
from sop.media.ffmpeg import Limits, binary, probe_header
from sop.separate.video import open_sound
from tests.support.videos import run_ffmpeg

LIMITS = Limits(60.0)
ODD_NAME = '-x "it\'s" 50%d & <script>;$(a):b'


def sound_of(video: Path, place: Path | None = None) -> tuple[NDArray[np.float32], int]:
    """Return the whole sound, (L, channels), and its rate; write it to `place` if given."""
    with open_sound(video, probe(video, LIMITS), LIMITS) as sound:
        read = np.concatenate(list(sound.blocks))
        assert read.shape == (sound.samples, sound.channels)
        assert read.dtype == np.float32
        if place is not None:
            with writing_wav(place, sound.sample_rate, sound.channels, sound.channel_mask) as file:
                file.write(read)
    return read, sound.sample_rate


def pictures_of(video: Path, rate: float, height: int) -> NDArray[np.uint8]:
    """Decode all pictures with ffmpeg, (T, H, W, 3)."""
    run = subprocess.run(
        [
            *(binary(), "-v", "error", "-i", video, "-vf", f"fps={rate}:start_time=0:round=near"),
            *("-an", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return np.frombuffer(run.stdout, np.uint8).reshape(-1, height, _width_of(video, height), 3)


def _width_of(video: Path, height: int) -> int:
    size = probe_header(video, LIMITS).format.split()[1].rstrip(",")
    width, _, found = size.partition("x")
    assert int(found) == height
    return int(width)


def ffmpeg_report(video: Path) -> str:
    """Return what ffmpeg reports about a file."""
    run = subprocess.run([binary(), "-hide_banner", "-i", video], capture_output=True, text=True)
    return run.stderr


def is_fast_start(mp4: Path) -> bool:
    """Return True if browsers can play the file before it is loaded completely."""
    content = mp4.read_bytes()
    return 0 < content.find(b"moov") < content.find(b"mdat")


def noise(samples: int, channels: int) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-(2**15), 2**15, (samples, channels), np.int16)


def make_video_with(
    place: Path, sound: Path, *codecs: str, pictures: str = "testsrc2=s=96x72:r=25"
) -> Path:
    """Write a video with a given sound, as long as the sound."""
    seconds = soundfile.info(sound).duration
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"{pictures}:d={seconds}", "-i", f"file:{sound}"),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", *codecs, f"file:{place}"),
    )
    return place
