"""Speed of training with the published settings on several processes or GPUs.

Run: python -m benchmarks.scaling [cpu | cuda] [--batch N]

Without a device: GPUs if available, else the CPU, where threads of one process are compared with
processes of one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.machine import environment
from benchmarks.peak import wait
from benchmarks.step import BATCHES, clips, published_params
from sop.model.pixelplayer import build
from sop.params import Params
from sop.runtime.device import keep_freed_memory
from sop.train.distributed import ProcessGroup, process_group
from sop.train.gradients import compute_gradients
from sop.train.state import make_optimizer

ROUNDS = 3
STEPS = {"cpu": 2, "cuda": 20}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}


class Layout(NamedTuple):
    """Processes and threads that share a batch."""

    processes: int
    threads: int
    """Number of threads of each process."""

    def name(self, device: str) -> str:
        """Return a description for the table."""
        if device == "cuda":
            return f"{self.processes} GPU{'s' * (self.processes > 1)}"
        return (
            f"{self.processes} process{'es' * (self.processes > 1)} of "
            f"{self.threads} thread{'s' * (self.threads > 1)}"
        )


def main() -> None:
    """Measure all layouts alternately, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("device", nargs="?", choices=BATCHES)
    parser.add_argument("--batch", type=int, help="mixtures per step of all processes together")
    parser.add_argument("--one", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    batch = options.batch or BATCHES[device]
    if options.one:
        torch.set_num_threads(options.one)
        with process_group(device) as group:
            speed = measure(published_params(PRECISION[device], batch), group, STEPS[device])
            if group.is_main:
                print(json.dumps(speed))
        return
    speeds: dict[Layout, list[float]] = {layout: [] for layout in layouts(device, batch)}
    for _ in range(ROUNDS):
        for layout, found in speeds.items():
            found.append(in_processes(layout, device, batch))
    report(speeds, device, batch)
    print(f"\n{environment()}")


def layouts(device: str, batch: int) -> list[Layout]:
    """Return one GPU and each number of GPUs that divides the batch, or two CPU cores."""
    if device == "cpu":
        return [Layout(1, 1), Layout(1, 2), Layout(2, 1)]
    count = torch.cuda.device_count()
    threads = max(1, (os.cpu_count() or 1) // max(1, count))
    return [Layout(number, threads) for number in range(1, count + 1) if batch % number == 0]


def in_processes(layout: Layout, device: str, batch: int) -> float:
    """Return the mixtures per second of a layout, started by torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    command = [sys.executable, *torchrun, f"--nproc-per-node={layout.processes}"]
    command += ["-m", "benchmarks.scaling", device, "--batch", str(batch)]
    command += ["--one", str(layout.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(layout.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(params: Params, group: ProcessGroup, steps: int) -> float:
    """Return the mixtures per second of all processes, on random clips, without loading."""
    keep_freed_memory()
    player = build(params.model, params.spectrogram, params.train.seed).train()
    player.to(group.device).to_channels_last()
    optimizer = make_optimizer(player, params.train)
    model: nn.Module = DistributedDataParallel(player) if group.world_size > 1 else player
    batch = params.train.batch_size
    share = params.train.model_copy(update={"batch_size": batch // group.world_size})
    mine = clips(params.model_copy(update={"train": share}), group.rank, group.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        compute_gradients(model, mine, params, group.device)
        optimizer.step()

    for _ in range(2):
        step()
    wait(group.device)
    group.barrier()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait(group.device)
    group.barrier()
    return steps * batch / (time.perf_counter() - began)


def report(speeds: dict[Layout, list[float]], device: str, batch: int) -> None:
    """Print a table; efficiency is the ratio to the first layout per GPU or core."""
    what = f"batch of {batch}, {PRECISION[device]}, best of {ROUNDS}"
    print(f"| {what} | mixtures/s | ratio, median of the pairs | efficiency |")
    print("| --- | --- | --- | --- |")
    (first, base), *_ = speeds.items()
    for layout, found in speeds.items():
        ratio = sorted(mine / its for mine, its in zip(found, base, strict=True))[len(found) // 2]
        efficiency = ratio / (units(layout, device) / units(first, device))
        print(f"| {layout.name(device)} | {max(found):.2f} | {ratio:.2f} | {efficiency:.0%} |")


def units(layout: Layout, device: str) -> int:
    """Return the number of GPUs or cores that a layout uses."""
    return layout.processes * (layout.threads if device == "cpu" else 1)


if __name__ == "__main__":
    main()
