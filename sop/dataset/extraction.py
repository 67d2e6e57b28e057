"""Videos to sound and frames: a WAV and a zip of JPEGs for each, made again only when stale."""

import wave
import zipfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sop.dataset import ffmpeg
from sop.dataset.clips import FRAME_NAME
from sop.dataset.decoding import PictureOutput, SoundOutput, decode, length_seconds
from sop.dataset.manifest import Manifest, Row, sha256
from sop.dataset.parallel import each
from sop.errors import LeftOut, UserError
from sop.files import remove_empty_folders, remove_partials, replacing
from sop.params import ExtractParams
from sop.progress import say, track

# Raise it when the same video and parameters should become other files than before.
RECIPE = 1

# A video whose loudest sample is below this holds no sound worth learning from.
SILENCE_DBFS = -70.0

# The oldest time that a zip can hold: its bytes must not depend on when it was made.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)

BLOCK_SAMPLES = 1 << 18


@dataclass(frozen=True)
class Made:
    """What came of one video; None for what was not asked for."""

    samples: int | None
    frames: int | None


@dataclass(frozen=True)
class _Job:
    """A video with something stale or missing."""

    name: str
    video: Path
    hash: str
    audio: Path | None
    frames: Path | None


def extract(
    params: ExtractParams, videos: Path, audio: Path, frames: Path, workers: int
) -> dict[str, Any]:
    """Bring `audio` and `frames` to what they would be if made from nothing.

    Args:
        params: rates, height and quality.
        videos: folder of `<category>/<id>.mp4`.
        audio: folder for `<category>/<id>.wav`.
        frames: folder for `<category>/<id>.zip`.
        workers: videos at a time.

    Returns:
        Counts, lengths, bytes and reasons, for metrics/extract.json.

    Raises:
        UserError: no video is usable.
    """
    found = _find(videos)
    if not found:
        raise UserError(f"{videos}: holds no videos; `dvc repro download` puts them there")
    sounds, pictures = Manifest(audio, ".wav"), Manifest(frames, ".zip")
    made_with = {
        sounds: f"sample_rate={params.sample_rate} {_tools()}",
        pictures: f"frame_rate={params.frame_rate:g} frame_height={params.frame_height} "
        f"jpeg_quality={params.jpeg_quality} {_tools()}",
    }
    for manifest in made_with:
        remove_partials(manifest.folder)
        manifest.load()
    jobs = _stale(found, made_with, workers)
    for manifest in made_with:
        # Before anything is replaced: a row must never speak of another file than the one there.
        manifest.save()
    left_out: dict[str, str] = {}
    work = partial(_extract_job, params=params)
    for job, made in track(each(work, jobs, workers), "extract", len(jobs)):
        if isinstance(made, LeftOut):
            left_out[job.name] = str(made)
            say(f"left out: {job.video}: {made}")
        for manifest, place, length in (
            (sounds, job.audio, None if isinstance(made, LeftOut) else made.samples),
            (pictures, job.frames, None if isinstance(made, LeftOut) else made.frames),
        ):
            if place is not None and length is not None:
                size = place.stat().st_size
                manifest.rows[job.name] = Row(job.hash, made_with[manifest], length, size)
                manifest.save_sometimes()
            elif isinstance(made, LeftOut):
                manifest.rows.pop(job.name, None)
    for manifest in made_with:
        manifest.save()
        manifest.sweep()
        remove_empty_folders(manifest.folder)
    if not sounds.rows:
        name, first = min(left_out.items())
        raise UserError(
            f"{videos}: none of {len(found)} videos is usable, {name} for one: {first}; "
            "see the lines above and mend or replace the videos"
        )
    return _summary(params, sounds, pictures, left_out)


def extract_video(
    video: Path, audio: Path | None, frames: Path | None, params: ExtractParams
) -> Made:
    """Decode one video into its files.

    Args:
        video: the file.
        audio: the WAV to write, or None.
        frames: the zip to write, or None.
        params: rates, height and quality.

    Raises:
        LeftOut: the video cannot be used; neither file is written or replaced.
    """
    seconds = length_seconds(video)
    with ExitStack() as stack:
        sound = pictures = None
        archive = None
        if audio is not None:
            sound = SoundOutput(stack.enter_context(replacing(audio)), params.sample_rate)
        if frames is not None:
            pictures = PictureOutput(params.frame_rate, params.frame_height, params.jpeg_quality)
            archive = stack.enter_context(replacing(frames))
        jpegs = decode(video, seconds, sound, pictures)
        count = _pack(jpegs, archive)
        if pictures is not None and count < max(1, pictures.count(seconds) - 1):
            raise LeftOut(
                f"damaged: pictures of only {count / params.frame_rate:.1f} of {seconds:.1f} s "
                "could be decoded"
            )
        samples = None if sound is None else _check_sound(sound, seconds)
    return Made(samples, None if frames is None else count)


def _extract_job(job: _Job, params: ExtractParams) -> Made:
    return extract_video(job.video, job.audio, job.frames, params)


def _find(videos: Path) -> dict[str, Path]:
    """The videos by `<category>/<id>`, in order."""
    return {
        f"{path.parent.name}/{path.stem}": path
        for path in sorted(videos.glob("*/*.mp4"))
        if not path.name.startswith(".")
    }


def _hash(video: Path) -> str:
    """SHA-256 of a video; of one that cannot be read, nothing: its extraction says why."""
    try:
        return sha256(video)
    except OSError:
        return ""


def _tools() -> str:
    return f"recipe={RECIPE} ffmpeg={ffmpeg.version()}"


def _stale(found: dict[str, Path], made_with: dict[Manifest, str], workers: int) -> list[_Job]:
    """What there is to do; the manifests keep the rows of what there is not."""
    hashes = dict(each(_hash, found.values(), workers))
    jobs = []
    places: list[Path | None]
    for name, video in found.items():
        digest = str(hashes[video])
        places = [
            None if manifest.is_fresh(name, digest, tools) else manifest.place(name)
            for manifest, tools in made_with.items()
        ]
        if any(places):
            jobs.append(_Job(name, video, digest, *places))
    todo = {manifest: set(found) for manifest in made_with}
    for job in jobs:
        for manifest, place in zip(made_with, (job.audio, job.frames), strict=True):
            if place is not None:
                todo[manifest].discard(job.name)
    for manifest, fresh in todo.items():
        manifest.rows = {name: row for name, row in manifest.rows.items() if name in fresh}
    return jobs


def _pack(jpegs: Iterable[bytes], archive: Path | None) -> int:
    """Write pictures, as they come, to an uncompressed zip; its bytes follow from theirs."""
    if archive is None:
        return sum(1 for _ in jpegs)
    count = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for count, jpeg in enumerate(jpegs, start=1):
            entry = zipfile.ZipInfo(FRAME_NAME.format(count), ZIP_DATE)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, jpeg)
    return count


def _check_sound(sound: SoundOutput, seconds: float) -> int:
    """Samples of a sound that is whole and not silent, or `LeftOut`."""
    try:
        with wave.open(str(sound.path), "rb") as file:
            samples, peak = file.getnframes(), 0
            while block := file.readframes(BLOCK_SAMPLES):
                peak = max(peak, int(np.abs(np.frombuffer(block, "<i2").astype(np.int32)).max()))
    except (OSError, EOFError, wave.Error):
        samples, peak = 0, 0
    if samples < sound.samples(seconds):
        raise LeftOut(
            f"damaged: sound of only {samples / sound.sample_rate:.1f} of {seconds:.1f} s "
            "could be decoded"
        )
    if peak < 10 ** (SILENCE_DBFS / 20) * 2**15:
        raise LeftOut(f"silent: no sample reaches {SILENCE_DBFS:g} dB of full scale")
    return samples


def _summary(
    params: ExtractParams, sounds: Manifest, pictures: Manifest, left_out: dict[str, str]
) -> dict[str, Any]:
    samples = sum(row.length for row in sounds.rows.values())
    categories = Counter(name.partition("/")[0] for name in sounds.rows)
    return {
        "videos": len(sounds.rows),
        "audio_hours": round(samples / params.sample_rate / 3600, 4),
        "frames": sum(row.length for row in pictures.rows.values()),
        "bytes": {
            "audio": sum(row.bytes for row in sounds.rows.values()),
            "frames": sum(row.bytes for row in pictures.rows.values()),
        },
        "category": dict(sorted(categories.items())),
        "left_out": {"count": len(left_out), "reasons": dict(sorted(left_out.items()))},
    }
