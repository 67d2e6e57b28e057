"""Processes that train one model together, each on its share of every batch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor

from sop.runtime.device import choose_device

# Other ranks wait while rank 0 validates, which may take long.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks that train together, as seen by one of them."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for the rank that logs, validates and writes files."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over all ranks."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
            value /= self.world_size
        return value

    def any_rank(self, value: bool) -> bool:
        """Return True on all ranks if the value is true on any rank."""
        if self.world_size == 1:
            return value
        total = torch.tensor(float(value), device=self.device)
        torch.distributed.all_reduce(total)
        return bool(total.item() > 0)

    def barrier(self) -> None:
        """Wait until all ranks have reached this point."""
        if self.world_size > 1:
            torch.distributed.barrier()


def process_count(devices: int | str, device: str) -> int:
    """Return the number of processes that `train.devices` requests on this machine."""
    if devices != "auto":
        return int(devices)
    on_gpus = device == "auto" and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpus else 1


def is_launched() -> bool:
    """Return True if torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(module: str, processes: int) -> int:
    """Run a module in several processes on this machine with torchrun; return the exit status."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([sys.executable, *torchrun, "-m", module]).returncode


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun started, or form a group of this process alone.

    Args:
        device: `device` of params.yaml; under torchrun, `auto` and `cuda` are one GPU per rank.

    Raises:
        UserError: the device does not exist.
    """
    if not is_launched():
        yield ProcessGroup(0, 1, choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield ProcessGroup(torch.distributed.get_rank(), torch.distributed.get_world_size(), chosen)
    finally:
        torch.distributed.destroy_process_group()
