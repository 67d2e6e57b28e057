"""Speed of a training step of params.yaml on the CPU, with and without reuse of freed memory.

Run: python -m benchmarks.allocator
"""

import json
import subprocess
import sys
import time

import torch

from benchmarks.machine import environment
from sop.model.pixelplayer import build, normalize_frames, separation_loss
from sop.params import load_params
from sop.runtime.device import keep_freed_memory
from sop.train.state import make_optimizer

STEPS = 12
ROUNDS = 3


def main() -> None:
    """Measure both variants alternately, each in its own process, and print a table."""
    plain, kept = [], []
    for _ in range(ROUNDS):
        for milliseconds, option in ((plain, "plain"), (kept, "kept")):
            command = [sys.executable, "-m", "benchmarks.allocator", option]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            milliseconds.append(json.loads(done.stdout))
    ratios = sorted(p / k for p, k in zip(plain, kept, strict=True))
    print("| | ms per mixture, best of", ROUNDS, "|")
    print("| --- | --- |")
    print(f"| default of glibc | {min(plain):.1f} |")
    print(f"| freed memory reused | {min(kept):.1f} |")
    print(f"| ratio, median of the pairs | {ratios[ROUNDS // 2]:.2f} |")
    print(f"\n{environment()}")


def measure(keep: bool) -> float:
    """Return milliseconds per mixture on random clips."""
    if keep:
        keep_freed_memory()
    params = load_params()
    player = build(params.model, params.spectrogram, params.train.seed)
    player.to_channels_last()
    player.train()
    optimizer = make_optimizer(player, params.train)
    mixture, batch = params.mixture, params.train.batch_size
    audio = 0.1 * torch.randn(batch, mixture.sources, mixture.audio_samples)
    size = (batch, mixture.sources, mixture.frames, mixture.image_size, mixture.image_size, 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8)

    def step() -> None:
        spectra = player.spectra(audio)
        logits = player(spectra.magnitude, normalize_frames(frames)).logits
        loss = separation_loss(
            logits, spectra, player.true_masks(spectra), params.model, params.train
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - began) / STEPS / batch * 1000


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == "kept")))
    else:
        main()
