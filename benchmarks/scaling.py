"""Training steps at the published setting, shared by more and more processes or GPUs.

Run: python -m benchmarks.scaling [cpu | cuda] [--batch N]

Without a device: the GPUs where there are any, else the CPU, on which threads of one process are
compared with processes of one thread.
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

from benchmarks.machine import setting
from benchmarks.step import BATCHES, clips, published_params, wait
from sop.model.pixelplayer import build
from sop.params import Params
from sop.runtime.device import keep_freed_memory
from sop.train.distributed import ProcessGroup, process_group
from sop.train.gradients import compute_gradients
from sop.train.optimizer import make_optimizer

ROUNDS = 3
STEPS = {"cpu": 2, "cuda": 20}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}


class Crew(NamedTuple):
    """Who shares a batch."""

    processes: int
    threads: int
    """Of each process."""

    def name(self, device: str) -> str:
        """In words."""
        if device == "cuda":
            return f"{self.processes} GPU{'s' * (self.processes > 1)}"
        return (
            f"{self.processes} process{'es' * (self.processes > 1)} of "
            f"{self.threads} thread{'s' * (self.threads > 1)}"
        )


def main() -> None:
    """Run each crew in turn, and print what it makes of the same batch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("device", nargs="?", choices=BATCHES)
    parser.add_argument("--batch", type=int, help="mixtures of a step, of all processes together")
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
    speeds: dict[Crew, list[float]] = {crew: [] for crew in crews(device, batch)}
    for _ in range(ROUNDS):
        for crew, found in speeds.items():
            found.append(in_processes(crew, device, batch))
    report(speeds, device, batch)
    print(f"\n{setting()}")


def crews(device: str, batch: int) -> list[Crew]:
    """One GPU, and each number of GPUs that the batch can be shared by; or two CPU cores."""
    if device == "cpu":
        return [Crew(1, 1), Crew(1, 2), Crew(2, 1)]
    count = torch.cuda.device_count()
    threads = max(1, (os.cpu_count() or 1) // max(1, count))
    return [Crew(number, threads) for number in range(1, count + 1) if batch % number == 0]


def in_processes(crew: Crew, device: str, batch: int) -> float:
    """Mixtures per second of a crew, which torchrun starts."""
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    command = [sys.executable, *torchrun, f"--nproc-per-node={crew.processes}"]
    command += ["-m", "benchmarks.scaling", device, "--batch", str(batch)]
    command += ["--one", str(crew.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(crew.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(params: Params, group: ProcessGroup, steps: int) -> float:
    """Mixtures per second of all processes, on random clips, loading not counted."""
    keep_freed_memory()
    player = build(params.model, params.spectrogram, params.seed).train()
    player.to(group.device).to(memory_format=torch.channels_last)
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


def report(speeds: dict[Crew, list[float]], device: str, batch: int) -> None:
    """Print a table; efficiency is the ratio for each GPU, or core, of those of the first crew."""
    what = f"batch of {batch}, {PRECISION[device]}, best of {ROUNDS}"
    print(f"| {what} | mixtures/s | ratio, median of the pairs | efficiency |")
    print("| --- | --- | --- | --- |")
    (first, base), *_ = speeds.items()
    for crew, found in speeds.items():
        ratio = sorted(mine / its for mine, its in zip(found, base, strict=True))[len(found) // 2]
        efficiency = ratio / (units(crew, device) / units(first, device))
        print(f"| {crew.name(device)} | {max(found):.2f} | {ratio:.2f} | {efficiency:.0%} |")


def units(crew: Crew, device: str) -> int:
    """GPUs, or cores, that a crew keeps busy."""
    return crew.processes * (crew.threads if device == "cpu" else 1)


if __name__ == "__main__":
    main()
