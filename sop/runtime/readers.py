"""Worker processes that read: their results arrive in order, and large arrays without a copy.

PyTorch's DataLoader passes tensors through /dev/shm. A container has 64 MB of it by default, and a
worker that finds it full drops the batch for which the program then waits forever. Here the
processes share anonymous memory, which has no such limit.
"""

import atexit
import mmap
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from sop.runtime.errors import LeftOut, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# A stuck network drive can recover; a batch takes seconds even on slow disks.
STALL_SECONDS = 300.0

# Interval between two questions whether to stop.
POLL_SECONDS = 0.2

# Maximum time to wait for the end of a killed process.
END_SECONDS = 5.0

# Arrays begin at multiples of it, as vector instructions prefer.
ALIGNMENT = 64


@dataclass(frozen=True)
class Readers:
    """Worker processes that read items ahead of time."""

    what: str
    """Name of the work, for messages."""
    count: int
    """Number of processes."""
    result_bytes: int
    """Size of the arrays in a result. A larger result is correct, but slower."""
    borrowed: bool = False
    """True if arrays of a result may be overwritten as soon as the next result is requested."""
    queued: int = 4
    """Number of items per process that are read ahead of time."""
    stall_seconds: float = STALL_SECONDS
    """Maximum time to wait for a result."""

    def map(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[Result]:
        """Apply a function to items in the processes, and yield the results in order.

        Close the generator, or exhaust it, to end the processes. They ignore Ctrl-C and SIGTERM,
        which a terminal or cluster sends to all processes of a program, so that the program can
        use what has been read. They end with the program even if it is killed.

        Args:
            work: the function. Its exceptions end the iteration.
            items: its arguments.
            stop: asked while waiting for a result; True ends the iteration.

        Raises:
            UserError: a process was killed, or no result arrived in `stall_seconds`.
        """
        remaining = iter(items)
        processes: list[_Process] = []
        end = partial(_end, processes)
        # The system's own handler would wait for processes that never end.
        atexit.register(end)
        try:
            # The processes take turns, so that results arrive in the order of the items.
            first = list(islice(remaining, self.count * self.queued))
            for _ in range(min(self.count, len(first))):
                processes.append(_Process(self, work, processes))
            for number, item in enumerate(first):
                processes[number % self.count].send(item)
            number, outstanding = 0, len(first)
            while outstanding:
                process = processes[number % self.count]
                message = process.receive(stop)
                if message is None:
                    return
                yield process.result(message)
                outstanding -= 1
                for item in islice(remaining, 1):
                    process.send(item)
                    outstanding += 1
                number += 1
        finally:
            end()
            atexit.unregister(end)


class _Process:
    """A worker process, and the memory through which its arrays pass.

    Args:
        readers: size of a result, and number of results.
        work: the function.
        earlier: processes that were started before.
    """

    def __init__(
        self, readers: Readers, work: Callable[[Any], Any], earlier: "list[_Process]"
    ) -> None:
        self.readers = readers
        context = multiprocessing.get_context()
        # Room for the result, and for the gaps between its arrays.
        self.slot_bytes = _aligned(readers.result_bytes) + mmap.PAGESIZE
        self.memory: mmap.mmap | None = None
        # Only a forked process inherits the memory; others send arrays through their pipe.
        forked = context.get_start_method() == "fork"
        if forked:
            with suppress(OSError):
                self.memory = mmap.mmap(-1, self.slot_bytes * readers.queued)
        self.slot = 0
        self.connection, theirs = context.Pipe()
        # A pipe ends with the last process that holds the other end of it.
        foreign = [process.connection for process in (*earlier, self)] if forked else []
        slots = (self.memory, self.slot_bytes, readers.queued)
        self.process = context.Process(
            target=_serve, args=(work, theirs, foreign, *slots), daemon=True
        )
        self.process.start()
        theirs.close()

    def send(self, item: Any) -> None:
        """Order the result of an item."""
        # The end of a process is reported where its result is missing.
        with suppress(OSError):
            self.connection.send(item)

    def receive(self, stop: Callable[[], bool]) -> tuple[bytes, list[int] | None] | None:
        """Return the next message of the process; None if `stop` returned True before."""
        deadline = time.monotonic() + self.readers.stall_seconds
        while not self.connection.poll(0):
            if stop():
                return None
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.readers.what}: nothing could be read for "
                    f"{self.readers.stall_seconds:.0f} s; check the disk or network drive that "
                    "contains the data, and run again"
                )
            wait([self.connection, self.process.sentinel], POLL_SECONDS)
            if not self.process.is_alive() and not self.connection.poll(0):
                break
        try:
            message: tuple[bytes, list[int] | None] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(END_SECONDS)
            status = self.process.exitcode
            raise UserError(
                f"{self.readers.what}: a process that reads data was ended from outside (exit "
                f"status {status}); if memory was full, lower workers in params.yaml"
            ) from None
        return message

    def result(self, message: tuple[bytes, list[int] | None]) -> Any:
        """Return the result in a message, or raise the error in it."""
        pickled, sizes = message
        buffers: list[bytearray | memoryview] = []
        if self.memory is not None and sizes is not None:
            for place, size in zip(_places(self.slot * self.slot_bytes, sizes), sizes, strict=True):
                buffer = memoryview(self.memory)[place : place + size]
                buffers.append(buffer if self.readers.borrowed else bytearray(buffer))
        self.slot = (self.slot + 1) % self.readers.queued
        # From a process of this program.
        result = pickle.loads(pickled, buffers=buffers)  # noqa: S301
        if isinstance(result, Exception):
            raise result
        return result


def _serve(
    work: Callable[[Any], Any],
    connection: Connection,
    foreign: list[Connection],
    memory: mmap.mmap | None,
    slot_bytes: int,
    slots: int,
) -> None:
    """Answer each item with the result of `work`, until the program ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for other in foreign:
        other.close()
    slot = 0
    with suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            try:
                result = work(item)
            except (UserError, LeftOut) as error:
                result = error
            except Exception:
                result = RuntimeError(f"in a process that reads data:\n{traceback.format_exc()}")
            connection.send(_message(result, memory, slot * slot_bytes, slot_bytes))
            slot = (slot + 1) % slots


def _message(
    result: Any, memory: mmap.mmap | None, begin: int, slot_bytes: int
) -> tuple[bytes, list[int] | None]:
    """Write the arrays of a result into memory; return the rest, and their sizes."""
    if memory is not None:
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        sizes = [view.nbytes for view in views]
        places = _places(begin, sizes)
        if not views or places[-1] + sizes[-1] <= begin + slot_bytes:
            for place, view in zip(places, views, strict=True):
                memory[place : place + view.nbytes] = view
            return pickled, sizes
    return pickle.dumps(result, protocol=5), None


def _places(begin: int, sizes: list[int]) -> list[int]:
    """Return the place of each array in memory."""
    places = []
    for size in sizes:
        places.append(begin)
        begin += _aligned(size)
    return places


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _end(processes: list[_Process]) -> None:
    """End processes at once: they write nothing, and one that is stuck ends in no other way."""
    for process in processes:
        process.process.kill()
    for process in processes:
        process.process.join(END_SECONDS)
        process.connection.close()
    processes.clear()
