"""Manifest of the downloaded videos: a CSV with a row for each video of the source."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from sop.runtime.files import write_text

MANIFEST_NAME = "manifest.csv"

# Beside it: the names of the videos by the sides on which a list puts them; only of such a list.
SPLITS_NAME = "splits.json"

DONE, UNAVAILABLE, FAILED = "done", "unavailable", "failed"


@dataclass(frozen=True, order=True)
class VideoRow:
    """Row of the manifest: one video of the source."""

    category: str
    id: str
    status: str
    """`done`, `unavailable` (permanently) or `failed` (temporarily)."""
    reason: str = ""
    """Reason why the video is missing."""
    seconds: float = 0.0
    """Length of the video."""
    bytes: int = 0
    """Size of the file."""
    format: str = ""
    """Codecs, size and rates."""
    source: str = ""
    """Address or file that the video comes from."""
    made_from: str = ""
    """Everything that the bytes of the file depend on."""
    access: str = ""
    """Cookies and proxy with which the video is unavailable; empty if others would not help."""


COLUMNS = {
    column.name: {"seconds": float, "bytes": int}.get(column.name, str)
    for column in fields(VideoRow)
}


def read_manifest(folder: Path) -> list[VideoRow]:
    """Return the rows of a folder's manifest; a missing or damaged one has none."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
        table = csv.DictReader(io.StringIO(text), strict=True)
        return [
            # An earlier version wrote fewer columns.
            VideoRow(**{name: COLUMNS[name](value) for name, value in row.items()})
            for row in table
        ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return []


def write_manifest(rows: Iterable[VideoRow], folder: Path) -> None:
    """Write the rows, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in sorted(rows))
    write_text(folder / MANIFEST_NAME, text.getvalue())
