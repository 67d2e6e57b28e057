"""All videos of the chosen source, as `<category>/<id>.mp4`, made again only when stale."""

import csv
import io
import time
from collections import defaultdict
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from sop.dataset.parallel import each
from sop.dataset.sources import VIDEO_ENDING, Source, Wanted, open_source
from sop.errors import LeftOut, UserError
from sop.files import remove_empty_folders, remove_partials, write_text
from sop.params import Params
from sop.progress import say, track

MANIFEST_NAME = "manifest.csv"
LISTS = Path("data/lists")

DONE, LEFT_OUT = "done", "left_out"

# A kill costs no more than the work of so long.
SAVE_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True, order=True)
class VideoRow:
    """A row of the manifest: one video of the source."""

    category: str
    id: str
    status: str
    """`done` or `left_out`."""
    reason: str = ""
    """Why it was left out, with the file or address."""
    made_from: str = ""
    """What its bytes follow from."""
    bytes: int = 0


def download(params: Params, folder: Path, lists: Path = LISTS) -> dict[str, Any]:
    """Bring `folder` to what it would be if made from nothing.

    Args:
        params: all of params.yaml.
        folder: for `<category>/<id>.mp4` and the manifest, a CSV with a row per video.
        lists: folder where published lists are kept.

    Returns:
        Counts, bytes and reasons, for metrics/download.json.

    Raises:
        UserError: there is nothing to begin with, or too little came of it.
    """
    _check_apart(params, folder)
    source = open_source(params, lists)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    rows = _fresh(source, folder)
    # Before anything is replaced: a row must never speak of another file than the one there.
    _save(rows, folder)
    kept = {(row.category, row.id) for row in rows}
    missing = [video for video in source.wanted if (video.category, video.id) not in kept]
    reasons = {absent.shown_as: absent.reason for absent in source.absent}
    for shown_as, reason in reasons.items():
        say(f"left out: {shown_as}: {reason}")
    rows += [
        VideoRow(absent.category, absent.id, LEFT_OUT, f"{absent.shown_as}: {absent.reason}")
        for absent in source.absent
    ]
    saved = time.monotonic()
    made = each(partial(_make, source, folder), missing, source.workers, source.processes)
    for video, size in track(made, "download", len(missing)):
        if isinstance(size, LeftOut):
            reasons[video.shown_as] = str(size)
            say(f"left out: {video.shown_as}: {size}")
            rows.append(VideoRow(video.category, video.id, LEFT_OUT, f"{video.shown_as}: {size}"))
        else:
            rows.append(VideoRow(video.category, video.id, DONE, "", video.made_from, size))
        if time.monotonic() - saved >= SAVE_INTERVAL_SECONDS:
            _save(rows, folder)
            saved = time.monotonic()
    _save(rows, folder)
    _check_enough(source, rows, params.dataset.source)
    _sweep(source, rows, folder)
    return _summary(params.dataset.source, rows, reasons)


def read_manifest(folder: Path) -> list[VideoRow]:
    """The rows of a folder's manifest; of one that is missing or damaged there are none."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
        table = csv.DictReader(io.StringIO(text), strict=True)
        return [
            VideoRow(
                row["category"],
                row["id"],
                row["status"],
                row["reason"],
                row["made_from"],
                int(row["bytes"]),
            )
            for row in table
        ]
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


def _fresh(source: Source, folder: Path) -> list[VideoRow]:
    """The rows of videos that are there as they would be made now."""
    wanted = {(video.category, video.id): video.made_from for video in source.wanted}
    return [
        row
        for row in read_manifest(folder)
        if row.status == DONE
        and wanted.get((row.category, row.id)) == row.made_from
        and all(place.is_file() for place in _places(source, row, folder))
        and _places(source, row, folder)[0].stat().st_size == row.bytes
    ]


def _places(source: Source, video: VideoRow | Wanted, folder: Path) -> list[Path]:
    """The files of a video, itself first."""
    return [folder / video.category / f"{video.id}{ending}" for ending in source.endings]


def _make(source: Source, folder: Path, video: Wanted) -> int:
    """Make a video; its size in bytes."""
    source.make(video, folder)
    return (folder / video.category / f"{video.id}{VIDEO_ENDING}").stat().st_size


def _save(rows: list[VideoRow], folder: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(VideoRow))
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
    left_out = [row for row in rows if row.status == LEFT_OUT]
    done, listed = len(rows) - len(left_out), len(rows)
    if done and done >= source.shortest_share * listed:
        return
    first = min(left_out).reason if left_out else "the list is empty"
    needed = f"; dataset.music.shortest_list asks for {source.shortest_share:.0%}"
    raise UserError(
        f"dataset.source {name}: {done} of {listed} videos are there"
        f"{needed if source.shortest_share else ''}; {first}"
    )


def _summary(source: str, rows: list[VideoRow], reasons: dict[str, str]) -> dict[str, Any]:
    category: dict[str, dict[str, int]] = defaultdict(lambda: {DONE: 0, LEFT_OUT: 0})
    for row in sorted(rows):
        category[row.category][row.status] += 1
    done = sum(counts[DONE] for counts in category.values())
    return {
        "source": source,
        "listed": len(rows),
        "videos": done,
        "bytes": sum(row.bytes for row in rows),
        "category": dict(category),
        "left_out": {"count": len(rows) - done, "reasons": dict(sorted(reasons.items()))},
    }
