"""Apply a function to many items in parallel: on this machine, or on a Dask cluster."""

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from sop.runtime.errors import LeftOut, LeftOutForNow, UserError, disk_error, stoppable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no worker waits for its next item, few enough that a long list is not held in memory.
QUEUED_PER_WORKER = 2

# Timeout of the scheduler's answer, and the interval between two counts of the workers.
ANSWER_SECONDS = 30.0
COUNT_SECONDS = 5.0

# Maximum time that processes get to remove their temporary files when the work is stopped.
END_SECONDS = 5.0


@dataclass(frozen=True)
class Workers:
    """Number and place of the workers."""

    count: int
    """Number of workers on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers are used instead of this machine."""
    limit: int | None = None
    """Maximum number of items that are processed at the same time, on all machines together."""


@dataclass(frozen=True)
class _Pool:
    """An executor, and what differs between this machine and a cluster."""

    submit: Callable[[Any], "futures.Future[Any]"]
    result: Callable[["futures.Future[Any]"], Any]
    """Returns the result of `work`, or raises its exception."""
    capacity: Callable[[], int]
    """Number of items that may be queued or running."""


def map_unordered(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: Workers,
    processes: bool = False,
    what: str = "work",
) -> Iterator[tuple[Item, Result | LeftOut]]:
    """Apply `work` to every item; yield each item with its result in the order of completion.

    Args:
        work: a function. A `LeftOut` that it raises is returned as its result. A `UserError` ends
            the iteration after the items that are being processed, any other exception at once.
            On a cluster the function and the items are sent as pickles, and an item may be
            processed twice.
        items: arguments of `work`.
        workers: number and place of the workers.
        processes: True runs `work` in processes (for CPU work in Python), False in threads (for
            work that waits for a network, a disk or another program). A cluster ignores it.
        what: name of the work, for messages.

    Raises:
        UserError: the scheduler cannot be reached, or a process was killed.
    """
    remaining = iter(items)
    first = list(islice(remaining, 1))
    if not first:
        # No pool is started and no cluster connected for nothing.
        return
    remaining = chain(first, remaining)
    running: dict[futures.Future[Any], Item] = {}
    cluster = workers.scheduler is not None
    opened = (
        _cluster_pool(work, workers) if cluster else _local_pool(work, workers, processes, what)
    )
    failure: UserError | None = None
    with opened as pool:
        while True:
            if failure is None:
                for item in islice(remaining, max(0, pool.capacity() - len(running))):
                    running[pool.submit(item)] = item
            if not running:
                break
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                item = running.pop(future)
                try:
                    result = pool.result(future)
                except LeftOut as reason:
                    result = reason
                except futures.CancelledError:
                    continue
                except UserError as error:
                    # Items that are being processed are finished and yielded first, so that their
                    # results are not lost.
                    failure = failure or error
                    for waiting in running:
                        waiting.cancel()
                    continue
                yield item, result
    if failure is not None:
        raise failure


@contextmanager
def _local_pool(
    work: Callable[[Any], Any], workers: Workers, processes: bool, what: str
) -> Iterator[_Pool]:
    count = min(workers.count, workers.limit or workers.count)
    executor = futures.ThreadPoolExecutor(count)
    pool = _Processes(work, count, what) if processes else None
    try:
        yield _Pool(
            lambda item: executor.submit(pool.apply if pool else work, item),
            lambda future: future.result(),
            lambda: QUEUED_PER_WORKER * count,
        )
        executor.shutdown(wait=True)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        if pool is not None:
            pool.end()
        executor.shutdown(wait=True)


class _Processes:
    """Processes that apply a function to one item at a time, each for one thread.

    The executor of processes in Python's library can wait forever after one of them was killed,
    because they share queues. Here each has a pipe of its own, which ends with it.

    Args:
        work: the function.
        count: number of processes. Each is started when it is needed.
        what: name of the work, for messages.
    """

    def __init__(self, work: Callable[[Any], Any], count: int, what: str) -> None:
        self.work = work
        self.what = what
        self.started: list[_Process] = []
        self.ending = False
        self.idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        for _ in range(count):
            self.idle.put(None)

    def apply(self, item: Any) -> Any:
        """Return the result of an item, or raise its exception."""
        process = self.idle.get()
        try:
            if process is None:
                process = _Process(self.work)
                self.started.append(process)
                if self.ending:
                    process.process.terminate()
            return process.apply(item, self.what)
        finally:
            self.idle.put(process)

    def end(self) -> None:
        """Stop the processes. One that is at work removes its temporary files first."""
        self.ending = True
        for process in self.started:
            process.process.terminate()
        for process in self.started:
            process.process.join(END_SECONDS)
            process.process.kill()
            process.process.join(END_SECONDS)


class _Process:
    """A process and the pipe to it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        # A forked process would inherit locks that threads of this one may hold.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        # The end of the process is reported where a result is missing.
        with suppress(OSError):
            self.connection.send(work)

    def apply(self, item: Any, what: str) -> Any:
        try:
            self.connection.send(item)
            result, error, trace = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended(what) from None
        if error is not None:
            raise error from (None if isinstance(error, LeftOut | UserError) else Exception(trace))
        return result

    def _ended(self, what: str) -> Exception:
        self.process.join(END_SECONDS)
        status = self.process.exitcode
        if status is None or status >= 0:
            return RuntimeError(f"{what}: a process ended with status {status}")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return UserError(
            f"{what}: a worker process was killed ({name}); if memory was full, lower workers in "
            "params.yaml; finished files are kept, run again"
        )


def _serve(connection: Connection) -> None:
    """Receive a function, then answer each item with its result, its error and a traceback."""
    with suppress(EOFError, OSError, KeyboardInterrupt), stoppable():
        work = connection.recv()
        while True:
            item = connection.recv()
            answer: tuple[Any, Exception | None, str] = (None, None, "")
            try:
                answer = (work(item), None, "")
            except Exception as error:
                trace = traceback.format_exc()
                answer = (None, disk_error(error) or error, f"in a worker process:\n{trace}")
            try:
                message = pickle.dumps(answer)
            except Exception:
                message = pickle.dumps((None, RuntimeError(answer[2] or repr(answer[0])), ""))
            connection.send_bytes(message)


@contextmanager
def _cluster_pool(work: Callable[[Any], Any], workers: Workers) -> Iterator[_Pool]:
    # Both take half a second to import, which work on one machine need not pay.
    import cloudpickle
    import distributed

    scheduler = workers.scheduler
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
        client.register_plugin(_worker_environment(Path.cwd(), Path(__file__).parents[2]))
        executor, attempt = client.get_executor(pure=False), _attempt()
        try:
            yield _Pool(
                lambda item: executor.submit(attempt, cloudpickle.dumps((work, item))),
                lambda future: _cluster_result(future, scheduler),
                _cluster_capacity(client, workers.limit),
            )
        finally:
            executor.shutdown(wait=False)


def _attempt() -> Callable[[bytes], bytes]:
    """Return the task: it applies pickled work to a pickled item and returns the pickled result.

    Only workers unpickle it, so that a scheduler does not need this repository. A function defined
    here is pickled by value, so that workers can read it before they can import this package.
    """

    def attempt(task: bytes) -> bytes:
        # A function that is pickled by value takes no imports of its module along.
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


def _cluster_result(future: "futures.Future[bytes]", scheduler: str | None) -> Any:
    # Takes half a second to import, and only work on a cluster needs it.
    import distributed

    try:
        result = pickle.loads(future.result())  # noqa: S301
    except distributed.KilledWorker as error:
        died = error.allowed_failures + 1
        raise LeftOutForNow(f"{died} workers of the cluster died while processing it") from None
    except (futures.CancelledError, distributed.CancelledError, OSError):
        raise UserError(
            f"cluster.scheduler: connection to {scheduler} lost; finished files are kept, "
            "run again when the scheduler is back"
        ) from None
    if isinstance(result, LeftOut | UserError):
        raise result
    return result


def _cluster_capacity(client: Any, limit: int | None) -> Callable[[], int]:
    """Return a function for the number of items to submit at a time, as workers come and go."""
    capacity, counted, waiting = 0, -COUNT_SECONDS, False

    def current() -> int:
        nonlocal capacity, counted, waiting
        if time.monotonic() - counted >= COUNT_SECONDS:
            threads = sum(client.nthreads().values())
            if not threads and not waiting:
                logger.info("the cluster has no workers yet; waiting for them")
                waiting = True
            counted, capacity = time.monotonic(), max(1, QUEUED_PER_WORKER * threads)
        return min(capacity, limit or capacity)

    return current


def _worker_environment(folder: Path, code: Path) -> Any:
    """Return a plugin that sets a worker's working folder and makes this code importable there."""
    import distributed

    # A class defined in a function is pickled by value; a worker cannot import this module yet.
    class WorkerEnvironment(distributed.WorkerPlugin):
        name = f"sound-of-pixels {folder}"

        def setup(self, worker: Any) -> None:
            os.chdir(folder)
            if str(code) not in sys.path:
                sys.path.insert(0, str(code))

    return WorkerEnvironment()
