"""Extract the sound and the frames of videos: a WAV and a zip of JPEGs for each video.

With `extract.motion_rate` also a motion track for each: small luminance pictures at a higher rate.
"""

import logging
import socket
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sop.dataset.clips import MANIFEST_NAME, pack, pack_motion
from sop.extract.manifest import Manifest, ManifestRow
from sop.extract.stills import StillMeter
from sop.media import binary
from sop.media.decoding import SILENCE_DBFS, MotionOutput, PictureOutput, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.runtime.files import (
    PeriodicSaver,
    is_litter,
    remove_others,
    remove_partials,
    replacing,
    write_json,
    writing,
)
from sop.runtime.hashes import FileStamp, HashCache, stamp_and_hash
from sop.runtime.parallel import Workers, map_unordered
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

# Increase it when the same video and parameters should give other files than before.
RECIPE = 2

BLOCK_SAMPLES = 1 << 18

# Of the sounds, of the pictures, and of the motion tracks if there are any.
_Manifests = tuple[Manifest, ...]

# The metrics are kept in git: they contain at most this number of reasons.
REASONS_SHOWN = 100


class Extraction(NamedTuple):
    """Lengths of the extracted files; None for a file that was not requested."""

    samples: int | None
    frames: int | None
    motion_frames: int | None = None
    still: float = 0.0
    """Share of the frames that equal the one before, if it is a still or slideshow; otherwise 0."""


class _Task(NamedTuple):
    """A video with a stale or missing file."""

    name: str
    video: Path
    hash: str | None
    """SHA-256 of the video, or None if the task has to compute it."""
    files: tuple[Path | None, ...]
    """The file of each manifest to write; None for one that is up to date."""
    tools: str
    """Versions that the worker must have."""


def extract(
    params: ExtractParams,
    videos: Path,
    audio: Path,
    frames: Path,
    workers: Workers,
    hashes: Path,
    motion: Path | None = None,
) -> dict[str, Any]:
    """Update the folders of files; the result equals an extraction into empty folders.

    Args:
        params: rates, height, quality and limits.
        videos: folder of `<category>/<id>.mp4`.
        audio: folder for `<category>/<id>.wav`.
        frames: folder for `<category>/<id>.zip`.
        workers: number and place of the workers.
        hashes: database of the hashes of the videos; created if missing.
        motion: folder for `<category>/<id>.npy`, the motion tracks; without `params.motion_rate`
            it gets an empty manifest only. None without that parameter leaves tracks as they are.

    Returns:
        Counts, lengths, bytes and reasons, for metrics/extract.json.

    Raises:
        UserError: no video is usable.
    """
    found = _find(videos)
    if not found:
        raise UserError(f"{videos}: contains no videos; run `dvc repro download`")
    for folder in (audio, frames, motion):
        if folder is not None:
            remove_partials(folder)
    sounds, pictures = (
        Manifest(audio, ".wav", f"sample_rate={params.sample_rate} {_tools()}"),
        Manifest(
            frames,
            ".zip",
            f"frame_rate={params.frame_rate:g} frame_height={params.frame_height} "
            f"jpeg_quality={params.jpeg_quality} {_tools()}",
        ),
    )
    tracks = _tracks(motion, params)
    manifests = (sounds, pictures) if tracks is None else (sounds, pictures, tracks)

    def save() -> None:
        for manifest in manifests:
            manifest.save()

    with HashCache(hashes) as cache:
        tasks = _stale(found, manifests, cache, workers)
        # Saved before any file is replaced, so that no row describes another file.
        save()
        failed: dict[str, str] = {}
        saver = PeriodicSaver(save)
        work = partial(_run_task, params=params)
        made = map_unordered(work, tasks, workers)
        with saver.saving_at_the_end():
            for task, result in progress(made, "extract", len(tasks)):
                stamp, digest, extraction = (
                    (None, "", result) if isinstance(result, LeftOut) else result
                )
                if stamp is not None:
                    cache.remember(task.video, stamp, digest)
                if isinstance(extraction, LeftOut):
                    logger.info(f"left out: {task.video}: {extraction}")
                if isinstance(extraction, LeftOutForNow):
                    failed[task.name] = str(extraction)
                _record(task, digest, extraction, manifests)
                saver.save_if_due()
    for manifest in manifests:
        manifest.remove_unlisted()
    left_out = {name: row.left_out for name, row in sounds.rows.items() if row.left_out} | failed
    if not sounds.done():
        name, first = min(left_out.items())
        raise UserError(
            f"{videos}: none of {len(found)} videos is usable, for example {name}: {first}; "
            "see the lines above and replace the videos"
        )
    stills = {name: row.still for name, row in pictures.done().items() if row.still}
    if stills:
        name, share = max(stills.items(), key=lambda still: still[1])
        logger.info(
            f"extract: stills or slideshows: {len(stills)} of {len(pictures.done())} videos, for "
            f"example {name}: {_describe(share)}; index.stills says whether they are used"
        )
    return _summary(params, sounds, pictures, tracks, left_out, stills)


def _describe(still: float) -> str:
    return f"{still:.0%} of its pictures equal the one before"


def extract_video(
    video: Path,
    audio: Path | None,
    frames: Path | None,
    params: ExtractParams,
    motion: Path | None = None,
) -> Extraction:
    """Decode one video once into its files.

    Args:
        video: the file.
        audio: WAV to write, or None.
        frames: zip to write, or None.
        params: rates, heights, quality and limits.
        motion: motion track to write, or None; it needs `params.motion_rate`.

    Raises:
        LeftOut: the video cannot be used; no file is written or replaced.
    """
    limits = Limits.of_parameters(params.timeout_seconds, params.memory_limit_mib)
    found = probe(video, limits)
    seconds = found.seconds
    for note in found.notes:
        logger.info(f"{video}: {note}")
    with ExitStack() as stack:
        sound = pictures = archive = luminance = track = None
        if audio is not None:
            sound = SoundOutput(stack.enter_context(replacing(audio)), params.sample_rate)
        if motion is not None:
            track = stack.enter_context(replacing(motion))
            luminance = _luminance(track if sound is None else sound.path, params)
            stack.callback(luminance.path.unlink, missing_ok=True)
        # The innermost, which reports what `pack` cannot write.
        if frames is not None:
            pictures = PictureOutput(params.frame_rate, params.frame_height, params.jpeg_quality)
            archive = stack.enter_context(replacing(frames))
        meter = StillMeter()
        jpegs = meter.watch(decode(video, found, sound, pictures, limits, luminance))
        # ffmpeg writes the sound, `pack` the pictures: they may be on two disks.
        written = audio or motion
        count = pack(jpegs if written is None else _naming(written, jpegs), archive)
        if pictures is not None and count < max(1, pictures.count(seconds) - 1):
            raise LeftOut(
                f"damaged: only {count / params.frame_rate:.1f} of {seconds:.1f} s of pictures "
                "could be decoded"
            )
        samples = None if sound is None else _check_sound(sound, seconds)
        moving = None
        if motion is not None and track is not None and luminance is not None:
            with writing(motion):
                moving = pack_motion(luminance.path, track)
            _check_motion(luminance, moving, seconds, params)
    still = round(meter.share, 4) if meter.is_still else 0.0
    return Extraction(samples, None if frames is None else count, moving, still)


def _luminance(beside: Path, params: ExtractParams) -> MotionOutput:
    """Return the output of a motion track before it is packed.

    Args:
        beside: temporary path that is replaced or removed later. The output is on the same disk,
            so that ffmpeg writes on one disk only, and an error can name it.
        params: rate and height.
    """
    assert params.motion_rate is not None
    return MotionOutput(beside.with_suffix(".y4m"), params.motion_rate, params.motion_height)


def _check_motion(
    luminance: MotionOutput, count: int, seconds: float, params: ExtractParams
) -> None:
    """Raise `LeftOut` if more is missing from a motion track than one of the JPEGs may be."""
    spared = max(1, ceil(luminance.frame_rate / params.frame_rate))
    if count < max(1, luminance.count(seconds) - spared):
        raise LeftOut(
            f"damaged: only {count / luminance.frame_rate:.1f} of {seconds:.1f} s of pictures "
            "could be decoded"
        )


def _naming(written: Path, jpegs: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pictures, and report that the file written meanwhile finds no room."""
    with writing(written):
        yield from jpegs


def _run_task(
    task: _Task, params: ExtractParams
) -> tuple[FileStamp | None, str, Extraction | LeftOut]:
    """Extract one video, on any machine, and hash it if its hash is not known.

    Returns:
        The stamp of the video before it was hashed, or None if the hash was known; the hash; and
        the result.
    """
    if task.tools != _tools():
        raise UserError(
            f"ffmpeg on {socket.gethostname()}: the version differs from that of the machine that "
            f"started the run ({_tools()}, there {task.tools}); install the same on all workers"
        )
    stamp, digest = (None, task.hash) if task.hash else stamp_and_hash(task.video)
    try:
        audio, frames, *motion = task.files
        return stamp, digest, extract_video(task.video, audio, frames, params, *motion)
    except LeftOut as reason:
        return stamp, digest, reason


def _record(
    task: _Task, digest: str, extraction: Extraction | LeftOut, manifests: _Manifests
) -> None:
    """Write the result into the manifests: into all, if the video was left out."""
    for number, (manifest, path) in enumerate(zip(manifests, task.files, strict=True)):
        row = partial(ManifestRow, digest, manifest.made_with)
        if isinstance(extraction, LeftOutForNow):
            manifest.rows.pop(task.name, None)
        elif isinstance(extraction, LeftOut):
            manifest.rows[task.name] = row(left_out=str(extraction))
        elif path is not None:
            done = row(int(extraction[number] or 0), path.stat().st_size)
            is_pictures = number == 1
            manifest.rows[task.name] = replace(done, still=extraction.still * is_pictures)


def _find(videos: Path) -> dict[str, Path]:
    """Return the videos by `<category>/<id>`, sorted."""
    return {
        f"{path.parent.name}/{path.stem}": path
        for path in sorted(videos.glob("*/*.mp4"))
        # A broken link counts too: it is reported as unreadable.
        if not is_litter(path) and (path.is_file() or path.is_symlink())
    }


def _tracks(motion: Path | None, params: ExtractParams) -> Manifest | None:
    """Return the manifest of the motion tracks, or None, and no tracks, without them."""
    if params.motion_rate is None:
        if motion is not None:
            # The folder is an output of the stage, which must exist.
            write_json(motion / MANIFEST_NAME, {})
            remove_others(motion, {motion / MANIFEST_NAME})
        return None
    if motion is None:
        raise ValueError("extract.motion_rate: needs a folder for the motion tracks")
    made_with = f"motion_rate={params.motion_rate:g} motion_height={params.motion_height}"
    return Manifest(motion, ".npy", f"{made_with} {_tools()}")


def _tools() -> str:
    return f"recipe={RECIPE} ffmpeg={binary.version()}"


def _stale(
    found: dict[str, Path], manifests: _Manifests, cache: HashCache, workers: Workers
) -> list[_Task]:
    """Return the tasks to run, and leave only the rows of up-to-date files in the manifests."""
    for manifest in manifests:
        manifest.rows = {
            name: row
            for name, row in manifest.rows.items()
            if name in found and row.made_with == manifest.made_with and manifest.is_intact(name)
        }
    # The other videos are extracted anyway, and are hashed then.
    to_hash = [found[name] for name in found if any(name in m.rows for m in manifests)]
    # A video that cannot be read has no hash; its task reports the reason.
    hashes = {
        video: digest
        for video, digest in cache.hash_files(to_hash, workers)
        if isinstance(digest, str)
    }
    tasks = []
    for name, video in found.items():
        digest = hashes.get(video)
        rows = [manifest.rows.get(name) for manifest in manifests]
        fresh = [row is not None and row.video == digest for row in rows]
        # A video is left out of all folders or of none.
        if any(row is not None and row.left_out for row in rows) and not all(fresh):
            fresh = [False] * len(manifests)
        stale = [m for m, is_fresh in zip(manifests, fresh, strict=True) if not is_fresh]
        for manifest in stale:
            manifest.rows.pop(name, None)
        if stale:
            files = tuple(m.path(name) if m in stale else None for m in manifests)
            tasks.append(_Task(name, video, digest, files, _tools()))
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
    params: ExtractParams,
    sounds: Manifest,
    pictures: Manifest,
    tracks: Manifest | None,
    left_out: dict[str, str],
    stills: dict[str, float],
) -> dict[str, Any]:
    wavs, zips = sounds.done(), pictures.done()
    npys = None if tracks is None else tracks.done()
    samples = sum(row.length for row in wavs.values())
    categories = Counter(name.partition("/")[0] for name in wavs)
    shown = sorted(stills.items())[:REASONS_SHOWN]
    return {
        "videos": len(wavs),
        "audio_hours": round(samples / params.sample_rate / 3600, 4),
        "frames": sum(row.length for row in zips.values()),
        **({} if npys is None else {"motion_frames": sum(row.length for row in npys.values())}),
        "bytes": {
            "audio": sum(row.bytes for row in wavs.values()),
            "frames": sum(row.bytes for row in zips.values()),
            **({} if npys is None else {"motion": sum(row.bytes for row in npys.values())}),
        },
        "category": dict(sorted(categories.items())),
        "left_out": {
            "count": len(left_out),
            "reasons": dict(sorted(left_out.items())[:REASONS_SHOWN]),
        },
        "stills": {
            "count": len(stills),
            "reasons": {name: _describe(still) for name, still in shown},
        },
    }
