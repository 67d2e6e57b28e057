"""Plan the rendered videos, and render one of them together with its ground truth."""

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from sop.dataset.seeding import generator
from sop.download.synthetic.melody import Note, Rest, melody, melody_with_rests
from sop.download.synthetic.scene import RenderedScene
from sop.download.synthetic.sound import stems
from sop.download.synthetic.speech import Speech, speak
from sop.download.synthetic.timbre import INSTRUMENTS
from sop.download.synthetic.truth import Truth, write_truth
from sop.media.ffmpeg import error_message, file_url, run_to_end
from sop.params import SyntheticParams
from sop.runtime.files import replacing, temporary_folder, writing_temporary

_QUALITY = 20
_AUDIO_RATE = "128k"

TALKER = "talker"
"""A talking person, in place of an instrument."""


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
    rests: bool = False
    """Whether the players rest for a while."""
    resting: int | None = None
    """Index in `instruments` of the player that rests all through, if one does."""


def plan(params: SyntheticParams, seed: int) -> list[PlannedVideo]:
    """List the videos of each kind; a larger number of a kind adds videos and changes none.

    Solos come in rounds of one per instrument. In the duets of two instruments, each instrument
    plays in one of every five; in those of one instrument, in one of every ten.
    """
    solos = [_planned((name,), index) for index in range(params.solos) for name in INSTRUMENTS]
    resting_solos = [
        _planned((name,), index, rests=True)
        for index in range(params.resting_solos)
        for name in INSTRUMENTS
    ]
    duets = _numbered(_pair(seed, "synthetic duets", n) for n in range(params.duets))
    same_duets = _numbered(
        _twice(seed, "synthetic same duets", n) for n in range(params.same_duets)
    )
    resting_duets = _numbered(
        (
            (_twice if n % 2 else _pair)(seed, "synthetic resting duets", n // 2)
            for n in range(params.resting_duets)
        ),
        seed,
    )
    talkers = [_planned((TALKER,), index) for index in range(params.talkers)]
    pairs = [_planned((TALKER, TALKER), index) for index in range(params.talker_pairs)]
    return solos + duets + resting_solos + same_duets + resting_duets + talkers + pairs


def render(video: PlannedVideo, params: SyntheticParams, seed: int, folder: Path) -> None:
    """Write a video (H.264 and AAC) and its truth, `<folder>/<category>/<name>.{mp4,truth.npz}`.

    The bytes of both depend only on the seed, the video's name and `params`.

    Raises:
        RuntimeError: ffmpeg failed; the message contains its error.
        LeftOutForNow: ffmpeg crashed.
    """
    name = video.name
    parts = _parts(video, params.seconds, seed)
    melodies, rests = [notes for notes, _ in parts], [own for _, own in parts]
    played = stems(
        video.instruments,
        melodies,
        params.seconds,
        params.sample_rate,
        generator(seed, "sound", name),
    )
    size = {key: getattr(params, key) for key in ("width", "height", "frame_rate")}
    frames = round(params.seconds * params.frame_rate)
    scene = RenderedScene(
        video.instruments,
        melodies,
        **size,
        frames=frames,
        rng=generator(seed, "scene", name),
        rests=rests,
    )
    path = folder / video.category / f"{name}.mp4"
    with replacing(path) as unfinished:
        _encode(unfinished, scene.frames(), played.sum(axis=0).astype(np.int16), params)
    onsets = sorted((at, i) for i, notes in enumerate(melodies) for at in _onsets(notes))
    times = np.arange(frames) / params.frame_rate
    truth = Truth(
        instruments=video.instruments,
        stems=played,
        sample_rate=params.sample_rate,
        **size,
        boxes=scene.boxes,
        onsets_seconds=np.array([seconds for seconds, _ in onsets]),
        onset_instruments=np.array([index for _, index in onsets], dtype=np.int64),
        rests=np.array(
            [[any(begin <= t < end for begin, end in own) for t in times] for own in rests], bool
        ),
    )
    write_truth(path.with_suffix(".truth.npz"), truth)


def _planned(
    instruments: tuple[str, ...], index: int, rests: bool = False, resting: int | None = None
) -> PlannedVideo:
    category = "_".join(instruments)
    rest = "rest_" if rests or resting is not None else ""
    return PlannedVideo(
        category, f"{category}_{rest}{index:03d}", instruments, index, rests, resting
    )


def _pair(seed: int, purpose: str, number: int) -> tuple[str, ...]:
    """Two instruments; each round of five pairs has every instrument once."""
    round_number, place = divmod(number, len(INSTRUMENTS) // 2)
    order = generator(seed, purpose, round_number).permutation(len(INSTRUMENTS))
    return tuple(sorted(INSTRUMENTS[i] for i in order[2 * place : 2 * place + 2]))


def _twice(seed: int, purpose: str, number: int) -> tuple[str, ...]:
    """One instrument twice; each round of ten has every instrument."""
    round_number, place = divmod(number, len(INSTRUMENTS))
    order = generator(seed, purpose, round_number, "same").permutation(len(INSTRUMENTS))
    return (INSTRUMENTS[order[place]],) * 2


def _numbered(
    duets: Iterable[tuple[str, ...]], resting_seed: int | None = None
) -> list[PlannedVideo]:
    """Number the duets of each category; with a seed, one player of each rests all through."""
    seen: Counter[tuple[str, ...]] = Counter()
    planned = []
    for pair in duets:
        resting = None
        if resting_seed is not None:
            rng = generator(resting_seed, "synthetic resting player", "_".join(pair), seen[pair])
            resting = int(rng.integers(len(pair)))
        planned.append(_planned(pair, seen[pair], resting=resting))
        seen[pair] += 1
    return planned


def _parts(
    video: PlannedVideo, seconds: float, seed: int
) -> list[tuple[list[Note] | Speech, list[Rest]]]:
    """What each player plays, its notes and its long rests, or what each talker says."""
    parts: list[tuple[list[Note] | Speech, list[Rest]]] = []
    for number, instrument in enumerate(video.instruments):
        # Two players of one instrument play different melodies.
        again = (number,) if instrument in video.instruments[:number] else ()
        rng = generator(seed, "melody", video.name, instrument, *again)
        if instrument == TALKER:
            parts.append((speak(seconds, generator(seed, "speech", video.name, number)), []))
        elif number == video.resting:
            # Longer than the video, so that no motion begins or ends in it.
            parts.append(([], [Rest(-1.0, seconds + 1.0)]))
        elif video.rests:
            parts.append(melody_with_rests(instrument, seconds, rng))
        else:
            parts.append((melody(instrument, seconds, rng), []))
    return parts


def _onsets(notes: list[Note] | Speech) -> list[float]:
    """The onsets of all notes or syllables."""
    if isinstance(notes, Speech):
        return list(notes.onsets_seconds)
    return [note.onset_seconds for note in notes]


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
