"""Small pieces in the layout of URMP: real files of rendered sounds and a test picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sop.download.synthetic.melody import melody
from sop.download.synthetic.sound import stems
from tests.support.videos import run_ffmpeg

RATE = 48_000
WIDTH, HEIGHT = 160, 48

# Amplitude of the noise that every recording has.
NOISE = 1e-3

# Instruments of the rendered videos, by the codes of the data set.
CODES = {"vn": "violin", "vc": "cello", "fl": "flute", "tpt": "trumpet", "tba": "tuba"}


def delayed(sound: np.ndarray, samples: int) -> np.ndarray:
    """The sound later by this number of samples, or earlier, with zeros in the gap."""
    padded = np.pad(sound, (max(samples, 0), max(-samples, 0)))
    return padded[max(-samples, 0) :][: len(sound)]


class Written(NamedTuple):
    """A piece as it was written."""

    folder: Path
    stems: np.ndarray
    """Sounds of the players as they are in the mixture, (N, L)."""


def write_piece(
    root: Path,
    name: str,
    seconds: float = 3.0,
    levels: Sequence[float] = (),
    delay: int = 0,
    rates: Sequence[int] = (),
    extra_samples: Sequence[int] = (),
    video: str = "Vid_{folder}.mp4",
) -> Written:
    """Write the folder of a piece with all files of the data set.

    Args:
        root: folder of the pieces.
        name: name of the folder, such as `01_Jupiter_vn_vc`.
        seconds: length.
        levels: of each player in the mixture, relative to its recording; 1 by default.
        delay: samples by which the sound of the video is later than the recordings.
        rates: sample rate of each recording; 48 kHz by default.
        extra_samples: by which each recording is longer than the video; negative if shorter.
        video: name of the video: `{folder}` is that of the folder, `{piece}` without instruments.
    """
    number, title, *codes = name.split("_")
    piece, folder = f"{number}_{title}", root / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng([len(codes), *name.encode()])
    instruments = [CODES[code] for code in codes]
    melodies = [melody(instrument, seconds, rng) for instrument in instruments]
    sounds = stems(instruments, melodies, seconds, RATE, rng).astype(np.float64)
    sounds *= 0.5 / np.abs(sounds).max()
    sounds += NOISE * rng.standard_normal(sounds.shape)
    in_mixture = sounds * np.array(levels or [1.0] * len(codes))[:, None]
    in_mixture = np.stack([delayed(sound, delay) for sound in in_mixture])
    mixture = in_mixture.sum(axis=0)
    soundfile.write(folder / f"AuMix_{name}.wav", mixture, RATE, subtype="PCM_24")
    for k, (code, sound) in enumerate(zip(codes, sounds, strict=True)):
        extra = extra_samples[k] if extra_samples else 0
        sound = np.pad(sound, (0, max(extra, 0)))[: len(sound) + extra]
        path = folder / f"AuSep_{k + 1}_{code}_{piece}.wav"
        soundfile.write(path, sound, RATE, subtype="PCM_24")
        if rates and rates[k] != RATE:
            other = path.with_name("other.wav")
            run_ffmpeg("-i", path, "-ar", str(rates[k]), "-c:a", "pcm_s24le", other)
            other.replace(path)
        (folder / f"Notes_{k + 1}_{code}_{piece}.txt").write_text("0.1\t440.0\t0.4\n")
    (folder / f"Sco_{name}.mid").write_bytes(b"MThd")
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc2=s={WIDTH}x{HEIGHT}:r=30000/1001:d={seconds}"),
        *("-i", folder / f"AuMix_{name}.wav", "-pix_fmt", "yuv420p", "-preset", "ultrafast"),
        *("-c:a", "aac", "-b:a", "192k", folder / video.format(folder=name, piece=piece)),
    )
    return Written(folder, in_mixture)
