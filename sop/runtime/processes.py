"""Programs that this one started, and how they are ended."""

import subprocess
from contextlib import suppress

import psutil


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started, which would else hold its pipes open."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
