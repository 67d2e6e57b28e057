"""Videos to sound and frames: a WAV and a zip of JPEGs for each, made again only when stale."""

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
from sop.extract.manifest import Manifest, Row
from sop.media import ffmpeg
from sop.media.decoding import PictureOutput, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut, LeftOutForNow, UserError
from sop.runtime.files import PeriodicSaver, remove_empty_folders, remove_partials, replacing
from sop.runtime.hashes import FileStamp, HashCache, file_stamp, sha256
from sop.runtime.parallel import Workers, map_unordered
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

# Raise it when the same video and parameters should become other files than before.
RECIPE = 1

# A video whose loudest sample is below this holds no sound worth learning from.
SILENCE_DBFS = -70.0

BLOCK_SAMPLES = 1 << 18

# Of so many the reason is in the metrics, which are kept in git.
REASONS_SHOWN = 100


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
    hash: str | None
    """None if it is still to be taken."""
    audio: Path | None
    frames: Path | None
    tools: str


@dataclass(frozen=True)
class _Outcome:
    hash: str
    stamp: FileStamp | None
    made: Made | LeftOut


def extract(
    params: ExtractParams, videos: Path, audio: Path, frames: Path, workers: Workers, hashes: Path
) -> dict[str, Any]:
    """Bring `audio` and `frames` to what they would be if made from nothing.

    Args:
        params: rates, height, quality and limits.
        videos: folder of `<category>/<id>.mp4`.
        audio: folder for `<category>/<id>.wav`.
        frames: folder for `<category>/<id>.zip`.
        workers: who works.
        hashes: database of the hashes of videos; made if missing.

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
    with HashCache(hashes) as known:
        jobs = _stale(found, made_with, known, workers)
        # Before anything is replaced: a row must never speak of another file than the one there.
        for manifest in made_with:
            manifest.save()
        failed: dict[str, str] = {}
        savers = [PeriodicSaver(manifest.save) for manifest in made_with]
        work = partial(_extract_job, params=params)
        for job, outcome in progress(map_unordered(work, jobs, workers), "extract", len(jobs)):
            if isinstance(outcome, LeftOut):
                outcome = _Outcome("", None, outcome)
            if outcome.stamp is not None:
                known.remember(job.video, outcome.stamp, outcome.hash)
            if isinstance(outcome.made, LeftOut):
                logger.info(f"left out: {job.video}: {outcome.made}")
            if isinstance(outcome.made, LeftOutForNow):
                failed[job.name] = str(outcome.made)
            _note(job, outcome, made_with)
            for saver in savers:
                saver.save_if_due()
    for manifest in made_with:
        manifest.save()
        manifest.sweep()
        remove_empty_folders(manifest.folder)
    left_out = {name: row.left_out for name, row in sounds.rows.items() if row.left_out} | failed
    if not any(sounds.files()):
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
                f"damaged: pictures of only {count / params.frame_rate:.1f} of {seconds:.1f} s "
                "could be decoded"
            )
        samples = None if sound is None else _check_sound(sound, seconds)
    return Made(samples, None if frames is None else count)


def _extract_job(job: _Job, params: ExtractParams) -> _Outcome:
    """A job, wherever it is done; the video's hash is taken there too, if it is not known."""
    if job.tools != _tools():
        raise UserError(
            f"ffmpeg on {socket.gethostname()}: is another version than where the run was started "
            f"({_tools()}, there {job.tools}); all workers need the same"
        )
    stamp, digest = None, job.hash
    if digest is None:
        try:
            stamp, digest = file_stamp(job.video), sha256(job.video)
        except OSError as error:
            reason = LeftOutForNow(f"not readable ({error.strerror})")
            return _Outcome("", None, reason)
    try:
        made: Made | LeftOut = extract_video(job.video, job.audio, job.frames, params)
    except LeftOut as reason:
        made = reason
    return _Outcome(digest, stamp, made)


def _note(job: _Job, outcome: _Outcome, made_with: dict[Manifest, str]) -> None:
    """Write down what became of a video: of both its files, if it was left out."""
    made = outcome.made
    sounds, pictures = made_with
    for manifest, place in ((sounds, job.audio), (pictures, job.frames)):
        if isinstance(made, LeftOutForNow):
            manifest.rows.pop(job.name, None)
        elif isinstance(made, LeftOut):
            manifest.rows[job.name] = Row(outcome.hash, made_with[manifest], left_out=str(made))
        elif place is not None:
            length = made.samples if manifest is sounds else made.frames
            assert length is not None
            size = place.stat().st_size
            manifest.rows[job.name] = Row(outcome.hash, made_with[manifest], length, size)


def _find(videos: Path) -> dict[str, Path]:
    """The videos by `<category>/<id>`, in order."""
    return {
        f"{path.parent.name}/{path.stem}": path
        for path in sorted(videos.glob("*/*.mp4"))
        # A link to nowhere has its place too: it is reported.
        if not path.name.startswith(".") and (path.is_file() or path.is_symlink())
    }


def _tools() -> str:
    return f"recipe={RECIPE} ffmpeg={ffmpeg.version()}"


def _stale(
    found: dict[str, Path], made_with: dict[Manifest, str], known: HashCache, workers: Workers
) -> list[_Job]:
    """What there is to do; the manifests keep the rows of what there is not."""
    for manifest, tools in made_with.items():
        manifest.rows = {
            name: row
            for name, row in manifest.rows.items()
            if name in found and row.made_with == tools and manifest.is_whole(name)
        }
    # Only of what would not be made again anyway; of the others the hash is taken on the way.
    in_question = [
        video
        for name, video in found.items()
        if any(name in manifest.rows for manifest in made_with)
    ]
    hashes = _hashes(in_question, known, workers)
    jobs = []
    for name, video in found.items():
        digest = hashes.get(video)
        rows = [manifest.rows.get(name) for manifest in made_with]
        fresh = [row is not None and row.video == digest for row in rows]
        # What was left out for one reason is left out of both.
        if any(row is not None and row.left_out for row in rows) and not all(fresh):
            fresh = [False, False]
        for manifest, is_fresh in zip(made_with, fresh, strict=True):
            if not is_fresh:
                manifest.rows.pop(name, None)
        if not all(fresh):
            audio, frames = (
                None if is_fresh else manifest.place(name)
                for manifest, is_fresh in zip(made_with, fresh, strict=True)
            )
            jobs.append(_Job(name, video, digest, audio, frames, _tools()))
    return jobs


def _hashes(videos: list[Path], known: HashCache, workers: Workers) -> dict[Path, str]:
    """The hashes of videos; of one that cannot be read there is none, its extraction says why."""
    found = known.known(videos)
    for video, result in map_unordered(_hash, (v for v in videos if v not in found), workers):
        if not isinstance(result, LeftOut):
            stamp, digest = result
            known.remember(video, stamp, digest)
            found[video] = digest
    return found


def _hash(video: Path) -> tuple[FileStamp, str]:
    try:
        return file_stamp(video), sha256(video)
    except OSError as error:
        raise LeftOut(str(error)) from None


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
    samples = sum(row.length for row in sounds.files())
    names = [name for name, row in sounds.rows.items() if not row.left_out]
    categories = Counter(name.partition("/")[0] for name in names)
    return {
        "videos": len(names),
        "audio_hours": round(samples / params.sample_rate / 3600, 4),
        "frames": sum(row.length for row in pictures.files()),
        "bytes": {
            "audio": sum(row.bytes for row in sounds.files()),
            "frames": sum(row.bytes for row in pictures.files()),
        },
        "category": dict(sorted(categories.items())),
        "left_out": {
            "count": len(left_out),
            "reasons": dict(sorted(left_out.items())[:REASONS_SHOWN]),
        },
    }
