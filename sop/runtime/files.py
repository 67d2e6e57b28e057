"""Files are whole or absent: written beside their place, then renamed into it."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sop.runtime.errors import UserError

PARTIAL_PREFIX = ".part-"

# On a shared file system two machines may have processes of the same number.
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]

# Saving again and again a list that grows must not become the work.
SAVE_INTERVAL_SECONDS = 5.0
SAVE_SHARE = 0.05


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the place of `path`.

    The name keeps its ending, so that tools that choose a format by it still do. When the block
    raises, nothing of it stays behind; what a kill leaves is found by `remove_partials`.
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
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON, whole or not at all; a number that is not finite is refused."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class PeriodicSaver:
    """Saves what a long run has done so far, now and then: a kill costs what came after the last.

    Args:
        save: writes everything.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._due = time.monotonic() + SAVE_INTERVAL_SECONDS

    def save_if_due(self) -> None:
        """Save, unless that was done a moment ago or would take too much of the time."""
        began = time.monotonic()
        if began >= self._due:
            self._save()
            ended = time.monotonic()
            self._due = ended + max(SAVE_INTERVAL_SECONDS, (ended - began) / SAVE_SHARE)


def require_file(path: Path, kind: str = "file") -> None:
    """Check that a path names a regular file.

    Args:
        path: path to check.
        kind: what the file is, for the message.

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


def remove_partials(folder: Path) -> None:
    """Remove what a killed run left half-written anywhere below `folder`."""
    for partial in folder.rglob(f"{PARTIAL_PREFIX}*"):
        if partial.is_file():
            partial.unlink()


def remove_empty_folders(folder: Path) -> None:
    """Remove the empty folders below `folder`, the deepest first; `folder` itself stays."""
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
