"""Extract the sound and the frames of videos: a WAV and a zip of JPEGs for each video."""

import logging
import socket
import wave
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sop.dataset.clips import pack
from sop.extract.manifest import Manifest, ManifestRow
from sop.media import ffmpeg
from sop.media.decoding import PictureOutput, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.runtime.files import PeriodicSaver, remove_partials, replacing
from sop.runtime.hashes import FileStamp, HashCache, stamp_and_hash
from sop.runtime.parallel import Workers, map_unordered
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

# Increase it when the same video and parameters should give other files than before.
RECIPE = 1

# A video whose loudest sample is below this is left out as silent.
SILENCE_DBFS = -70.0

BLOCK_SAMPLES = 1 << 18

# The metrics are kept in git: they contain at most this number of reasons.
REASONS_SHOWN = 100


@dataclass(frozen=True)
class Extraction:
    """Lengths of the extracted files; None for a file that was not requested."""

    samples: int | None
    frames: int | None


@dataclass(frozen=True)
class _Task:
    """A video with a stale or missing file."""

    name: str
    video: Path
    hash: str | None
    """SHA-256 of the video, or None if the task has to compute it."""
    audio: Path | None
    """WAV to write, or None if it is up to date."""
    frames: Path | None
    """Zip to write, or None if it is up to date."""
    tools: str
    """Versions that the worker must have."""


@dataclass(frozen=True)
class _TaskResult:
    hash: str
    stamp: FileStamp | None
    """Stamp of the video before it was hashed, or None if the hash was known."""
    extraction: Extraction | LeftOut


def extract(
    params: ExtractParams, videos: Path, audio: Path, frames: Path, workers: Workers, hashes: Path
) -> dict[str, Any]:
    """Update `audio` and `frames`; the result equals an extraction into empty folders.

    Args:
        params: rates, height, quality and limits.
        videos: folder of `<category>/<id>.mp4`.
        audio: folder for `<category>/<id>.wav`.
        frames: folder for `<category>/<id>.zip`.
        workers: number and place of the workers.
        hashes: database of the hashes of the videos; created if missing.

    Returns:
        Counts, lengths, bytes and reasons, for metrics/extract.json.

    Raises:
        UserError: no video is usable.
    """
    found = _find(videos)
    if not found:
        raise UserError(f"{videos}: contains no videos; run `dvc repro download`")
    sounds, pictures = Manifest(audio, ".wav"), Manifest(frames, ".zip")
    made_with = {
        sounds: f"sample_rate={params.sample_rate} {_tools()}",
        pictures: f"frame_rate={params.frame_rate:g} frame_height={params.frame_height} "
        f"jpeg_quality={params.jpeg_quality} {_tools()}",
    }
    for manifest in made_with:
        remove_partials(manifest.folder)
        manifest.load()
    with HashCache(hashes) as cache:
        tasks = _stale(found, made_with, cache, workers)
        # Saved before any file is replaced, so that no row describes another file.
        for manifest in made_with:
            manifest.save()
        failed: dict[str, str] = {}
        savers = [PeriodicSaver(manifest.save) for manifest in made_with]
        work = partial(_run_task, params=params)
        for task, result in progress(map_unordered(work, tasks, workers), "extract", len(tasks)):
            if isinstance(result, LeftOut):
                result = _TaskResult("", None, result)
            if result.stamp is not None:
                cache.remember(task.video, result.stamp, result.hash)
            if isinstance(result.extraction, LeftOut):
                logger.info(f"left out: {task.video}: {result.extraction}")
            if isinstance(result.extraction, LeftOutForNow):
                failed[task.name] = str(result.extraction)
            _record(task, result, made_with)
            for saver in savers:
                saver.save_if_due()
    for manifest in made_with:
        manifest.save()
        manifest.remove_unlisted()
    left_out = {name: row.left_out for name, row in sounds.rows.items() if row.left_out} | failed
    if not sounds.done():
        name, first = min(left_out.items())
        raise UserError(
            f"{videos}: none of {len(found)} videos is usable, for example {name}: {first}; "
            "see the lines above and replace the videos"
        )
    return _summary(params, sounds, pictures, left_out)


def extract_video(
    video: Path, audio: Path | None, frames: Path | None, params: ExtractParams
) -> Extraction:
    """Decode one video into its files.

    Args:
        video: the file.
        audio: WAV to write, or None.
        frames: zip to write, or None.
        params: rates, height, quality and limits.

    Raises:
        LeftOut: the video cannot be used; neither file is written or replaced.
    """
    limits = Limits(params.timeout_seconds, params.memory_limit_mib << 20)
    seconds = probe(video, limits).seconds
    with ExitStack() as stack:
        sound = pictures = None
        archive = None
        if audio is not None:
            sound = SoundOutput(stack.enter_context(replacing(audio)), params.sample_rate)
        if frames is not None:
            pictures = PictureOutput(params.frame_rate, params.frame_height, params.jpeg_quality)
            archive = stack.enter_context(replacing(frames))
        jpegs = decode(video, seconds, sound, pictures, limits)
        count = pack(jpegs, archive)
        if pictures is not None and count < max(1, pictures.count(seconds) - 1):
            raise LeftOut(
                f"damaged: only {count / params.frame_rate:.1f} of {seconds:.1f} s of pictures "
                "could be decoded"
            )
        samples = None if sound is None else _check_sound(sound, seconds)
    return Extraction(samples, None if frames is None else count)


def _run_task(task: _Task, params: ExtractParams) -> _TaskResult:
    """Extract one video, on any machine, and hash it if its hash is not known."""
    if task.tools != _tools():
        raise UserError(
            f"ffmpeg on {socket.gethostname()}: the version differs from that of the machine that "
            f"started the run ({_tools()}, there {task.tools}); install the same on all workers"
        )
    stamp, digest = None, task.hash
    if digest is None:
        stamp, digest = stamp_and_hash(task.video)
    try:
        extraction: Extraction | LeftOut = extract_video(
            task.video, task.audio, task.frames, params
        )
    except LeftOut as reason:
        extraction = reason
    return _TaskResult(digest, stamp, extraction)


def _record(task: _Task, result: _TaskResult, made_with: dict[Manifest, str]) -> None:
    """Write the result into the manifests: into both, if the video was left out."""
    extraction = result.extraction
    sounds, pictures = made_with
    for manifest, path in ((sounds, task.audio), (pictures, task.frames)):
        row = partial(ManifestRow, result.hash, made_with[manifest])
        if isinstance(extraction, LeftOutForNow):
            manifest.rows.pop(task.name, None)
        elif isinstance(extraction, LeftOut):
            manifest.rows[task.name] = row(left_out=str(extraction))
        elif path is not None:
            length = extraction.samples if manifest is sounds else extraction.frames
            assert length is not None
            manifest.rows[task.name] = row(length, path.stat().st_size)


def _find(videos: Path) -> dict[str, Path]:
    """Return the videos by `<category>/<id>`, sorted."""
    return {
        f"{path.parent.name}/{path.stem}": path
        for path in sorted(videos.glob("*/*.mp4"))
        # A broken link counts too: it is reported as unreadable.
        if not path.name.startswith(".") and (path.is_file() or path.is_symlink())
    }


def _tools() -> str:
    return f"recipe={RECIPE} ffmpeg={ffmpeg.version()}"


def _stale(
    found: dict[str, Path], made_with: dict[Manifest, str], cache: HashCache, workers: Workers
) -> list[_Task]:
    """Return the tasks to run, and leave only the rows of up-to-date files in the manifests."""
    for manifest, tools in made_with.items():
        manifest.rows = {
            name: row
            for name, row in manifest.rows.items()
            if name in found and row.made_with == tools and manifest.is_intact(name)
        }
    # The other videos are extracted anyway, and are hashed then.
    to_hash = [
        video
        for name, video in found.items()
        if any(name in manifest.rows for manifest in made_with)
    ]
    # A video that cannot be read has no hash; its task reports the reason.
    hashes = {
        video: digest
        for video, digest in cache.hash_files(to_hash, workers)
        if isinstance(digest, str)
    }
    tasks = []
    for name, video in found.items():
        digest = hashes.get(video)
        rows = [manifest.rows.get(name) for manifest in made_with]
        fresh = [row is not None and row.video == digest for row in rows]
        # A video is left out of both folders or of none.
        if any(row is not None and row.left_out for row in rows) and not all(fresh):
            fresh = [False, False]
        for manifest, is_fresh in zip(made_with, fresh, strict=True):
            if not is_fresh:
                manifest.rows.pop(name, None)
        if not all(fresh):
            audio, frames = (
                None if is_fresh else manifest.path(name)
                for manifest, is_fresh in zip(made_with, fresh, strict=True)
            )
            tasks.append(_Task(name, video, digest, audio, frames, _tools()))
    return tasks


def _check_sound(sound: SoundOutput, seconds: float) -> int:
    """Return the number of samples; raise `LeftOut` if the sound is incomplete or silent."""
    try:
        with wave.open(str(sound.path), "rb") as file:
            samples, peak = file.getnframes(), 0
            while block := file.readframes(BLOCK_SAMPLES):
                peak = max(peak, int(np.abs(np.frombuffer(block, "<i2").astype(np.int32)).max()))
    except (OSError, EOFError, wave.Error):
        samples, peak = 0, 0
    if samples < sound.samples(seconds):
        raise LeftOut(
            f"damaged: only {samples / sound.sample_rate:.1f} of {seconds:.1f} s of sound "
            "could be decoded"
        )
    if peak < 10 ** (SILENCE_DBFS / 20) * 2**15:
        raise LeftOut(f"silent: no sample reaches {SILENCE_DBFS:g} dB of full scale")
    return samples


def _summary(
    params: ExtractParams, sounds: Manifest, pictures: Manifest, left_out: dict[str, str]
) -> dict[str, Any]:
    wavs, zips = sounds.done(), pictures.done()
    samples = sum(row.length for row in wavs.values())
    categories = Counter(name.partition("/")[0] for name in wavs)
    return {
        "videos": len(wavs),
        "audio_hours": round(samples / params.sample_rate / 3600, 4),
        "frames": sum(row.length for row in zips.values()),
        "bytes": {
            "audio": sum(row.bytes for row in wavs.values()),
            "frames": sum(row.bytes for row in zips.values()),
        },
        "category": dict(sorted(categories.items())),
        "left_out": {
            "count": len(left_out),
            "reasons": dict(sorted(left_out.items())[:REASONS_SHOWN]),
        },
    }
