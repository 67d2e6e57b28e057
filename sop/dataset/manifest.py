"""What every extracted file was made from, so that only what is stale or missing is made again."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sop.files import write_text

MANIFEST_NAME = "manifest.json"

# A kill costs no more than the work of so long.
SAVE_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """One file."""

    video: str
    """SHA-256 of the video that it was made from."""
    made_with: str
    """The parameters that it depends on, and the tool's version."""
    length: int
    """Samples or frames."""
    bytes: int


class Manifest:
    """The rows of a folder's files, by `<category>/<id>`, kept as JSON in the folder."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder = folder
        self.ending = ending
        self.rows: dict[str, Row] = {}
        self._saved = time.monotonic()

    def load(self) -> None:
        """Read the rows; of a manifest that is missing or damaged there are none."""
        try:
            text = (self.folder / MANIFEST_NAME).read_text(encoding="utf-8")
            self.rows = {name: Row(**row) for name, row in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self.rows = {}

    def save(self) -> None:
        """Write the rows."""
        rows = {name: asdict(self.rows[name]) for name in sorted(self.rows)}
        write_text(
            self.folder / MANIFEST_NAME, json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        )
        self._saved = time.monotonic()

    def save_sometimes(self) -> None:
        """Write the rows unless that was done a moment ago."""
        if time.monotonic() - self._saved >= SAVE_INTERVAL_SECONDS:
            self.save()

    def place(self, name: str) -> Path:
        """The file of a video."""
        return self.folder / f"{name}{self.ending}"

    def is_fresh(self, name: str, video: str, made_with: str) -> bool:
        """Whether a video's file is there, whole and made as it would be now."""
        row = self.rows.get(name)
        if row is None or (row.video, row.made_with) != (video, made_with):
            return False
        place = self.place(name)
        return place.is_file() and place.stat().st_size == row.bytes

    def sweep(self) -> None:
        """Remove what has no row."""
        keep = {self.place(name) for name in self.rows} | {self.folder / MANIFEST_NAME}
        for path in list(self.folder.rglob("*")):
            if path not in keep and (path.is_symlink() or not path.is_dir()):
                path.unlink()


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
