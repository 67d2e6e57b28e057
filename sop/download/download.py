"""Download all videos of the chosen source as `<category>/<id>.mp4`; keep those up to date."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sop.download.fetch import NoAccess
from sop.download.manifest import (
    DONE,
    FAILED,
    MANIFEST_NAME,
    SPLITS_NAME,
    UNAVAILABLE,
    VideoRow,
    read_manifest,
    write_manifest,
)
from sop.download.sources import VIDEO_SUFFIX, CachePaths, SourceVideo, VideoSource, open_source
from sop.media.decoding import Probe
from sop.params import Params
from sop.runtime.errors import LeftOut, LeftOutForNow, NoNetwork, UserError
from sop.runtime.files import PeriodicSaver, make_folder, remove_others, remove_partials, write_json
from sop.runtime.parallel import map_unordered
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

# The network counts as lost when this number of videos in a row, or all of a shorter list, could
# not be reached. A list of very few videos may consist of dead servers.
LOST_NETWORK = 10
VERY_FEW = 2

# Sources of the files in `dataset.local.folder`.
LOCAL_SOURCES = ("local", "urmp")

# The metrics are kept in git: they contain at most this number of reasons. The manifest has all.
REASONS_SHOWN = 100


def download(params: Params, folder: Path, caches: CachePaths) -> dict[str, Any]:
    """Update `folder`; the result equals a download into an empty folder.

    Args:
        params: all of params.yaml.
        folder: folder for `<category>/<id>.mp4` and the manifest.
        caches: where a source keeps its own files.

    Returns:
        Counts, bytes and reasons, for metrics/download.json.

    Raises:
        UserError: the source is empty, too few videos were downloaded, or there is no network.
    """
    check_apart(params, folder)
    source = open_source(params, caches)
    make_folder(folder)
    remove_partials(folder)
    rows = _kept(source, folder)
    # Saved before any file is replaced, so that no row describes another file.
    write_manifest(rows, folder)
    kept = {(row.category, row.id) for row in rows}
    missing = [video for video in source.videos if (video.category, video.id) not in kept]
    for row in source.unusable:
        logger.info(f"left out: {row.source}: {row.reason}")
    rows += source.unusable
    saver = PeriodicSaver(lambda: write_manifest(rows, folder))
    unreached, limit = 0, min(LOST_NETWORK, max(len(missing), VERY_FEW + 1))
    work = partial(_make, source.make, folder)
    made = map_unordered(work, missing, source.workers, source.processes, source.action)
    with saver.saving_at_the_end():
        for wanted, result in progress(made, source.action, len(missing)):
            if isinstance(result, LeftOut):
                logger.info(f"left out: {wanted.shown_as}: {result}")
                status = FAILED if isinstance(result, LeftOutForNow) else UNAVAILABLE
                access = source.access if isinstance(result, NoAccess) else ""
                rows.append(_row(wanted, status, reason=str(result), access=access))
            else:
                rows.append(result)
            saver.save_if_due()
            unreached = unreached + 1 if isinstance(result, NoNetwork) else 0
            if source.remote and unreached == limit:
                done = sum(row.status == DONE for row in rows)
                raise UserError(
                    f"no network: {unreached} videos in a row could not be reached ({result}); "
                    f"{done} of {len(source.videos)} are downloaded and kept, run again when it "
                    "is back"
                )
    _check_enough(source, rows, params.dataset.source)
    done_rows = [row for row in rows if row.status == DONE]
    keep = {file for row in done_rows for file in _files(source, row, folder)}
    if source.splits:
        write_json(folder / SPLITS_NAME, _by_side(source.splits))
        keep.add(folder / SPLITS_NAME)
    remove_others(folder, keep | {folder / MANIFEST_NAME})
    failed = sum(row.status == FAILED for row in rows)
    if failed:
        logger.info(
            f"{failed} of {len(rows)} videos failed temporarily; "
            "`dvc repro --force download` tries them again"
        )
    return _summary(params.dataset.source, rows, source.duets)


def check_apart(params: Params, folder: Path) -> None:
    """Refuse to write where the user's own videos are: other files there would be removed."""
    own = Path(params.dataset.local.folder)
    if params.dataset.source in LOCAL_SOURCES and own.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"dataset.local.folder: {own} is where this stage writes; "
            "move your videos to a folder outside of it"
        )


def _kept(source: VideoSource, folder: Path) -> list[VideoRow]:
    """Return the rows of videos that are up to date or known to be unavailable."""
    wanted = {(video.category, video.id): video.made_from for video in source.videos}
    # Reading a local file again costs nothing; asking a server for a removed video does.
    keep_unavailable = source.remote and not source.retry_unavailable

    def is_current(row: VideoRow) -> bool:
        video, *others = _files(source, row, folder)
        is_final = row.status == UNAVAILABLE and row.access in ("", source.access)
        return (keep_unavailable and is_final) or (
            row.status == DONE
            and all(file.is_file() for file in (video, *others))
            and video.stat().st_size == row.bytes
        )

    return [
        row
        for row in read_manifest(folder)
        if wanted.get((row.category, row.id)) == row.made_from and is_current(row)
    ]


def _files(source: VideoSource, video: VideoRow, folder: Path) -> list[Path]:
    """Return the files of a video, the video itself first."""
    suffixes = source.suffixes[video.category, video.id]
    return [folder / video.category / f"{video.id}{suffix}" for suffix in suffixes]


def _make(make: Callable[[Any, Path], Probe], folder: Path, video: SourceVideo) -> VideoRow:
    path = folder / video.category / f"{video.id}{VIDEO_SUFFIX}"
    found = make(video.recipe, path)
    size = path.stat().st_size
    return _row(video, DONE, seconds=round(found.seconds, 3), bytes=size, format=found.format)


def _row(video: SourceVideo, status: str, **values: Any) -> VideoRow:
    source, made_from = video.shown_as, video.made_from
    return VideoRow(video.category, video.id, status, **values, source=source, made_from=made_from)


def _by_side(splits: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        side: sorted(name for name, of in splits.items() if of == side)
        for side in sorted(set(splits.values()))
    }


def _check_enough(source: VideoSource, rows: list[VideoRow], name: str) -> None:
    missing = [row for row in rows if row.status != DONE]
    done, listed = len(rows) - len(missing), len(rows)
    if done and done >= source.min_success_fraction * listed:
        return
    message = f"dataset.source {name}: {done} of {listed} videos downloaded; "
    if source.min_success_fraction:
        message += (
            f"dataset.fetch.min_success_fraction requires {source.min_success_fraction:.0%}; "
        )
    first = min(missing, default=None)
    example = f"for example {first.source}: {first.reason}" if first else "the list is empty"
    raise UserError(message + example)


def _summary(
    source: str, rows: list[VideoRow], duets: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    counts = Counter((row.category, row.status) for row in rows)
    return {
        "source": source,
        "listed": len(rows),
        "videos": sum(row.status == DONE for row in rows),
        "hours": round(sum(row.seconds for row in rows) / 3600, 4),
        "bytes": sum(row.bytes for row in rows),
        "category": {
            category: {status: counts[category, status] for status in (DONE, UNAVAILABLE, FAILED)}
            for category in sorted({row.category for row in rows})
        },
        "duets": dict(sorted(duets.items())),
        UNAVAILABLE: _reasons(rows, UNAVAILABLE),
        FAILED: _reasons(rows, FAILED),
    }


def _reasons(rows: Iterable[VideoRow], status: str) -> dict[str, Any]:
    reasons = {row.source: row.reason for row in sorted(rows) if row.status == status}
    return {"count": len(reasons), "reasons": dict(list(reasons.items())[:REASONS_SHOWN])}
