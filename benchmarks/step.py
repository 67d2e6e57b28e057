"""Speed of a training step with the published settings: ours, and a copy of the published one.

Run: python -m benchmarks.step [cpu | cuda] [--compile] [--batch N] [--curves FILE]

Without a device: tables for the CPU, then those for the GPU if available: the speed of each step,
its operations per second against the peak rates that are measured in the same process, and what
its time is spent on. On a GPU, both variants are also trained for some steps on the same data, and
their losses are plotted.
"""

import argparse
import json
import os
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
from benchmarks.peak import OPERATORS, OTHER, UNUSED, Peak, bound, measure_peak, profiled, wait
from benchmarks.scale import set_values
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
# Steps that are timed together, and how often in one process: the fastest count.
STEPS = {"cpu": 1, "cuda": 10}
REPETITIONS = 2
PEAK_SECONDS = 0.3
# Without messages of the profiler, which looks for a GPU.
QUIET = {"KINETO_LOG_LEVEL": "99"}
CURVE_STEPS = 200
CURVES = Path("benchmarks/step.png")

PUBLISHED = "the published step, float32"
EXACT = "the published step, float32 without TF32"
OURS_EXACT = "ours, float32 without TF32"
KINDS = (
    PUBLISHED,
    EXACT,
    OURS_EXACT,
    "ours, float32",
    "ours, bfloat16",
    "ours, float32, compiled",
    "ours, bfloat16, compiled",
)
COMPILED = "compiled"
# Plotted together with the published step.
FASTEST = "ours, bfloat16"

# The published networks and clips, small: for a test of the scripts on a CPU.
SMALL = {
    "extract.frame_height": 36,
    "index.min_seconds": 2.0,
    "mixture.audio_samples": 16383,
    "mixture.margin_seconds": 0.5,
    "mixture.frame_stride": 2,
    "mixture.image_size": 32,
    "spectrogram.stft_hop": 512,
    "model.sound": "unet5",
    "model.sound_width": 8,
    "model.vision_width": 8,
    "model.channels": 8,
    "model.weights.vision": "scratch",
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
    peak: Peak
    """Measured peak rates of the machine for the data type of the convolutions."""
    spent: dict[str, float]
    """Fraction of the time of a step in each group of operators."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.speed * self.operations

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Measured":
        """Return what `asdict` made a dictionary of."""
        return cls(**{**values, "peak": Peak(**values["peak"])})


def main() -> None:
    """Measure on the requested devices, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("device", nargs="?", choices=BATCHES)
    parser.add_argument(
        "--compile", action="store_true", help="also measure torch.compile on the CPU"
    )
    parser.add_argument("--batch", type=int, help="mixtures per step")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="processes for each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--curves", type=Path, default=CURVES, help="PNG file for the losses on a GPU"
    )
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--losses", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what = (options.one, options.device, options.batch, options.losses, options.small)
        print(json.dumps(one(*what)))
        return
    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    for device in devices:
        batch = options.batch or BATCHES[device]
        kinds = kinds_on(device, options.compile)
        report(measure_alternately(kinds, device, batch, options.rounds), device, batch)
        if device == "cuda":
            curves = {k: in_process(k, device, batch, "--losses") for k in (PUBLISHED, FASTEST)}
            draw({kind: losses or [] for kind, losses in curves.items()}, options.curves)
            print(f"\nLosses over {CURVE_STEPS} steps: {options.curves}")
    print(f"\n{environment()}")


def kinds_on(device: str, compiled: bool) -> list[str]:
    """Return the kinds to measure on a device; a CPU has no TF32, and compilation is optional."""
    if device == "cuda":
        return list(KINDS)
    kinds = [kind for kind in KINDS if kind not in (EXACT, OURS_EXACT)]
    return [kind for kind in kinds if compiled or COMPILED not in kind]


def measure_alternately(
    kinds: Sequence[str], device: str, batch: int, rounds: int
) -> dict[str, list[Measured | None]]:
    """Measure all kinds alternately, each in its own process; None if memory is insufficient."""
    found: dict[str, list[Measured | None]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, measured in found.items():
            values = in_process(kind, device, batch)
            measured.append(None if values is None else Measured.from_json(values))
    return found


def in_process(kind: str, device: str, batch: int, *options: str) -> Any:
    """Return the result of `one` in a new process."""
    command = command_of(kind, device, batch, *options)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | QUIET
    )
    return json.loads(done.stdout.splitlines()[-1])


def command_of(kind: str, device: str, batch: int, *options: str) -> list[str]:
    """Return the command that prints the result of `one` as its last line."""
    command = [sys.executable, "-m", "benchmarks.step", device, "--one", kind]
    return [*command, "--batch", str(batch), *options]


def one(kind: str, device: str, batch: int, wants_losses: bool, small: bool = False) -> Any:
    """Return measurement or losses of one kind; None if the memory of the GPU is insufficient."""
    torch.set_num_threads(THREADS)
    params = published_params(kind, batch, small)
    try:
        if wants_losses:
            return losses(kind, params, torch.device(device), CURVE_STEPS)
        return asdict(measure(kind, params, torch.device(device), STEPS[device], small))
    except torch.OutOfMemoryError:
        return None


def published_params(kind: str, batch: int, small: bool = False) -> Params:
    """Return the preset `music` with another batch size and one micro-batch."""
    params = preset_music(small)
    precision = "bfloat16" if "bfloat16" in kind else "float32"
    train = params.train.model_copy(
        update={"batch_size": batch, "micro_batches": 1, "precision": precision}
    )
    return params.model_copy(update={"train": train})


def preset_music(small: bool = False) -> Params:
    """Return the parameters of the preset `music`; `small` with small networks and clips."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "params.yaml"
        place.write_text(Path("params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        apply_preset("music", place)
        if small:
            set_values(Path(folder), SMALL)
        return load_params(place)


def measure(
    kind: str, params: Params, device: torch.device, steps: int, small: bool = False
) -> Measured:
    """Measure steps on one batch, without loading, and the peak rates of the machine in turn."""
    size, on_gpu = params.train.batch_size, device.type == "cuda"
    player, step = make(kind, params, device)
    again = step(clips(params, 0, device))
    # Counted before compilation, which hides the operations.
    with FlopCounterMode(display=False) as counter:
        again()
    if COMPILED in kind:
        player.compile()
        again()
    peak, seconds, used = Peak(0.0, 0.0), float("inf"), 0
    for _ in range(REPETITIONS):
        half = "bfloat16" in kind
        peak = peak.faster(measure_peak(device, half, 0.0 if small else PEAK_SECONDS, small))
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            again()
            used = torch.cuda.max_memory_allocated(device)
        wait(device)
        began = time.perf_counter()
        for _ in range(steps):
            again()
        wait(device)
        seconds = min(seconds, (time.perf_counter() - began) / steps)
    spent = profiled(again, device, seconds)
    return Measured(size / seconds, counter.get_total_flops() / size, used, peak, spent)


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
    """Print tables: speeds and shares of the peak rates, these rates, and the time's use."""
    on = f"{THREADS} threads" if device == "cpu" else torch.cuda.get_device_name()
    rounds = max(len(measured) for measured in found.values())
    columns = [f"batch of {batch}, {on}, best of {rounds}", "mixtures/s"]
    columns.append("ratio, median of the pairs")
    columns += ["GiB"] if device == "cuda" else []
    columns += ["10^12 operations/s", "of the matrix product", "of the convolution"]
    print_row(columns)
    print("| --- " * len(columns) + "|")
    peaks = peak_rates(found, device)
    best: dict[str, Measured] = {}
    for kind, measurements in found.items():
        measured = [one for one in measurements if one is not None]
        if len(measured) < len(measurements):
            print(f"| {kind} | out of memory |" + " |" * (len(columns) - 2))
            continue
        best[kind] = fastest = max(measured, key=lambda one: one.speed)
        cells = [kind, f"{fastest.speed:.2f}", ratio(measurements, found.get(PUBLISHED, []))]
        if device == "cuda":
            cells.append(f"{max(one.bytes for one in measured) / 2**30:.1f}")
        peak = peaks[data_type(kind, device)]
        cells += [f"{fastest.rate / 1e12:.3g}", f"{fastest.rate / peak.matrix_product:.0%}"]
        print_row([*cells, f"{fastest.rate / peak.convolution:.0%}"])
    print("\n| measured peak, 10^12 operations/s | large matrix product | large convolution |")
    print("| --- | --- | --- |")
    for name, peak in peaks.items():
        print_row([name, f"{peak.matrix_product / 1e12:.3g}", f"{peak.convolution / 1e12:.3g}"])
    print()
    print_row(["fraction of the time of a step", *best])
    print("| --- " * (1 + len(best)) + "|")
    for name in [*OPERATORS, OTHER] + [UNUSED] * (device == "cuda"):
        print_row([name, *(f"{one.spent[name]:.0%}" for one in best.values())])
    print()
    for kind, fastest in best.items():
        peak = peaks[data_type(kind, device)]
        print(f"- {kind}: bound by {bound(fastest.rate, peak, fastest.spent)}.")
    if device == "cuda":
        print("\nConvolutions in float32 use TF32, PyTorch's default, unless a row says otherwise.")


def print_row(cells: Sequence[str]) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |")


def data_type(kind: str, device: str) -> str:
    """Return the data type of the convolutions of a step."""
    if "bfloat16" in kind:
        return "bfloat16"
    return "TF32" if device == "cuda" and kind not in (EXACT, OURS_EXACT) else "float32"


def peak_rates(found: Mapping[str, Sequence[Measured | None]], device: str) -> dict[str, Peak]:
    """Return the fastest rates of each data type."""
    peaks: dict[str, Peak] = {}
    for kind, rounds in found.items():
        for measured in filter(None, rounds):
            name = data_type(kind, device)
            peaks[name] = peaks.get(name, Peak(0.0, 0.0)).faster(measured.peak)
    return peaks


def ratio(rounds: Sequence[Measured | None], bases: Sequence[Measured | None]) -> str:
    """Return the median ratio of speeds measured one after the other."""
    ratios = sorted(
        one.speed / base.speed for one, base in zip(rounds, bases, strict=False) if one and base
    )
    return f"{ratios[len(ratios) // 2]:.2f}" if ratios else ""


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


if __name__ == "__main__":
    main()
