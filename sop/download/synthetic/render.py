"""Plan the rendered videos, and render one of them together with its ground truth."""

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.dataset.seeding import generator
from sop.download.synthetic.melody import melody
from sop.download.synthetic.scene import RenderedScene
from sop.download.synthetic.sound import stems
from sop.download.synthetic.timbre import INSTRUMENTS
from sop.download.synthetic.truth import Truth, write_truth
from sop.media.ffmpeg import error_message, file_url, run_to_end
from sop.params import SyntheticParams
from sop.runtime.files import replacing, temporary_folder, writing_temporary

_QUALITY = 20
_AUDIO_RATE = "128k"


@dataclass(frozen=True)
class PlannedVideo:
    """A video to render."""

    category: str
    """Folder: the instruments in alphabetical order, joined by underscores."""
    name: str
    """Name of the file without its suffix."""
    instruments: tuple[str, ...]
    """Instruments in alphabetical order."""
    index: int
    """Number within the category, from 0."""


def plan(params: SyntheticParams, seed: int) -> list[PlannedVideo]:
    """List the videos: first the solos, in rounds of one per instrument, then the duets.

    A larger number of solos or duets adds videos and changes none. Each instrument plays in one of
    every five duets.
    """
    solos = [_planned((name,), index) for index in range(params.solos) for name in INSTRUMENTS]
    seen: Counter[tuple[str, ...]] = Counter()
    duets = []
    pairs_per_round = len(INSTRUMENTS) // 2
    for number in range(params.duets):
        round_number, place = divmod(number, pairs_per_round)
        order = generator(seed, "synthetic duets", round_number).permutation(len(INSTRUMENTS))
        pair = tuple(sorted(INSTRUMENTS[i] for i in order[2 * place : 2 * place + 2]))
        duets.append(_planned(pair, seen[pair]))
        seen[pair] += 1
    return solos + duets


def render(video: PlannedVideo, params: SyntheticParams, seed: int, folder: Path) -> None:
    """Write a video (H.264 and AAC) and its truth, `<folder>/<category>/<name>.{mp4,truth.npz}`.

    The bytes of both depend only on the seed, the video's name and `params`.

    Raises:
        RuntimeError: ffmpeg failed; the message contains its error.
        LeftOutForNow: ffmpeg crashed.
    """
    rng, name = partial(generator, seed), video.name
    melodies = [
        melody(each, params.seconds, rng("melody", name, each)) for each in video.instruments
    ]
    played = stems(
        video.instruments, melodies, params.seconds, params.sample_rate, rng("sound", name)
    )
    size = {key: getattr(params, key) for key in ("width", "height", "frame_rate")}
    frames = round(params.seconds * params.frame_rate)
    scene = RenderedScene(
        video.instruments, melodies, **size, frames=frames, rng=rng("scene", name)
    )
    path = folder / video.category / f"{name}.mp4"
    with replacing(path) as unfinished:
        _encode(unfinished, scene.frames(), played.sum(axis=0).astype(np.int16), params)
    onsets = sorted((note.onset_seconds, i) for i, notes in enumerate(melodies) for note in notes)
    truth = Truth(
        instruments=video.instruments,
        stems=played,
        sample_rate=params.sample_rate,
        **size,
        boxes=scene.boxes,
        onsets_seconds=np.array([seconds for seconds, _ in onsets]),
        onset_instruments=np.array([index for _, index in onsets], dtype=np.int64),
    )
    write_truth(path.with_suffix(".truth.npz"), truth)


def _planned(instruments: tuple[str, ...], index: int) -> PlannedVideo:
    category = "_".join(instruments)
    return PlannedVideo(category, f"{category}_{index:03d}", instruments, index)


def _encode(
    path: Path, frames: Iterable[bytes], sound: NDArray[np.int16], params: SyntheticParams
) -> None:
    """Encode RGB frames and mono sound; the same input gives the same bytes."""
    with temporary_folder() as folder:
        wav = folder / "sound.wav"
        encoded = io.BytesIO()
        soundfile.write(encoded, sound, params.sample_rate, subtype="PCM_16", format="WAV")
        with writing_temporary(folder):
            wav.write_bytes(encoded.getbuffer())
        pictures = ffmpeg.input(
            "pipe:",
            format="rawvideo",
            pix_fmt="rgb24",
            s=f"{params.width}x{params.height}",
            framerate=params.frame_rate,
        )
        output = ffmpeg.output(
            pictures,
            ffmpeg.input(str(wav)),
            file_url(path),
            vcodec="libx264",
            preset="veryfast",
            crf=_QUALITY,
            pix_fmt="yuv420p",
            acodec="aac",
            audio_bitrate=_AUDIO_RATE,
            threads=1,
            movflags="+faststart",
            fflags="+bitexact",
            map_metadata=-1,
            **{"flags:v": "+bitexact", "flags:a": "+bitexact"},
        )
        run = run_to_end(output, None, frames)
    if run.code:
        raise RuntimeError(f"{path}: ffmpeg failed: {error_message(run)}")
