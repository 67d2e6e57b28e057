"""Atomic writes: files are written under a temporary name, then renamed."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from sop.runtime.errors import UserError

PARTIAL_PREFIX = ".part-"

# On a shared file system two machines may have processes with the same id.
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]

# Saves must take only a small part of the time, however long the list grows.
SAVE_INTERVAL_SECONDS = 5.0
SAVE_SHARE = 0.05


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix, because tools choose a format by it. If the block raises,
    the temporary file is removed. `remove_partials` removes what a killed process leaves behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL_PREFIX}{_MACHINE}-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Do the same as `replacing`, and report in one line that no file can be created there.

    Raises:
        UserError: the file cannot be created. Errors of the block are raised as they are.
    """
    with ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(None, "a folder of that name exists")
            partial = stack.enter_context(replacing(path))
            partial.touch()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        yield partial


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON atomically.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class PeriodicSaver:
    """Save the state of a long run from time to time, so that a kill loses little.

    Args:
        save: writes the whole state.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._due = time.monotonic() + SAVE_INTERVAL_SECONDS

    def save_if_due(self) -> None:
        """Save if the last save is long enough ago, measured also by the time that it took."""
        began = time.monotonic()
        if began >= self._due:
            self._save()
            ended = time.monotonic()
            self._due = ended + max(SAVE_INTERVAL_SECONDS, (ended - began) / SAVE_SHARE)


def unicode_name(path: Path) -> str:
    """Return the name of a file for a UTF-8 file: other bytes become replacement characters."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def require_file(path: Path, kind: str = "file") -> None:
    """Check that a path names a regular file.

    Args:
        path: path to check.
        kind: what the file is, for the message, and what to do if it is missing.

    Raises:
        UserError: nothing is there, or it is a folder or a device, or it cannot be looked up.
    """
    try:
        if not path.exists():
            raise UserError(f"{path}: no such {kind}")
        if not path.is_file():
            raise UserError(f"{path}: not a file")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def require_place(path: Path, kind: Literal["file", "folder"]) -> None:
    """Check that a file or folder may be at a path: nothing of the other kind is in its way.

    Raises:
        UserError: a file is where a folder is needed, or the reverse, or it cannot be looked up.
    """
    try:
        place = path.parent if kind == "file" else path
        while not place.exists():
            place = place.parent
        reason = None if place.is_dir() else f"{place} is not a folder"
        if kind == "file" and path.is_dir():
            reason = "a folder of that name exists"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"{path}: cannot be written ({reason})")


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that a killed process left anywhere below `folder`."""
    for partial in folder.rglob(f"{PARTIAL_PREFIX}*"):
        if partial.is_file():
            partial.unlink()


def remove_others(folder: Path, keep: Collection[Path]) -> None:
    """Remove all files below `folder` except those to keep, then the folders that are empty."""
    for path in list(folder.rglob("*")):
        if path not in keep and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
