"""Small real videos, made by ffmpeg."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sop.media.ffmpeg import binary
from sop.params import Params, load_params

SIZE = (96, 72)
BITS = 8

MakeVideo = Callable[..., Path]


def run_ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> None:
    subprocess.run(
        [binary(), "-v", "error", "-y", *map(str, arguments)], input=stdin or b"", check=True
    )


@pytest.fixture(scope="session")
def ffmpeg_run() -> Callable[..., None]:
    """Runs ffmpeg with the given arguments."""
    return run_ffmpeg


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> MakeVideo:
    """Writes a copy of a video of 2.5 s: a tone, and a moving test picture."""
    master = tmp_path_factory.mktemp("master") / "master.mp4"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=96x72:r=24:d=2.5"),
        *("-f", "lavfi", "-i", "sine=440:d=2.5:r=22050"),
        *("-pix_fmt", "yuv420p", "-preset", "ultrafast", "-movflags", "+faststart"),
        *("-shortest", master),
    )

    def make(path: Path, *arguments: str) -> Path:
        """Without arguments a plain copy, else what ffmpeg makes of it with them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if arguments:
            run_ffmpeg("-i", master, *arguments, f"file:{path}")
        else:
            path.write_bytes(master.read_bytes())
        return path

    return make


@pytest.fixture(scope="session")
def clock_video() -> Callable[..., Path]:
    """Writes a video whose every picture shows its own number, as eight black or white bars.

    Its sound is a click at second 1.
    """

    def make(path: Path, frame_rate: str, seconds: float) -> Path:
        numerator, _, denominator = frame_rate.partition("/")
        count = round(seconds * int(numerator) / int(denominator or 1))
        bars = (np.arange(count)[:, None] >> np.arange(BITS)) & 1
        pictures = np.repeat(bars[:, None] * 255, SIZE[1], axis=1)
        pictures = np.repeat(pictures, SIZE[0] // BITS, axis=2).astype(np.uint8)
        click = np.zeros(round(seconds * 22050), "<i2")
        click[22050:22060] = 20000
        sound = path.with_suffix(".s16")
        sound.write_bytes(click.tobytes())
        run_ffmpeg(
            *("-f", "rawvideo", "-pix_fmt", "gray", "-s", "96x72", "-framerate", frame_rate),
            *("-i", "pipe:0", "-f", "s16le", "-ar", "22050", "-ac", "1", "-i", sound),
            *("-map", "0:v", "-map", "1:a", "-pix_fmt", "yuv420p", "-preset", "ultrafast", path),
            stdin=pictures.tobytes(),
        )
        return path

    return make


@pytest.fixture(scope="session")
def read_clock() -> Callable[[NDArray[np.uint8]], int]:
    """Reads the number that a picture of `clock_video` shows."""

    def read(picture: NDArray[np.uint8]) -> int:
        height, width = picture.shape[:2]
        centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
        bright = picture[height // 2, centres].reshape(BITS, -1)[:, 0] > 127
        return int((bright << np.arange(BITS)).sum())

    return read


@pytest.fixture
def params() -> Params:
    """The parameters in git."""
    return load_params(Path(__file__).parents[2] / "params.yaml")
