"""Real disks that are full or read-only: mounted for one process, and gone with it."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.experiment import ROOT

# Executed before the script. Its process has a list of mounts of its own.
PREAMBLE = """
import json, subprocess, sys
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk(folder, options, filled=0):
    '''A disk of its own over a folder, of which a file takes the given number of bytes.'''
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'none', str(folder)], check=True)
    try:
        if filled:
            (folder / 'filler').write_bytes(bytes(filled))
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def full(folder):
    return disk(folder, 'size=64k', filled=65536)


def nearly_full(folder):
    return disk(folder, 'size=64k', filled=57344)


def read_only(folder):
    return disk(folder, 'ro')


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob('*')
                  if path.is_file() and path.name != 'filler')
"""


def run_with_disks(
    script: str, *arguments: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script, after the preamble, in a process that may mount disks.

    A test is skipped where that is not allowed: it needs Linux and the rights of root.
    """
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"disks cannot be mounted here ({error})")
    return subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files, in bytes: writing fails as on a full disk, in children too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
