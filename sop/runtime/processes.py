"""Child processes: a time limit, and an end that includes their own children."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its descendants, which would otherwise keep its pipes open."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


@contextmanager
def time_limit(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[threading.Event]:
    """Kill a process and its descendants if the block takes longer than `seconds`.

    Yields:
        An event that is set if the limit was exceeded.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_tree(process)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
