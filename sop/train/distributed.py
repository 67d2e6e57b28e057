"""Several processes that train one model together, each on its share of every batch."""

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

# An evaluation, which only the first process does, may take a while.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees it."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process reports, evaluates and writes."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
            value /= self.size
        return value

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it, which all then know."""
        if self.size == 1:
            return wish
        wishes = torch.tensor(float(wish), device=self.device)
        torch.distributed.all_reduce(wishes)
        return bool(wishes.item() > 0)

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            torch.distributed.barrier()


def processes_wanted(devices: int | str, device: str) -> int:
    """How many processes `train.devices` means on this machine."""
    if devices != "auto":
        return int(devices)
    on_gpus = device == "auto" and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpus else 1


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(module: str, processes: int) -> int:
    """Run a module in so many processes of this machine; the first exit status that is not 0."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([sys.executable, *torchrun, "-m", module]).returncode


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team of this process: alone, unless torchrun started it.

    Args:
        device: `device` of params.yaml; in a team `auto` and `cuda` are a GPU for each process.

    Raises:
        UserError: the device is not there.
    """
    if not is_launched():
        yield Team(0, 1, choose_device(device))
        return
    local = int(os.environ["LOCAL_RANK"])
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Team(torch.distributed.get_rank(), torch.distributed.get_world_size(), chosen)
    finally:
        torch.distributed.destroy_process_group()
