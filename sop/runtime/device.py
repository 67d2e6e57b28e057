"""Devices, threads and memory of computations."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sop.runtime.errors import UserError

# Constants of <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def choose_device(name: str) -> torch.device:
    """Return the device for `device` of params.yaml; `auto` is CUDA if available, else the CPU.

    Raises:
        UserError: this machine does not have that CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"device: {name!r} does not exist on this machine, which has {count} CUDA "
            f"device{'s' * (count != 1)}; set auto or cpu"
        )
    return device


def cpu_capabilities() -> Mapping[str, Any]:
    """Return name and instruction sets of the CPU; empty if PyTorch is too old to report them."""
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)
    return get_capabilities() if get_capabilities is not None else {}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core: for small arrays, waiting for a busy second core takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors; without effect for other C libraries.

    By default, glibc returns the memory of each large tensor to the system. Mapping it again takes
    a fifth of the time of a training step on a CPU, see benchmarks/.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
