"""All videos of the chosen source, as `<category>/<id>.mp4`, made again only when stale."""

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from sop.download.sources import VIDEO_ENDING, Places, Source, Wanted, open_source
from sop.media.decoding import Probe
from sop.params import Params
from sop.runtime.errors import LeftOut, LeftOutForNow, NoNetwork, UserError
from sop.runtime.files import PeriodicSaver, remove_empty_folders, remove_partials, write_text
from sop.runtime.parallel import map_unordered
from sop.runtime.progress import progress

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.csv"

DONE, UNAVAILABLE, FAILED = "done", "unavailable", "failed"

# So many videos in a row that were not reached, or all there are if they are more than a few,
# mean that nothing is; a few may well lie on servers that are gone.
LOST_NETWORK = 10
A_FEW = 2

# Of so many the reason is in the metrics, which are kept in git; of all it is in the manifest.
REASONS_SHOWN = 100


@dataclass(frozen=True, order=True)
class VideoRow:
    """A row of the manifest: one video of the source."""

    category: str
    id: str
    status: str
    """`done`, `unavailable` (for good) or `failed` (for now)."""
    reason: str = ""
    """Why it is not there."""
    seconds: float = 0.0
    bytes: int = 0
    format: str = ""
    """Codecs, size and rates."""
    source: str = ""
    """The address or file that it comes from."""
    made_from: str = ""
    """What its bytes follow from."""


COLUMNS = {
    column.name: {"seconds": float, "bytes": int}.get(column.name, str)
    for column in fields(VideoRow)
}


def download(params: Params, folder: Path, places: Places) -> dict[str, Any]:
    """Bring `folder` to what it would be if made from nothing.

    Args:
        params: all of params.yaml.
        folder: for `<category>/<id>.mp4` and the manifest, a CSV with a row per video.
        places: where a source keeps what is not the result.

    Returns:
        Counts, bytes and reasons, for metrics/download.json.

    Raises:
        UserError: there is nothing to begin with, too little came of it, or there is no network.
    """
    _check_apart(params, folder)
    source = open_source(params, places)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    rows = _kept(source, folder)
    # Before anything is replaced: a row must never speak of another file than the one there.
    _save(rows, folder)
    kept = {(row.category, row.id) for row in rows}
    missing = [video for video in source.wanted if (video.category, video.id) not in kept]
    for absent in source.absent:
        logger.info(f"left out: {absent.shown_as}: {absent.reason}")
        rows.append(
            VideoRow(absent.category, absent.id, UNAVAILABLE, absent.reason, source=absent.shown_as)
        )
    saver = PeriodicSaver(lambda: _save(rows, folder))
    network = _Network(source, len(missing))
    made = map_unordered(
        partial(_make, source.make, folder), missing, source.workers, source.processes
    )
    for video, result in progress(made, "download", len(missing)):
        rows.append(_row(video, result))
        saver.save_if_due()
        if isinstance(result, LeftOut):
            logger.info(f"left out: {video.shown_as}: {result}")
        if network.is_lost(result):
            _save(rows, folder)
            raise UserError(_no_network(source, rows, result))
    _save(rows, folder)
    _check_enough(source, rows, params.dataset.source)
    _sweep(source, rows, folder)
    failed = sum(row.status == FAILED for row in rows)
    if failed:
        logger.info(
            f"{failed} of {len(rows)} videos failed for now; "
            "`dvc repro --force download` asks for them again"
        )
    return _summary(params.dataset.source, rows)


class _Network:
    """Tells single videos that cannot be reached from a network that is gone."""

    def __init__(self, source: Source, videos: int) -> None:
        self._most = min(LOST_NETWORK, max(videos, A_FEW + 1)) if source.remote else None
        self._in_a_row = 0

    def is_lost(self, result: object) -> bool:
        """Whether this result and those before it look like it."""
        self._in_a_row = self._in_a_row + 1 if isinstance(result, NoNetwork) else 0
        return self._in_a_row == self._most


def _no_network(source: Source, rows: list[VideoRow], last: object) -> str:
    done = sum(row.status == DONE for row in rows)
    return (
        f"no network: one video after the other could not be reached ({last}); {done} of "
        f"{len(source.wanted)} are there and stay, run again when it is back"
    )


def read_manifest(folder: Path) -> list[VideoRow]:
    """The rows of a folder's manifest; of one that is missing or damaged there are none."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
        table = csv.DictReader(io.StringIO(text), strict=True)
        return [VideoRow(*(kind(row[name]) for name, kind in COLUMNS.items())) for row in table]
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return []


def _check_apart(params: Params, folder: Path) -> None:
    """Refuse a user's folder in which what belongs to no video would be removed."""
    if params.dataset.source == "local":
        own = Path(params.dataset.local.folder)
        if own.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"dataset.local.folder: {own} is where this stage writes; "
                "move your videos to a folder outside of it"
            )


def _kept(source: Source, folder: Path) -> list[VideoRow]:
    """The rows of videos that are as they would be made now, or need not be asked for again."""
    wanted = {(video.category, video.id): video.made_from for video in source.wanted}
    return [
        row
        for row in read_manifest(folder)
        if wanted.get((row.category, row.id)) == row.made_from
        and (_is_whole(source, row, folder) or _is_gone(source, row))
    ]


def _is_whole(source: Source, row: VideoRow, folder: Path) -> bool:
    places = _places(source, row, folder)
    return (
        row.status == DONE
        and all(place.is_file() for place in places)
        and places[0].stat().st_size == row.bytes
    )


def _is_gone(source: Source, row: VideoRow) -> bool:
    # To look at a file of the user's again costs nothing, to ask a server for what is gone does.
    return row.status == UNAVAILABLE and source.remote and not source.retry_unavailable


def _places(source: Source, video: VideoRow | Wanted, folder: Path) -> list[Path]:
    """The files of a video, itself first."""
    return [folder / video.category / f"{video.id}{ending}" for ending in source.endings]


def _make(make: Callable[[Wanted, Path], Probe], folder: Path, video: Wanted) -> tuple[Probe, int]:
    """Make a video; what it holds, and its size in bytes."""
    found = make(video, folder)
    return found, (folder / video.category / f"{video.id}{VIDEO_ENDING}").stat().st_size


def _row(video: Wanted, result: tuple[Probe, int] | LeftOut) -> VideoRow:
    row = partial(
        VideoRow, video.category, video.id, source=video.shown_as, made_from=video.made_from
    )
    if isinstance(result, LeftOut):
        status = FAILED if isinstance(result, LeftOutForNow) else UNAVAILABLE
        return row(status=status, reason=str(result))
    found, size = result
    return row(status=DONE, seconds=round(found.seconds, 3), bytes=size, format=found.format)


def _save(rows: list[VideoRow], folder: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in sorted(rows))
    write_text(folder / MANIFEST_NAME, text.getvalue())


def _sweep(source: Source, rows: list[VideoRow], folder: Path) -> None:
    """Remove what belongs to no video of the source."""
    done = [row for row in rows if row.status == DONE]
    keep = {place for row in done for place in _places(source, row, folder)}
    keep.add(folder / MANIFEST_NAME)
    for path in list(folder.rglob("*")):
        if path not in keep and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    remove_empty_folders(folder)


def _check_enough(source: Source, rows: list[VideoRow], name: str) -> None:
    absent = [row for row in rows if row.status != DONE]
    done, listed = len(rows) - len(absent), len(rows)
    if done and done >= source.min_success_fraction * listed:
        return
    needed = f"; dataset.fetch.min_success_fraction asks for {source.min_success_fraction:.0%}"
    first = min(absent, default=None)
    raise UserError(
        f"dataset.source {name}: {done} of {listed} videos are there"
        f"{needed if source.min_success_fraction else ''}; "
        + (f"{first.source}, for one: {first.reason}" if first else "the list is empty")
    )


def _summary(source: str, rows: list[VideoRow]) -> dict[str, Any]:
    category: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys((DONE, UNAVAILABLE, FAILED), 0)
    )
    for row in sorted(rows):
        category[row.category][row.status] += 1
    return {
        "source": source,
        "listed": len(rows),
        "videos": sum(row.status == DONE for row in rows),
        "hours": round(sum(row.seconds for row in rows) / 3600, 4),
        "bytes": sum(row.bytes for row in rows),
        "category": dict(category),
        UNAVAILABLE: _reasons(row for row in rows if row.status == UNAVAILABLE),
        FAILED: _reasons(row for row in rows if row.status == FAILED),
    }


def _reasons(rows: Iterable[VideoRow]) -> dict[str, Any]:
    reasons = {row.source: row.reason for row in sorted(rows)}
    return {"count": len(reasons), "reasons": dict(list(reasons.items())[:REASONS_SHOWN])}
