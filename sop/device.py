"""Where tensors are computed."""

import ctypes
import sys

import torch

from sop.errors import UserError

# Of <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def choose_device(name: str) -> torch.device:
    """The device of params.yaml: `auto` is CUDA where there is one, else the CPU.

    Raises:
        UserError: a CUDA device is asked for that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA "
            "devices; set auto or cpu"
        )
    return device


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones (glibc; else nothing).

    By default glibc maps each large tensor anew and gives it back when it is freed, so that every
    training step on a CPU faults its memory in again: a fifth of its time, see benchmarks/.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
