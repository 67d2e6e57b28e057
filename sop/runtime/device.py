"""Where tensors are computed."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sop.runtime.errors import UserError

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


def is_bfloat16_fast(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are faster than in float32, in both passes of training.

    On a CPU they are where it multiplies matrices of it (AMX). Where it has instructions for no
    more than dot products (AVX512-BF16), a step was measured to be slower, see benchmarks/.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_capabilities().get("amx_bf16"))


def cpu_capabilities() -> Mapping[str, Any]:
    """What the CPU is and can do, by PyTorch's names; empty where PyTorch is too old to tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return tell() if tell is not None else {}


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core: small arrays wait longer for a second, busy one than they take here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones (glibc; else nothing).

    By default glibc maps each large tensor anew and gives it back when it is freed, so that every
    training step on a CPU faults its memory in again: a fifth of its time, see benchmarks/.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
