"""The same work on many videos, several at a time."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from typing import TypeVar

from sop.errors import LeftOut

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for the next item, few enough that a long list is not held at once.
QUEUED_PER_WORKER = 2


def each(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, processes: bool = False
) -> Iterator[tuple[Item, Result | LeftOut]]:
    """Do `work` on every item; yield each with what came of it, as they get done.

    Args:
        work: a `LeftOut` that it raises is its result, any other exception ends everything.
        items: what is worked on.
        workers: at most so many at a time.
        processes: whether they are processes (for work in Python) or threads (for work that
            waits for a network, a disk or another program).
    """
    executor: Executor
    if processes:
        # A forked process would inherit locks that threads of this one may hold.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, mp_context=context)
    else:
        executor = ThreadPoolExecutor(workers)
    running: dict[Future[Result], Item] = {}
    try:
        for item in items:
            running[executor.submit(work, item)] = item
            if len(running) >= QUEUED_PER_WORKER * workers:
                yield from _done(running)
        while running:
            yield from _done(running)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _done(running: dict[Future[Result], Item]) -> Iterator[tuple[Item, Result | LeftOut]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        item = running.pop(future)
        try:
            result: Result | LeftOut = future.result()
        except LeftOut as reason:
            result = reason
        yield item, result
