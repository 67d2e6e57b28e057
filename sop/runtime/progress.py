"""Progress of long work: a progress bar on a terminal, log lines elsewhere, or calls."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

LOG_INTERVAL_SECONDS = 10.0

ProgressCallback = Callable[[str, int, int], None]
"""Receives the name of the work, the number of items that are done, and their total number."""

# True shows progress, False does not, a function is called with it.
_receiver: ContextVar[ProgressCallback | bool] = ContextVar("receiver of progress", default=True)


@contextmanager
def progress_to(receiver: ProgressCallback | bool) -> Iterator[None]:
    """Choose where the progress of the block goes.

    Args:
        receiver: True to show it as usual, False to drop it, or a function that is called before
            the first item and after each one. What the function raises ends the work.
    """
    token = _receiver.set(receiver)
    try:
        yield
    finally:
        _receiver.reset(token)


def progress(
    items: Iterable[Item], what: str, total: int, unit: str = "video", done: int = 0
) -> Iterator[Item]:
    """Yield `items` and show how many are done, the rate and the remaining time.

    Args:
        items: what is processed.
        what: name of the work, shown in front.
        total: number of items, with those of an earlier run.
        unit: name of one item, in the singular.
        done: number of items that an earlier run has done.
    """
    receiver = _receiver.get()
    if callable(receiver):
        receiver(what, done, total)
        for number, item in enumerate(items, start=done + 1):
            yield item
            receiver(what, number, total)
        return
    if not receiver:
        yield from items
        return
    if sys.stderr.isatty():
        bar = tqdm(items, desc=what, total=total, initial=done, unit=unit, dynamic_ncols=True)
        yield from bar
        return
    start = last = time.monotonic()
    earlier = done
    for done, item in enumerate(items, start=earlier + 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_SECONDS or done == total:
            last = now
            rate = (done - earlier) / max(now - start, 1e-9)
            left = tqdm.format_interval((total - done) / rate)
            units = unit if total == 1 else f"{unit}s"
            logger.info(f"{what}: {done}/{total} {units}, {rate:.1f} {unit}s/s, {left} left")


@contextmanager
def announced(text: str, after_seconds: float) -> Iterator[None]:
    """Log what is being done if it takes longer than some seconds."""
    timer = threading.Timer(after_seconds, logger.info, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
