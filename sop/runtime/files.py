"""Atomic writes and temporary folders, with errors of the disk in one line."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from sop.runtime.errors import LeftOut, NotWritable, UserError, disk_error

PARTIAL_PREFIX = ".part-"

# Files that file managers write into the folders that they show.
_LITTER = ("Thumbs.db", "desktop.ini")

# On a shared file system two machines may have processes with the same id.
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]

# Saves must take only a small part of the time, however long the list grows.
SAVE_INTERVAL_SECONDS = 5.0
SAVE_SHARE = 0.05

_TEMPORARY_ADVICE = "free some space there, or set TMPDIR to a folder on another disk"


@contextmanager
def writing(path: Path, *errors: type[OSError], advice: str = "") -> Iterator[None]:
    """Report in one line that the block cannot write a file or folder.

    Args:
        path: what it writes, for the message.
        errors: errors that count as such, besides those of a full or read-only disk. Only for a
            block that does nothing else.
        advice: what to do about it; empty for the usual advice.

    Raises:
        NotWritable: the path cannot be written. Other errors of the block are raised as they are.
    """
    try:
        yield
    except (UserError, LeftOut):
        raise
    except errors as error:
        raise NotWritable(path, error, advice) from None
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        if isinstance(found, OSError):
            found = NotWritable(path, found, advice)
        raise found from None


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents where they are missing, and return it.

    Raises:
        NotWritable: it cannot be created.
    """
    with writing(folder, OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix, because tools choose a format by it. If the block raises,
    the temporary file is removed. `remove_partials` removes what a killed process leaves behind.

    Raises:
        NotWritable: the folder, the disk or the permissions do not allow it. Other errors of the
            block are raised as they are.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{_MACHINE}-{os.getpid()}-{path.name}")
    with writing(path, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "a folder of that name exists")
        # Tools that write the file give reasons of their own, or none.
        partial.touch()
        partial.unlink()
    try:
        with writing(path):
            yield partial
        with writing(path, PermissionError, IsADirectoryError):
            partial.replace(path)
    finally:
        # A disk that became read-only has been reported already.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "sop-") -> Iterator[Path]:
    """Yield a new folder, which is removed at the end of the block.

    First, folders that killed processes of this machine left in the same place are removed.

    Args:
        parent: where to create it; None for the system's folder of temporary files.
        prefix: begin of its name, by which the folders of killed processes are found.

    Raises:
        NotWritable: it cannot be created.
    """
    place = temporary_place() if parent is None else make_folder(parent)
    prefix = f"{prefix}{_MACHINE}-"
    _remove_abandoned(place, prefix)
    with writing(place, OSError):
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=place))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_place() -> Path:
    """Return the system's folder of temporary files.

    Raises:
        UserError: there is none that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"temporary files: {error.strerror}; free some space in one") from None


def writing_temporary(folder: Path) -> AbstractContextManager[None]:
    """Do the same as `writing` for a folder of `temporary_folder`, and name TMPDIR."""
    return writing(folder.parent, advice=_TEMPORARY_ADVICE)


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

    @contextmanager
    def saving_at_the_end(self) -> Iterator[None]:
        """Save after the block, also if it raises an error, which then is the one to report."""
        try:
            yield
        except BaseException:
            with suppress(NotWritable):
                self._save()
            raise
        self._save()


def unicode_name(path: Path) -> str:
    """Return the name of a file for a UTF-8 file: other bytes become replacement characters."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def is_litter(path: Path) -> bool:
    """Return whether a file is what a file manager or an editor left, or hidden, by its name."""
    return path.name.startswith(".") or path.name in _LITTER or path.name.endswith("~")


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
            with writing(partial, OSError):
                partial.unlink()


def remove_abandoned_partials(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes of this machine left behind."""
    prefix = f"{PARTIAL_PREFIX}{_MACHINE}-"
    for partial in path.parent.glob(f"{prefix}*-{glob.escape(path.name)}"):
        process = partial.name.removeprefix(prefix).partition("-")[0]
        if partial.name == f"{prefix}{process}-{path.name}" and _has_ended(process):
            with suppress(OSError):
                partial.unlink()


def remove_others(folder: Path, keep: Collection[Path]) -> None:
    """Remove all files below `folder` except those to keep, then the folders that are empty."""
    with writing(folder, OSError):
        for path in list(folder.rglob("*")):
            if path not in keep and (path.is_symlink() or not path.is_dir()):
                path.unlink()
        for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            if not any(inner.iterdir()):
                inner.rmdir()


def _remove_abandoned(place: Path, prefix: str) -> None:
    """Remove the folders whose process has ended."""
    for folder in place.glob(f"{prefix}*"):
        if not _has_ended(folder.name.removeprefix(prefix).partition("-")[0]):
            continue
        # The process may live in another container, which shares the name of the machine.
        with suppress(OSError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _has_ended(process: str) -> bool:
    return process.isdecimal() and not psutil.pid_exists(int(process))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which ends with the process.

    Raises:
        OSError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
