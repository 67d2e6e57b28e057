"""The same work on many videos, several at a time: on this machine, or on a Dask cluster."""

import logging
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from sop.runtime.errors import LeftOut, LeftOutForNow, UserError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for the next item, few enough that a long list is not held at once.
QUEUED_PER_WORKER = 2

# How long a scheduler may take to answer, and workers to be counted anew.
ANSWER_SECONDS = 30.0
COUNT_SECONDS = 5.0


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    count: int
    """At a time, on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers do it instead."""
    most: int | None = None
    """At a time, wherever they are."""


def map_unordered(
    work: Callable[[Item], Result], items: Iterable[Item], workers: Workers, processes: bool = False
) -> Iterator[tuple[Item, Result | LeftOut]]:
    """Do `work` on every item; yield each with what came of it, as they get done.

    Args:
        work: a `LeftOut` that it raises is its result, any other exception ends everything. On a
            cluster it and the items are sent by pickle; doing an item twice must do no harm.
        items: what is worked on.
        workers: who works.
        processes: whether those of this machine are processes (for work in Python) or threads
            (for work that waits for a network, a disk or another program).

    Raises:
        UserError: the scheduler cannot be reached.
    """
    if workers.scheduler is not None:
        yield from _each_on_cluster(work, items, workers.scheduler, workers.most)
    else:
        count = min(workers.count, workers.most or workers.count)
        yield from _each_here(work, items, count, processes)


def _each_here(
    work: Callable[[Item], Result], items: Iterable[Item], count: int, processes: bool
) -> Iterator[tuple[Item, Result | LeftOut]]:
    executor: Executor
    if processes:
        # A forked process would inherit locks that threads of this one may hold.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(count, mp_context=context)
    else:
        executor = ThreadPoolExecutor(count)
    running: dict[Future[Result], Item] = {}
    try:
        for item in items:
            running[executor.submit(work, item)] = item
            if len(running) >= QUEUED_PER_WORKER * count:
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


def _each_on_cluster(
    work: Callable[[Item], Result], items: Iterable[Item], scheduler: str, most: int | None
) -> Iterator[tuple[Item, Result | LeftOut]]:
    remaining = iter(items)
    first = list(islice(remaining, 1))
    if not first:
        return
    remaining = chain(first, remaining)
    # Takes half a second to import, which work on one machine need not pay.
    import cloudpickle
    import distributed

    with _client(scheduler) as client:
        queue, attempt = _Queue(client, most), _attempt()
        running: dict[Any, Item] = {}
        done = distributed.as_completed(loop=client.loop)
        try:
            while True:
                while len(running) < queue.length():
                    try:
                        item = next(remaining)
                    except StopIteration:
                        break
                    future = client.submit(attempt, cloudpickle.dumps((work, item)), pure=False)
                    running[future] = item
                    done.add(future)
                if not running:
                    return
                future = next(done)
                yield running.pop(future), _result(future, scheduler)
        finally:
            client.cancel(list(running))


def _attempt() -> Callable[[bytes], bytes]:
    """The task: does pickled work on a pickled item, and returns the pickled result.

    Only workers unpickle it, so a scheduler need not have this repository; and a function that is
    made here travels whole, so that the workers, too, can read it before they have it.
    """

    def attempt(task: bytes) -> bytes:
        import pickle

        from sop.runtime.errors import LeftOut, UserError

        # From the client of the same run, over the user's own cluster.
        work, item = pickle.loads(task)  # noqa: S301
        try:
            result = work(item)
        except (LeftOut, UserError) as expected:
            result = expected
        return pickle.dumps(result)

    return attempt


def _result(future: Any, scheduler: str) -> Any:
    import distributed

    try:
        result = pickle.loads(future.result())  # noqa: S301
    except distributed.KilledWorker as error:
        died = error.allowed_failures + 1
        return LeftOutForNow(f"{died} workers of the cluster died with it")
    except (distributed.CancelledError, OSError):
        raise UserError(
            f"cluster.scheduler: {scheduler} went away; what is done stays, "
            "run again when it is back"
        ) from None
    if isinstance(result, UserError):
        raise result
    return result


class _Queue:
    """How many items are handed out at a time, as workers come and go."""

    def __init__(self, client: Any, most: int | None) -> None:
        self._client = client
        self._most = most
        self._length = 0
        self._counted = -COUNT_SECONDS
        self._told = False

    def length(self) -> int:
        """As many as all workers can use, and as are allowed."""
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            threads = sum(self._client.nthreads().values())
            if not threads and not self._told:
                logger.info("the cluster has no workers yet; waiting for them")
                self._told = True
            self._counted = time.monotonic()
            self._length = max(1, QUEUED_PER_WORKER * threads)
        return min(self._length, self._most or self._length)


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler whose workers, now and later, find this repository."""
    import distributed

    try:
        client = distributed.Client(
            scheduler, timeout=ANSWER_SECONDS, set_as_default=False, name="sound-of-pixels"
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"cluster.scheduler: {scheduler} does not answer ({error or type(error).__name__}); "
            "start it with `dask scheduler`, or set null to work on this machine"
        ) from None
    with client:
        client.register_plugin(_at_home(Path.cwd(), Path(__file__).parents[2]))
        yield client


def _at_home(folder: Path, code: Path) -> Any:
    """A plugin that makes a worker work in this folder, with this code."""
    import distributed

    # A class of a function travels whole; one of a module would have to be importable there.
    class AtHome(distributed.WorkerPlugin):
        name = f"sound-of-pixels {folder}"

        def setup(self, worker: Any) -> None:
            os.chdir(folder)
            if str(code) not in sys.path:
                sys.path.insert(0, str(code))

    return AtHome()
