"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_INTERVAL_SECONDS = 10.0


def track(items: Iterable[Item], what: str, total: int, unit: str = "video") -> Iterator[Item]:
    """Yield `items`, showing how many are done, the rate and the remaining time.

    Args:
        items: what is worked through.
        what: the name of the work, shown in front.
        total: how many items there will be.
        unit: what one item is called.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True)
        return
    began = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_SECONDS or done == total:
            last = now
            rate = done / max(now - began, 1e-9)
            left = tqdm.format_interval((total - done) / rate)
            print(f"{what}: {done}/{total} {unit}s, {rate:.1f} {unit}s/s, {left} left", flush=True)


def say(line: str) -> None:
    """Print one line without breaking a bar that is being drawn."""
    tqdm.write(line)
