"""SHA-256 of files, computed once for as long as a file is not touched."""

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# Within so long a file can be written twice and keep its time of change.
CLOCK_SECONDS = 2.0

# A path that is no text and a number of more than 63 bits have no place in the database.
_FAILURES = (sqlite3.Error, OSError, UnicodeEncodeError, OverflowError)


@dataclass(frozen=True)
class FileStamp:
    """What changes when a file is written to."""

    bytes: int
    changed_ns: int
    inode: int


def file_stamp(path: Path) -> FileStamp:
    """How a file was last touched.

    Raises:
        OSError: it is not there.
    """
    stat = path.stat()
    return FileStamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class HashCache:
    """The hashes of files, remembered in a small database beside the data.

    It only saves time: where it cannot be opened or is lost, nothing is remembered and all is
    hashed again.

    Args:
        place: the database; made if missing.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._table: sqlite3.Connection | None = None

    def __enter__(self) -> "HashCache":
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._table = self._open()
        except (OSError, sqlite3.OperationalError):
            # Not to be had now: no folder for it, no right to it, or another process holds it.
            pass
        except sqlite3.DatabaseError:
            # Not a database, or one that a crash of the machine left damaged.
            with suppress(OSError, sqlite3.Error):
                self._place.unlink()
                self._table = self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _open(self) -> sqlite3.Connection:
        table = sqlite3.connect(self._place, timeout=1.0)
        # To wait for the disk at every row would take longer than most hashes.
        table.execute("PRAGMA synchronous = OFF")
        table.execute(
            "CREATE TABLE IF NOT EXISTS hash "
            "(path TEXT PRIMARY KEY, bytes INT, changed_ns INT, inode INT, sha256 TEXT)"
        )
        return table

    def known(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The hashes of those files that were not touched since they were hashed."""
        found: dict[Path, str] = {}
        if self._table is None:
            return found
        for path in paths:
            with suppress(*_FAILURES):
                row = self._table.execute(
                    "SELECT bytes, changed_ns, inode, sha256 FROM hash WHERE path = ?",
                    (str(path.absolute()),),
                ).fetchone()
                if row is not None and FileStamp(*row[:3]) == file_stamp(path):
                    found[path] = row[3]
        return found

    def remember(self, path: Path, stamp: FileStamp, digest: str) -> None:
        """Keep the hash of a file that was last touched like this before it was hashed."""
        if self._table is None or time.time() - stamp.changed_ns / 1e9 < CLOCK_SECONDS:
            return
        with suppress(*_FAILURES), self._table:
            self._table.execute(
                "INSERT OR REPLACE INTO hash VALUES (?, ?, ?, ?, ?)",
                (str(path.absolute()), stamp.bytes, stamp.changed_ns, stamp.inode, digest),
            )
