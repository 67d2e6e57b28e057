"""Manifest of the extracted files: the inputs of each, so that only stale files are rebuilt."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sop.dataset.clips import MANIFEST_NAME
from sop.runtime.files import remove_others, write_text

# Values that most rows have, and that are not written.
_DEFAULTS = {"left_out": "", "still": 0.0}


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
    still: float = 0.0
    """Of pictures: share that equals the one before, if it is a still or slideshow; otherwise 0."""


class Manifest:
    """Rows of a folder's files by `<category>/<id>`, stored as JSON in the folder.

    Args:
        folder: folder of the files; a missing or damaged manifest in it has no rows.
        suffix: suffix of the files.
        made_with: parameters and versions for new files, as `ManifestRow.made_with`.
    """

    def __init__(self, folder: Path, suffix: str, made_with: str) -> None:
        self.folder = folder
        self.suffix = suffix
        self.made_with = made_with
        self.rows: dict[str, ManifestRow] = {}
        try:
            text = (self.folder / MANIFEST_NAME).read_text(encoding="utf-8")
            self.rows = {name: ManifestRow(**row) for name, row in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return

    def save(self) -> None:
        """Write the rows."""
        rows = {
            name: {key: value for key, value in asdict(row).items() if value != _DEFAULTS.get(key)}
            for name, row in sorted(self.rows.items())
        }
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / MANIFEST_NAME, text)

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
