"""Locks of files, so that two processes never do the same work in one folder."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from sop.runtime.errors import UserError
from sop.runtime.files import make_folder, writing

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, as written in the file of the lock."""

    pid: int
    started: float
    """Time at which the process started, in seconds since 1970."""
    host: str
    boot: str
    """Identifier of the host's boot, or empty; containers on one host share it."""
    since: str
    """Time at which it took the lock."""


@contextmanager
def exclusive(path: Path, work: str, host: str, since: str) -> Iterator[None]:
    """Hold a lock in a block.

    The lock of the operating system (flock) ends with its process, however that ends. On a file
    system without such locks, and for a process that was killed on another machine, the content of
    the file decides; the message then names it.

    Args:
        path: file of the lock, which is created if it is missing.
        work: what is done under the lock, for the message.
        host: name of this machine.
        since: current time, as text.

    Raises:
        UserError: another process holds the lock, or its file cannot be written.
    """
    me = Owner(os.getpid(), psutil.Process().create_time(), host, _boot(), since)
    with writing(path, OSError):
        file = make_folder(path.parent).joinpath(path.name).open("a+", encoding="utf-8")
    with file:
        # A worker process would keep the lock after the end of this one.
        os.register_at_fork(after_in_child=file.close)
        owner = _read(file)
        is_here = owner is not None and _same_machine(owner, me)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{work}: {_held(owner, is_here)}") from None
        except OSError:
            # The file system has no locks.
            if owner is not None and is_here and _is_running(owner):
                raise UserError(f"{work}: {_held(owner, is_here)}") from None
        if owner is not None and not is_here:
            # Not every network file system shares its locks among machines.
            raise UserError(
                f"{work}: {_held(owner, is_here)}; if that process has ended, delete {path}"
            )
        _write(file, me)
        try:
            yield
        finally:
            _write(file, None)


def _held(owner: Owner | None, is_here: bool) -> str:
    if owner is None:
        return "it is running in this folder already; wait until it ends"
    return (
        f"it is running in this folder already, as process {owner.pid} on host {owner.host} since "
        f"{owner.since}; stop that with `kill {owner.pid}`{'' if is_here else ' on that host'}, "
        "after which the next run continues its work, or wait until it ends"
    )


def _same_machine(one: Owner, other: Owner) -> bool:
    return one.host == other.host or (bool(one.boot) and one.boot == other.boot)


def _is_running(owner: Owner) -> bool:
    try:
        started: float = psutil.Process(owner.pid).create_time()
    except psutil.NoSuchProcess:
        return False
    # Another process may have got its number.
    return abs(started - owner.started) < 1


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


def _read(file: IO[str]) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None


def _write(file: IO[str], owner: Owner | None) -> None:
    text = "" if owner is None else json.dumps(asdict(owner))
    # A full disk must not end the stage: the lock of the operating system holds without the text.
    # Without a buffer, which would be written again when the file is closed.
    with suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), text.encode())
