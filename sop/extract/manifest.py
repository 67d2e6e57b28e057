"""What every extracted file was made from, so that only what is stale or missing is made again."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sop.runtime.files import write_text

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Row:
    """What became of one video."""

    video: str
    """SHA-256 of the video."""
    made_with: str
    """The parameters that the file depends on, and the tool's version."""
    length: int = 0
    """Samples or frames."""
    bytes: int = 0
    left_out: str = ""
    """Why there is no file and, of the same video, never will be."""


class Manifest:
    """The rows of a folder's files, by `<category>/<id>`, kept as JSON in the folder."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder = folder
        self.ending = ending
        self.rows: dict[str, Row] = {}

    def load(self) -> None:
        """Read the rows; of a manifest that is missing or damaged there are none."""
        try:
            text = (self.folder / MANIFEST_NAME).read_text(encoding="utf-8")
            self.rows = {name: Row(**row) for name, row in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self.rows = {}

    def save(self) -> None:
        """Write the rows."""
        rows = {name: _stored(self.rows[name]) for name in sorted(self.rows)}
        write_text(
            self.folder / MANIFEST_NAME, json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        )

    def place(self, name: str) -> Path:
        """The file of a video."""
        return self.folder / f"{name}{self.ending}"

    def files(self) -> Iterable[Row]:
        """The rows of what is there."""
        return (row for row in self.rows.values() if not row.left_out)

    def is_whole(self, name: str) -> bool:
        """Whether what a row speaks of is there: its file, or none if it was left out."""
        row, place = self.rows[name], self.place(name)
        if row.left_out:
            return not place.exists()
        return place.is_file() and place.stat().st_size == row.bytes

    def sweep(self) -> None:
        """Remove what has no row."""
        keep = {self.place(name) for name, row in self.rows.items() if not row.left_out}
        keep.add(self.folder / MANIFEST_NAME)
        for path in list(self.folder.rglob("*")):
            if path not in keep and (path.is_symlink() or not path.is_dir()):
                path.unlink()


def _stored(row: Row) -> dict[str, object]:
    return {key: value for key, value in asdict(row).items() if key != "left_out" or value}
