"""SHA-256 of files, remembered until a file changes."""

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sop.runtime.errors import LeftOutForNow
from sop.runtime.parallel import Workers, map_unordered

# Within this time a file can be written twice without a change of its modification time.
CLOCK_SECONDS = 2.0

# The database cannot store a path that is not Unicode or an integer of more than 63 bits.
_FAILURES = (sqlite3.Error, OSError, UnicodeEncodeError, OverflowError)


@dataclass(frozen=True)
class FileStamp:
    """Size, modification time and inode of a file; a write changes at least one of them."""

    bytes: int
    changed_ns: int
    inode: int


def file_stamp(path: Path) -> FileStamp:
    """Return the current stamp of a file.

    Raises:
        OSError: the file does not exist.
    """
    stat = path.stat()
    return FileStamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class HashCache:
    """Hashes of files in a small database.

    The cache only saves time. If the database cannot be opened or is lost, files are hashed again.

    Args:
        path: the SQLite database; created if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: sqlite3.Connection | None = None

    def __enter__(self) -> "HashCache":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._table = self._open()
        except (OSError, sqlite3.OperationalError):
            # The folder or the permission is missing, or another process locks the database.
            pass
        except sqlite3.DatabaseError:
            # Not a database, or damaged by a crash of the machine.
            with suppress(OSError, sqlite3.Error):
                self._path.unlink()
                self._table = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _open(self) -> sqlite3.Connection:
        table = sqlite3.connect(self._path, timeout=1.0)
        # Waiting for the disk at every row would take longer than most hashes.
        table.execute("PRAGMA synchronous = OFF")
        table.execute(
            "CREATE TABLE IF NOT EXISTS hash "
            "(path TEXT PRIMARY KEY, bytes INT, changed_ns INT, inode INT, sha256 TEXT)"
        )
        return table

    def known(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the hashes of the files that did not change since they were hashed."""
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
        """Store the hash of a file whose stamp was taken before it was hashed."""
        if self._table is None or time.time() - stamp.changed_ns / 1e9 < CLOCK_SECONDS:
            return
        with suppress(*_FAILURES), self._table:
            self._table.execute(
                "INSERT OR REPLACE INTO hash VALUES (?, ?, ?, ?, ?)",
                (str(path.absolute()), stamp.bytes, stamp.changed_ns, stamp.inode, digest),
            )

    def hash_files(
        self, paths: Iterable[Path], workers: Workers
    ) -> Iterator[tuple[Path, str | LeftOutForNow]]:
        """Yield each file with its hash, or with the reason why it cannot be read."""
        paths = list(paths)
        known = self.known(paths)
        yield from known.items()
        new = (path for path in paths if path not in known)
        for path, found in map_unordered(stamp_and_hash, new, workers):
            if isinstance(found, tuple):
                self.remember(path, *found)
                yield path, found[1]
            else:
                yield path, LeftOutForNow(str(found))


def stamp_and_hash(path: Path) -> tuple[FileStamp, str]:
    """Return the stamp of a file and then its hash.

    Raises:
        LeftOutForNow: the file cannot be read.
    """
    try:
        return file_stamp(path), sha256(path)
    except OSError as error:
        raise LeftOutForNow(f"not readable ({error.strerror})") from None
