"""Speed of a training step with the published settings: ours, and a copy of the published one.

Run: python -m benchmarks.step [cpu | cuda] [--compile] [--batch N] [--curves FILE]

Without a device: a table for the CPU, then one for the GPU if available. On a GPU, both variants
are also trained for some steps on the same data, and their losses are plotted.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import environment
from sop.dataset.mixtures import Batch
from sop.model.pixelplayer import PixelPlayer, build, normalize_frames
from sop.model.spectrogram import stft, warp_rows
from sop.params import Params, load_params
from sop.presets import apply_preset
from sop.runtime.device import keep_freed_memory
from sop.train.gradients import compute_gradients
from sop.train.state import make_optimizer

ROUNDS = 3
THREADS = 2
BATCHES = {"cpu": 4, "cuda": 80}
STEPS = {"cpu": 2, "cuda": 20}
CURVE_STEPS = 200
CURVES = Path("benchmarks/step.png")

PUBLISHED = "the published step, float32"
EXACT = "the published step, float32 without TF32"
KINDS = (
    PUBLISHED,
    EXACT,
    "ours, float32",
    "ours, bfloat16",
    "ours, float32, compiled",
    "ours, bfloat16, compiled",
)
COMPILED = "compiled"
# Plotted together with the published step.
FASTEST = "ours, bfloat16"

# Peak rate of dense bfloat16 products with float32 sums, in 10^12 operations per second, from the
# data sheets. The first pattern that matches the name of the GPU applies.
PEAKS = {
    r"\bMIG\b": None,
    r"\bB200\b": 2250.0,
    r"\bH200 NVL\b": 835.0,
    r"\bH200\b": 989.0,
    r"\bH100 PCIe\b": 756.0,
    r"\bH100 NVL\b": 835.0,
    r"\bH100\b": 989.0,
    r"\bA100\b": 312.0,
    r"\bL40S\b": 362.0,
    r"\bL4\b": 121.0,
    r"\bA10\b": 125.0,
    r"\bRTX 4090\b": 165.0,
    r"\bRTX 3090\b": 71.0,
}

Step = Callable[[Batch], Callable[[], Tensor]]


@dataclass(frozen=True)
class Measured:
    """Measurement of one kind of step in one process."""

    speed: float
    """Number of mixtures per second."""
    operations: float
    """Number of operations per mixture in convolutions and matrix products of both passes."""
    bytes: int
    """Peak memory of tensors on the GPU in bytes; 0 on a CPU."""


def main() -> None:
    """Measure on the requested devices, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("device", nargs="?", choices=BATCHES)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile on the CPU"
    )
    parser.add_argument("--batch", type=int, help="mixtures per step")
    parser.add_argument(
        "--curves", type=Path, default=CURVES, help="PNG file for the losses on a GPU"
    )
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--losses", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.device, options.batch, options.losses)))
        return
    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    for device in devices:
        batch = options.batch or BATCHES[device]
        kinds = kinds_on(device, options.compile)
        report(measure_alternately(kinds, device, batch), device, batch)
        if device == "cuda":
            curves = {k: in_process(k, device, batch, "--losses") for k in (PUBLISHED, FASTEST)}
            draw({kind: losses or [] for kind, losses in curves.items()}, options.curves)
            print(f"\nLosses over {CURVE_STEPS} steps: {options.curves}")
    print(f"\n{environment()}")


def kinds_on(device: str, compiled: bool) -> list[str]:
    """Return the kinds to measure on a device; a CPU has no TF32, and compilation is optional."""
    if device == "cuda":
        return list(KINDS)
    return [kind for kind in KINDS if kind != EXACT and (compiled or COMPILED not in kind)]


def measure_alternately(
    kinds: Sequence[str], device: str, batch: int
) -> dict[str, list[Measured | None]]:
    """Measure all kinds alternately, each in its own process; None if memory is insufficient."""
    found: dict[str, list[Measured | None]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, measured in found.items():
            values = in_process(kind, device, batch)
            measured.append(None if values is None else Measured(**values))
    return found


def in_process(kind: str, device: str, batch: int, *options: str) -> Any:
    """Return the result of `one` in a new process."""
    command = [sys.executable, "-m", "benchmarks.step", device, "--one", kind]
    command += ["--batch", str(batch), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(kind: str, device: str, batch: int, wants_losses: bool) -> Any:
    """Return measurement or losses of one kind; None if the memory of the GPU is insufficient."""
    torch.set_num_threads(THREADS)
    params = published_params(kind, batch)
    try:
        if wants_losses:
            return losses(kind, params, torch.device(device), CURVE_STEPS)
        return asdict(measure(kind, params, torch.device(device), STEPS[device]))
    except torch.OutOfMemoryError:
        return None


def published_params(kind: str, batch: int) -> Params:
    """Return the preset `music` with another batch size and one micro-batch."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "params.yaml"
        place.write_text(Path("params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        apply_preset("music", place)
        params = load_params(place)
    precision = "bfloat16" if "bfloat16" in kind else "float32"
    train = params.train.model_copy(
        update={"batch_size": batch, "micro_batches": 1, "precision": precision}
    )
    return params.model_copy(update={"train": train})


def measure(kind: str, params: Params, device: torch.device, steps: int) -> Measured:
    """Measure steps on one batch, without loading."""
    size = params.train.batch_size
    player, step = make(kind, params, device)
    again = step(clips(params, 0, device))
    # Counted before compilation, which hides the operations.
    with FlopCounterMode(display=False) as counter:
        again()
    if COMPILED in kind:
        player.compile()
    again()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for _ in range(steps):
        again()
    wait(device)
    seconds = time.perf_counter() - began
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Measured(steps * size / seconds, counter.get_total_flops() / size, used)


def losses(kind: str, params: Params, device: torch.device, steps: int) -> list[float]:
    """Return the losses of a training with new clips in each step, equal for all kinds."""
    player, step = make(kind, params, device)
    if COMPILED in kind:
        player.compile()
    found = [step(clips(params, number, device))() for number in range(steps)]
    return torch.stack(found).tolist()


def clips(params: Params, number: int, device: torch.device) -> Batch:
    """Return a batch in which the color of a picture corresponds to the pitch of its sound."""
    mixture, batch = params.mixture, params.train.batch_size
    # Made on the device, since a CPU would be too slow for a GPU.
    rng = torch.Generator(device).manual_seed(number)
    shares = torch.rand(batch, mixture.sources, generator=rng, device=device)
    moments = torch.arange(mixture.audio_samples, device=device) / params.extract.sample_rate
    phases = 2 * torch.pi * 110 * 2 ** (4 * shares[..., None]) * moments
    harmonics = torch.stack([torch.sin(times * phases) / times for times in (1, 2, 3)])
    hiss = 0.1 * torch.randn(phases.shape, generator=rng, device=device)
    audio = 0.1 * (harmonics.sum(dim=0) + hiss) / mixture.sources
    size = (batch, mixture.sources, mixture.frames, mixture.image_size, mixture.image_size, 3)
    frames = torch.randint(0, 64, size, dtype=torch.uint8, generator=rng, device=device)
    colors = torch.stack([shares, 1 - shares, shares], dim=-1)
    frames += (190 * colors).to(torch.uint8)[:, :, None, None, None]
    return Batch(audio, frames, (), torch.ones(shares.shape, dtype=torch.bool, device=device))


def make(kind: str, params: Params, device: torch.device) -> tuple[PixelPlayer, Step]:
    """Return a model, and a function that returns a training step for a batch."""
    player = build(params.model, params.spectrogram, params.train.seed).train().to(device)
    if kind == EXACT:
        torch.backends.cudnn.allow_tf32 = False
    return player, (published_step if kind in (PUBLISHED, EXACT) else our_step)(player, params)


def our_step(player: PixelPlayer, params: Params) -> Step:
    """Return the step of `sop.train`; the step returns its loss."""
    keep_freed_memory()
    player.to_channels_last()
    optimizer = make_optimizer(player, params.train)

    def of(batch: Batch) -> Callable[[], Tensor]:
        def step() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = compute_gradients(player, batch, params, batch.audio.device)
            optimizer.step()
            return loss

        return step

    return of


def published_step(player: PixelPlayer, params: Params) -> Step:
    """Return the published step: a vision pass per source, `grid_sample`, default layout, eager.

    Spectrograms and normalized frames come from the published loader, and are not measured.
    """
    spectrogram, train = params.spectrogram, params.train
    groups = [
        {"params": group["params"], "lr": group["lr"]}
        for group in make_optimizer(player, train).param_groups
    ]
    optimizer = torch.optim.SGD(groups, momentum=train.momentum, weight_decay=train.weight_decay)

    def of(batch: Batch) -> Callable[[], Tensor]:
        mixture = stft(batch.audio.sum(dim=1), spectrogram).abs()[:, None]
        sources = [stft(source, spectrogram).abs()[:, None] for source in batch.audio.unbind(1)]
        pictures = [clip.contiguous() for clip in normalize_frames(batch.frames).unbind(1)]
        columns = torch.linspace(-1, 1, mixture.shape[-1])
        grid = torch.stack(torch.meshgrid(columns, warp_rows().float(), indexing="xy"), dim=-1)
        grid = grid.to(mixture.device).expand(len(mixture), -1, -1, -1)

        def step() -> Tensor:
            optimizer.zero_grad()
            whole = F.grid_sample(mixture + 1e-10, grid, align_corners=True)
            parts = [F.grid_sample(source, grid, align_corners=True) for source in sources]
            weight = torch.log1p(whole).clamp(1e-3, 10)
            truth = [(part > 0.5 * whole).float() for part in parts]
            maps = player.sound(torch.log(whole).detach())
            masks = []
            for clip in pictures:
                features = player.vision(clip).transpose(1, 2)
                image = torch.sigmoid(F.adaptive_max_pool3d(features, 1).flatten(1))[:, None]
                masks.append(torch.sigmoid(player.synthesizer(image, maps)))
            errors = [
                F.binary_cross_entropy(mask, true, weight)
                for mask, true in zip(masks, truth, strict=True)
            ]
            loss = torch.stack(errors).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return of


def report(found: Mapping[str, Sequence[Measured | None]], device: str, batch: int) -> None:
    """Print a table; for a GPU, with memory and fraction of the peak rate."""
    on = f"{THREADS} threads" if device == "cpu" else torch.cuda.get_device_name()
    columns = [f"batch of {batch}, {on}, best of {ROUNDS}", "mixtures/s"]
    columns.append("ratio, median of the pairs")
    peak = None
    if device == "cuda":
        columns += ["GiB", "10^12 operations/s", "of the peak rate in bfloat16"]
        peak = peak_rate(torch.cuda.get_device_name())
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for kind, rounds in found.items():
        measured = [one for one in rounds if one is not None]
        if len(measured) < len(rounds):
            print(f"| {kind} | out of memory |" + " |" * (len(columns) - 2))
            continue
        best = max(measured, key=lambda one: one.speed)
        cells = [kind, f"{best.speed:.2f}", ratio(rounds, found[PUBLISHED])]
        if device == "cuda":
            rate = best.speed * best.operations / 1e12
            cells += [f"{max(one.bytes for one in measured) / 2**30:.1f}", f"{rate:.0f}"]
            cells.append("unknown for this GPU" if peak is None else f"{rate / peak:.0%}")
        print(f"| {' | '.join(cells)} |")
    if device == "cuda":
        print(
            f"\nConvolutions in float32 use TF32, PyTorch's default, except in the row {EXACT!r}."
        )


def ratio(rounds: Sequence[Measured | None], bases: Sequence[Measured | None]) -> str:
    """Return the median ratio of speeds measured one after the other."""
    ratios = sorted(
        one.speed / base.speed for one, base in zip(rounds, bases, strict=True) if one and base
    )
    return f"{ratios[len(ratios) // 2]:.2f}" if ratios else ""


def peak_rate(name: str) -> float | None:
    """Return the peak rate of a GPU in 10^12 operations per second; None if unknown."""
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name)), None)


def draw(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Plot losses by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
