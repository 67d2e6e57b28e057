"""Batches: the number of steps, the share of each rank, and the worker processes that read them."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from sop.dataset.mixtures import Batch, Mixture, TrainingMixtures, stack, to_batch
from sop.params import Params, TrainParams
from sop.runtime.errors import UserError
from sop.runtime.readers import Readers
from sop.train.distributed import ProcessGroup


@dataclass(frozen=True)
class Plan:
    """Numbers of steps and micro-batches."""

    epoch_steps: int
    """Number of steps in an epoch."""
    steps: int
    """Number of steps in all epochs."""
    micro_batches: int
    """Number of micro-batches in each rank's share of a batch."""


def make_plan(params: TrainParams, epoch_mixtures: int, world_size: int) -> Plan:
    """Divide epochs into steps, and batches among ranks.

    Args:
        params: batch size, micro-batches and epochs.
        epoch_mixtures: number of mixtures in an epoch, a multiple of the batch size.
        world_size: number of ranks that share each batch.

    Raises:
        UserError: the batch cannot be divided evenly.
    """
    parts = params.micro_batches
    if params.batch_size % max(parts, world_size) or (parts > world_size and parts % world_size):
        raise UserError(
            f"train.batch_size {params.batch_size} with train.micro_batches {parts} cannot be "
            f"shared by {world_size} devices: the batch size must be a multiple of both, and "
            "micro_batches, if larger, a multiple of the number of devices"
        )
    epoch_steps = epoch_mixtures // params.batch_size
    return Plan(epoch_steps, epoch_steps * params.epochs, max(1, parts // world_size))


def training_batches(
    mixtures: TrainingMixtures,
    steps: range,
    params: Params,
    group: ProcessGroup,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Batch]:
    """Yield this rank's share of the batch of each step, read by worker processes.

    A batch is valid until the next one is requested, whose tensors may have the same memory.

    Args:
        mixtures: all mixtures of the run, in order.
        steps: the steps, counted from 0.
        params: batch size and number of workers.
        group: the ranks that share each batch.
        stop: asked while waiting for a batch; True ends the iteration.

    Raises:
        UserError: too many clips in a row cannot be read, or none arrives; see `Readers.map`.
    """
    batch_size = params.train.batch_size
    share = batch_size // group.world_size
    begins = (step * batch_size + group.rank * share for step in steps)
    readers = Readers(
        "train",
        count=max(1, params.worker_count // group.world_size),
        result_bytes=share * mixtures.reader.mixture_bytes,
        borrowed=True,
    )
    read = partial(_read, mixtures)
    with closing(readers.map(read, (range(b, b + share) for b in begins), stop)) as results:
        for stacked in results:
            batch = to_batch(stacked)
            yield batch.pin_memory() if group.device.type == "cuda" else batch


def _read(mixtures: TrainingMixtures, items: range) -> Mixture:
    return stack([mixtures[item] for item in items])
