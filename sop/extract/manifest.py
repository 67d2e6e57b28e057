"""Manifest of the extracted files: the inputs of each, so that only stale files are rebuilt."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sop.runtime.files import remove_others, write_text

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class ManifestRow:
    """Extraction result of one video: a file, or the reason why it was left out."""

    video: str
    """SHA-256 of the video."""
    made_with: str
    """Parameters that the file depends on, and the version of ffmpeg."""
    length: int = 0
    """Number of samples or frames."""
    bytes: int = 0
    """Size of the file."""
    left_out: str = ""
    """Reason why the video cannot be used; empty if there is a file."""


class Manifest:
    """Rows of a folder's files by `<category>/<id>`, stored as JSON in the folder."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder = folder
        self.suffix = suffix
        self.rows: dict[str, ManifestRow] = {}

    def load(self) -> None:
        """Read the rows; a missing or damaged manifest has none."""
        try:
            text = (self.folder / MANIFEST_NAME).read_text(encoding="utf-8")
            self.rows = {name: ManifestRow(**row) for name, row in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self.rows = {}

    def save(self) -> None:
        """Write the rows."""
        rows = {name: _stored(self.rows[name]) for name in sorted(self.rows)}
        write_text(
            self.folder / MANIFEST_NAME, json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        )

    def path(self, name: str) -> Path:
        """Return the file of a video."""
        return self.folder / f"{name}{self.suffix}"

    def done(self) -> dict[str, ManifestRow]:
        """Return the rows of the videos that have a file."""
        return {name: row for name, row in self.rows.items() if not row.left_out}

    def is_intact(self, name: str) -> bool:
        """Return True if the file is as its row says: of the right size, or absent if left out."""
        row, path = self.rows[name], self.path(name)
        if row.left_out:
            return not path.exists()
        return path.is_file() and path.stat().st_size == row.bytes

    def remove_unlisted(self) -> None:
        """Remove all files that have no row."""
        files = {self.path(name) for name in self.done()}
        remove_others(self.folder, files | {self.folder / MANIFEST_NAME})


def _stored(row: ManifestRow) -> dict[str, object]:
    return {key: value for key, value in asdict(row).items() if key != "left_out" or value}
