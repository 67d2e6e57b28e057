"""The environment of a measurement: one line that each benchmark prints below its table."""

import os
import platform
from datetime import datetime

import torch

from sop.runtime.device import cpu_capabilities

# Instruction sets for convolutions, fastest first.
INSTRUCTIONS = {
    "amx_bf16": "AMX-BF16",
    "avx512_bf16": "AVX512-BF16",
    "avx512_f": "AVX512",
    "avx2": "AVX2",
    "sve2": "SVE2",
    "neon": "NEON",
}


def environment() -> str:
    """Return processor, GPUs, versions and date as one line."""
    capabilities = cpu_capabilities()
    fastest = next((name for flag, name in INSTRUCTIONS.items() if capabilities.get(flag)), None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = [f"{cores} cores of {capabilities.get('cpu_name') or platform.machine()}"]
    machine += [fastest] if fastest else []
    versions = [platform.system(), f"Python {platform.python_version()}"]
    versions.append(f"PyTorch {torch.__version__}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        machine += [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
        versions.append(f"cuDNN {torch.backends.cudnn.version()}")
    now = datetime.now()
    return f"{', '.join(machine)}; {', '.join(versions)}; {now.day} {now:%B %Y}."
