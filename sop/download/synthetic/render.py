"""Which videos there are, and how one of them becomes a file with its truth beside it."""

import subprocess
import tempfile
import wave
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from sop.dataset.seeding import generator
from sop.download.synthetic.melody import melody
from sop.download.synthetic.scene import Scene
from sop.download.synthetic.sound import stems
from sop.download.synthetic.timbre import INSTRUMENTS
from sop.download.synthetic.truth import Truth, write_truth
from sop.media.ffmpeg import binary
from sop.runtime.files import replacing

_QUALITY = 20
_AUDIO_RATE = "128k"
_REASON_CHARACTERS = 2000


class VideoParams(Protocol):
    """The part of `dataset.synthetic` in params.yaml that one video depends on."""

    @property
    def seconds(self) -> float:
        """Length of a video."""

    @property
    def width(self) -> int:
        """Pixels, even."""

    @property
    def height(self) -> int:
        """Pixels, even."""

    @property
    def frame_rate(self) -> int:
        """Frames per second."""

    @property
    def sample_rate(self) -> int:
        """Hz."""


class PlanParams(Protocol):
    """The part of `dataset.synthetic` in params.yaml that the list of videos depends on."""

    @property
    def solos(self) -> int:
        """Videos of each instrument alone."""

    @property
    def duets(self) -> int:
        """Videos of two instruments."""


@dataclass(frozen=True)
class PlannedVideo:
    """A video to render."""

    category: str
    """Its folder: the instruments, alphabetical, joined by underscores."""
    name: str
    instruments: tuple[str, ...]
    index: int
    """Which one of its category, from 0."""


def plan(params: PlanParams, seed: int) -> list[PlannedVideo]:
    """List the videos: the solos, one of each instrument after the other, then the duets.

    Asking for more adds to either list and leaves what was there as it was. Of every five duets,
    each instrument plays in one.
    """
    solos = [
        _planned((instrument,), index)
        for index in range(params.solos)
        for instrument in INSTRUMENTS
    ]
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


def render(video: PlannedVideo, params: VideoParams, seed: int, folder: Path) -> None:
    """Write `<folder>/<category>/<name>.mp4` (H.264 and AAC) and `<name>.truth.npz` beside it.

    Both depend on the seed, the video's name and `params` alone, down to the byte.

    Raises:
        RuntimeError: ffmpeg failed; the message ends in its last words.
    """
    melodies = [
        melody(instrument, params.seconds, generator(seed, "melody", video.name, instrument))
        for instrument in video.instruments
    ]
    played = stems(
        video.instruments,
        melodies,
        params.seconds,
        params.sample_rate,
        generator(seed, "sound", video.name),
    )
    scene = Scene(
        video.instruments,
        melodies,
        width=params.width,
        height=params.height,
        frame_rate=params.frame_rate,
        frames=round(params.seconds * params.frame_rate),
        rng=generator(seed, "scene", video.name),
    )
    stem = folder / video.category / video.name
    path = stem.with_name(f"{video.name}.mp4")
    with replacing(path) as partial:
        complaint = _encode(partial, scene.frames(), played.sum(axis=0).astype(np.int16), params)
        if complaint is not None:
            raise RuntimeError(f"{path}: ffmpeg failed: {complaint[-_REASON_CHARACTERS:]}")
    onsets = sorted(
        (note.onset_seconds, index) for index, notes in enumerate(melodies) for note in notes
    )
    write_truth(
        stem.with_name(f"{video.name}.truth.npz"),
        Truth(
            instruments=video.instruments,
            stems=played,
            sample_rate=params.sample_rate,
            frame_rate=params.frame_rate,
            width=params.width,
            height=params.height,
            boxes=scene.boxes,
            onsets_seconds=np.array([seconds for seconds, _ in onsets]),
            onset_instruments=np.array([index for _, index in onsets], dtype=np.int64),
        ),
    )


def _planned(instruments: tuple[str, ...], index: int) -> PlannedVideo:
    category = "_".join(instruments)
    return PlannedVideo(category, f"{category}_{index:03d}", instruments, index)


def _encode(
    path: Path, frames: Iterable[bytes], sound: NDArray[np.int16], params: VideoParams
) -> str | None:
    """Encode RGB frames and mono sound, the same input to the same bytes.

    Returns:
        What ffmpeg said when it failed, else None.
    """
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sound.wav"
        _write_wav(wav, sound, params.sample_rate)
        picture = ffmpeg.input(
            "pipe:",
            format="rawvideo",
            pix_fmt="rgb24",
            s=f"{params.width}x{params.height}",
            framerate=params.frame_rate,
        )
        output = ffmpeg.output(
            picture,
            ffmpeg.input(str(wav)),
            str(path),
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
        command = output.global_args("-nostdin", "-loglevel", "error").overwrite_output()
        # A file takes any number of complaints; a pipe that nobody reads would stop ffmpeg.
        with (Path(folder) / "stderr").open("w+b") as complaints:
            process = subprocess.Popen(
                command.compile(cmd=binary()), stdin=subprocess.PIPE, stderr=complaints
            )
            _feed(process, frames)
            if process.wait() == 0:
                return None
            complaints.seek(0)
            return complaints.read().decode(errors="replace").strip()


def _feed(process: "subprocess.Popen[bytes]", frames: Iterable[bytes]) -> None:
    """Write the frames to the process; when it ends early, its exit status tells why."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for frame in frames:
                pipe.write(frame)
    except BrokenPipeError:
        pass
    except BaseException:
        process.kill()
        process.wait()
        raise


def _write_wav(path: Path, sound: NDArray[np.int16], sample_rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(sound.astype("<i2").tobytes())
