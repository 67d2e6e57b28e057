"""Batches: the number of steps, the share of each rank, and the worker processes that read them."""

import signal
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from sop.dataset.mixtures import Batch, TrainingMixtures, collate
from sop.params import Params, TrainParams
from sop.runtime.errors import UserError
from sop.train.distributed import ProcessGroup

# Workers outlive a stop signal by this time, so that the current step can still end.
GRACE_SECONDS = 600


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
    mixtures: TrainingMixtures, steps: range, params: Params, group: ProcessGroup
) -> Generator[Batch]:
    """Yield this rank's share of the batch of each step, read by worker processes.

    Args:
        mixtures: all mixtures of the run, in order.
        steps: the steps, counted from 0.
        params: batch size and number of workers.
        group: the ranks that share each batch.

    Raises:
        UserError: too many clips in a row cannot be read.
    """
    batch_size = params.train.batch_size
    share = batch_size // group.world_size
    begins = (step * batch_size + group.rank * share for step in steps)
    loader: DataLoader[Any] = DataLoader(
        mixtures,
        batch_sampler=(list(range(begin, begin + share)) for begin in begins),
        num_workers=max(1, params.worker_count // group.world_size),
        collate_fn=collate,
        pin_memory=group.device.type == "cuda",
        prefetch_factor=4,
        worker_init_fn=_ignore_stop_signals,
    )
    batches = iter(loader)
    try:
        yield from batches
    except UserError as error:
        # The error of a worker arrives as the last line of its traceback.
        line = str(error).strip().splitlines()[-1]
        raise UserError(line.removeprefix(f"{UserError.__module__}.UserError: ")) from None
    finally:
        # PyTorch ends the workers with the last reference, but an error's traceback keeps one.
        batches._shutdown_workers()  # type: ignore[attr-defined]


def _ignore_stop_signals(worker: int) -> None:
    """Let a worker survive signals that a terminal or cluster sends to all processes.

    The trainer ends its workers. If it does not, they end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
