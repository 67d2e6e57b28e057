"""Measured peak rates of a machine, and what the time of a step is spent on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Large enough that larger ones were not faster, small enough for several repetitions a second.
MATRIX = {"cpu": 2048, "cuda": 8192}
CONVOLUTION_BATCH = {"cpu": 4, "cuda": 128}
CHANNELS, EXTENT, KERNEL = 256, 56, 3
# For a test of the script.
SMALL_MATRIX, SMALL_BATCH = 256, 1

CONVOLUTIONS = "convolutions"
OTHER = "element-wise operations and the rest"
UNUSED = "GPU unused"
# Parts of the names of operators in the profile; the first group that matches counts.
OPERATORS = {
    CONVOLUTIONS: ("convolution",),
    "batch normalization": ("batch_norm",),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "pooling and upsampling": ("pool", "upsample", "grid_sampler"),
    "copies and concatenation": ("copy_", "aten::cat"),
    "optimizer": ("aten::_foreach", "aten::_fused", "Optimizer"),
}


@dataclass(frozen=True)
class Peak:
    """Measured peak rates in operations per second; a product and a sum are two operations."""

    matrix_product: float
    """Rate of a large matrix product."""
    convolution: float
    """Rate of a large convolution, forward alone or with its backward pass: the faster one."""

    def faster(self, other: "Peak") -> "Peak":
        """Return the larger rate of each kind."""
        return Peak(
            max(self.matrix_product, other.matrix_product), max(self.convolution, other.convolution)
        )


def measure_peak(device: torch.device, bfloat16: bool, seconds: float, small: bool = False) -> Peak:
    """Measure the rates of a large matrix product and of a large convolution.

    Products of float32 use TF32 if convolutions do (`torch.backends.cudnn.allow_tf32`).

    Args:
        device: the device.
        bfloat16: whether both factors are bfloat16 instead of float32.
        seconds: time for each of the three measurements; the fastest repetition counts.
        small: whether the factors are small, and the rates therefore no peak.
    """
    kind = torch.bfloat16 if bfloat16 else torch.float32
    size = SMALL_MATRIX if small else MATRIX[device.type]
    count = SMALL_BATCH if small else CONVOLUTION_BATCH[device.type]
    earlier = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    product = fastest(lambda: left @ right, device, seconds)
    torch.backends.cuda.matmul.allow_tf32 = earlier
    images = torch.randn(count, CHANNELS, EXTENT, EXTENT, device=device, dtype=kind)
    weights = torch.randn(CHANNELS, CHANNELS, KERNEL, KERNEL, device=device, dtype=kind)
    images, weights = (
        value.to(memory_format=torch.channels_last).requires_grad_() for value in (images, weights)
    )
    gradient = torch.randn_like(images)

    def forward() -> Tensor:
        return F.conv2d(images, weights, padding=KERNEL // 2)

    def both() -> object:
        return torch.autograd.grad(forward(), (images, weights), gradient)

    one_way = 2 * count * CHANNELS**2 * KERNEL**2 * EXTENT**2
    with torch.no_grad():
        alone = fastest(forward, device, seconds)
    together = fastest(both, device, seconds)
    return Peak(2 * size**3 / product, max(one_way / alone, 3 * one_way / together))


def fastest(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the seconds of the fastest of some calls, after one to warm up.

    On a GPU, several calls are timed together, so that starting them takes no time.
    """
    function()
    wait(device)
    calls = 10 if device.type == "cuda" else 1
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def profiled(step: Callable[[], object], device: torch.device, seconds: float) -> dict[str, float]:
    """Return the fraction of a step's time in each group of operators.

    Args:
        step: one step.
        device: the device of its networks.
        seconds: time of a step on a GPU without the profiler, which slows the CPU: where the GPU
            has less work than that, it is unused for a while. Without effect on a CPU.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as recorded:
        step()
        wait(device)
    spent = dict.fromkeys((*OPERATORS, OTHER), 0.0)
    for event in recorded.key_averages():
        # The time of a kernel is also that of the operator that started it.
        if event.device_type == DeviceType.CPU:
            spent[group(event.key)] += (
                event.self_device_time_total if on_gpu else event.self_cpu_time_total
            )
    total = sum(spent.values())
    if on_gpu:
        spent[UNUSED] = max(0.0, 1e6 * seconds - total)
        total += spent[UNUSED]
    return {name: value / total for name, value in spent.items()}


def group(operator: str) -> str:
    """Return the group of an operator of the profile."""
    for name, parts in OPERATORS.items():
        if any(part in operator for part in parts):
            return name
    return OTHER


def bound(rate: float, peak: Peak, spent: Mapping[str, float]) -> str:
    """Say what bounds a step, from its rate, the peak rates and the fractions of its time.

    The rate in its convolutions is that of all its operations, hardly any of which are elsewhere.
    """
    inside = rate / max(spent[CONVOLUTIONS], 1e-9) / peak.convolution
    name, most = max(
        ((name, value) for name, value in spent.items() if name != CONVOLUTIONS),
        key=lambda item: item[1],
    )
    return (
        f"convolutions, {spent[CONVOLUTIONS]:.0%} of the time at {inside:.0%} of their peak"
        if spent[CONVOLUTIONS] >= most
        else f"{name}, {most:.0%} of the time; convolutions {spent[CONVOLUTIONS]:.0%}"
    )


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
