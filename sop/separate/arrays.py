"""Pictures and sounds in memory as a video on disk, without loss.

The file has exact times: NUT counts in the frame rate and the sample rate.

Shapes: T pictures of H x W pixels, C channels, L samples.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from sop.cancellation.wav import writing_wav
from sop.media.ffmpeg import check_run, file_url, run_to_end
from sop.player.clip import limits_of, pictures_input, wav_input
from sop.runtime.files import replacing
from sop.separate.video import BLOCK_SAMPLES, MAX_CHANNELS, MAX_SAMPLE_RATE

MAX_FRAME_RATE = 1000.0
MAX_SIDE = 16_384


def write_arrays(
    frames: NDArray[Any], audio: NDArray[Any], sample_rate: int, frame_rate: float, out: Path
) -> None:
    """Write pictures and a sound as a video, with the values that they have.

    Args:
        frames: (T, H, W, 3), RGB, uint8.
        audio: (C, L) or (L,), floats of full scale 1, or 16-bit integers.
        sample_rate: sample rate of the sound, Hz.
        frame_rate: pictures per second.
        out: path of the video; the sound is written beside it for a moment.

    Raises:
        ValueError: a shape, type or rate is not as described.
        UserError: the file cannot be written.
    """
    sound = _checked_sound(audio, sample_rate)
    _check_pictures(frames, frame_rate)
    wav = out.with_suffix(".wav")
    with writing_wav(wav, sample_rate, len(sound)) as writer:
        for begin in range(0, sound.shape[1], BLOCK_SAMPLES):
            writer.write(_floats(sound[:, begin : begin + BLOCK_SAMPLES]).T)
    _, height, width, _ = frames.shape
    raw = pictures_input(width, height, frame_rate)
    with replacing(out) as partial:
        command = ffmpeg.output(
            # FFV1 in this format is lossless.
            raw.filter("format", "bgr0"),
            wav_input(wav),
            file_url(partial),
            format="nut",
            vcodec="ffv1",
            acodec="pcm_f32le",
        )
        limits = limits_of(len(frames) / frame_rate)
        check_run(run_to_end(command, limits, _bytes(frames)))
    wav.unlink()


def _bytes(frames: NDArray[np.uint8]) -> Iterator[bytes]:
    for picture in frames:
        yield picture.tobytes()


def _check_pictures(frames: NDArray[Any], frame_rate: float) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames: shape {frames.shape}, {frames.dtype}; expected (T, H, W, 3), uint8"
        )
    if not (len(frames) and 0 < min(frames.shape[1:3]) <= max(frames.shape[1:3]) <= MAX_SIDE):
        raise ValueError(
            f"frames: shape {frames.shape}; expected one picture or more, of 1 to {MAX_SIDE} pixels"
        )
    if not (math.isfinite(frame_rate) and 0 < frame_rate <= MAX_FRAME_RATE):
        raise ValueError(f"frame_rate {frame_rate}: must be above 0, at most {MAX_FRAME_RATE:g}")


def _checked_sound(audio: NDArray[Any], sample_rate: int) -> NDArray[Any]:
    """Return the sound as (C, L)."""
    sound = audio[None] if audio.ndim == 1 else audio
    is_known = np.issubdtype(sound.dtype, np.floating) or sound.dtype == np.int16
    if sound.ndim != 2 or not is_known or not sound.size or len(sound) > MAX_CHANNELS:
        raise ValueError(
            f"audio: shape {audio.shape}, {audio.dtype}; expected (channels, samples) with 1 to "
            f"{MAX_CHANNELS} channels, or (samples,), of floats or int16"
        )
    if isinstance(sample_rate, bool) or not 0 < sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample_rate {sample_rate}: must be 1 to {MAX_SAMPLE_RATE}")
    if int(sample_rate) != sample_rate:
        raise ValueError(f"sample_rate {sample_rate}: must be a whole number")
    return sound


def _floats(sound: NDArray[Any]) -> NDArray[np.float32]:
    scale = 2.0**-15 if sound.dtype == np.int16 else 1.0
    return sound.astype(np.float32) * np.float32(scale)
