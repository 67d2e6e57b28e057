"""A training step at the published setting: ours against a plain rendering of the published one.

Run: python -m benchmarks.step
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from sop.dataset.mixtures import Batch
from sop.device import keep_freed_memory
from sop.distributed import Team
from sop.dsp.spectrogram import stft, warp_rows
from sop.model.pixelplayer import PixelPlayer, build, normalise_frames
from sop.params import Params, load_params
from sop.presets import apply_preset
from sop.training import gradients, make_optimizer

BATCH = 4
STEPS = 2
ROUNDS = 3
THREADS = 2
KINDS = {
    "published": "the published step, float32",
    "float32": "ours, float32",
    "bfloat16": "ours, bfloat16",
}


def main() -> None:
    """Run all in turn, each in a process of its own, and print mixtures per second."""
    speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, found in speeds.items():
            command = [sys.executable, "-m", "benchmarks.step", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
    print(f"| batch of {BATCH}, {THREADS} threads, best of {ROUNDS} | mixtures/s | ratio |")
    print("| --- | --- | --- |")
    for kind, name in KINDS.items():
        ratios = sorted(o / p for o, p in zip(speeds[kind], speeds["published"], strict=True))
        print(f"| {name} | {max(speeds[kind]):.2f} | {ratios[ROUNDS // 2]:.2f} |")


def measure(kind: str) -> float:
    """Mixtures per second of steps on random clips, loading not counted."""
    torch.set_num_threads(THREADS)
    params = published_params("float32" if kind == "published" else kind)
    mixture = params.mixture
    audio = 0.1 * torch.randn(BATCH, mixture.sources, mixture.audio_samples)
    size = (BATCH, mixture.sources, mixture.frames, mixture.image_size, mixture.image_size, 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8)
    player = build(params.model, params.spectrogram, params.seed).train()
    step = (
        published_step(player, params, audio, frames)
        if kind == "published"
        else our_step(player, params, Batch(audio, frames, ()))
    )
    step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return STEPS * BATCH / (time.perf_counter() - began)


def published_params(precision: str) -> Params:
    """The preset `music` at a smaller batch and from random weights."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "params.yaml"
        place.write_text(Path("params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        apply_preset("music", place)
        params = load_params(place)
    train = params.train.model_copy(
        update={"batch_size": BATCH, "parts": 1, "precision": precision}
    )
    return params.model_copy(update={"train": train})


def our_step(player: PixelPlayer, params: Params, batch: Batch) -> Callable[[], None]:
    """The step of `sop.training`."""
    keep_freed_memory()
    player.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(player, params.train)
    alone = Team(0, 1, torch.device("cpu"))

    def step() -> None:
        gradients(player, optimizer, batch, params, alone)
        optimizer.step()

    return step


def published_step(
    player: PixelPlayer, params: Params, audio: torch.Tensor, frames: torch.Tensor
) -> Callable[[], None]:
    """One vision pass for each source, `grid_sample`, default layout, eager.

    Spectrograms and normalised frames come from the published loader, and are not counted.
    """
    spectrogram = params.spectrogram
    mixture = stft(audio.sum(dim=1), spectrogram).abs()[:, None]
    sources = [stft(source, spectrogram).abs()[:, None] for source in audio.unbind(1)]
    clips = [clip.contiguous() for clip in normalise_frames(frames).unbind(1)]
    columns = torch.linspace(-1, 1, mixture.shape[-1])
    rows = warp_rows().float()
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    grid = grid.expand(BATCH, -1, -1, -1)
    optimizer = torch.optim.SGD(player.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        whole = F.grid_sample(mixture + 1e-10, grid, align_corners=True)
        parts = [F.grid_sample(source, grid, align_corners=True) for source in sources]
        weight = torch.log1p(whole).clamp(1e-3, 10)
        truth = [(part > 0.5 * whole).float() for part in parts]
        maps = player.sound(torch.log(whole).detach())
        masks = []
        for clip in clips:
            features = player.vision(clip).transpose(1, 2)
            image = torch.sigmoid(F.adaptive_max_pool3d(features, 1).flatten(1))[:, None]
            masks.append(torch.sigmoid(player.synthesizer(image, maps)))
        loss = sum(
            F.binary_cross_entropy(mask, true, weight)
            for mask, true in zip(masks, truth, strict=True)
        )
        (loss / len(masks)).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
