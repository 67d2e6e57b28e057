"""Training: mix and separate, from the first step to the last.

Shapes: B mixtures, N sources, L samples.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from dvclive.live import Live
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from sop.dataset.index import Video
from sop.dataset.mixtures import Batch, Draws, MixtureReader, TrainingMixtures, collate
from sop.device import choose_device, keep_freed_memory
from sop.errors import UserError
from sop.evaluation import Score, scores, separate_mixtures, summary
from sop.metrics import MEASURES
from sop.model.checkpoint import load_weights, save_player
from sop.model.pixelplayer import PixelPlayer, build, normalise_frames, separation_loss
from sop.params import Params, TrainParams
from sop.progress import say, track
from sop.seeding import torch_seed

# Evaluation has a threshold of its own, which may change without training anew.
VALIDATION_THRESHOLD = 0.5


def train(
    params: Params,
    training: Sequence[Video],
    validation: Sequence[Video],
    checkpoint: Path,
    live: Live,
) -> None:
    """Train a PixelPlayer and leave its last state in `checkpoint`, written after each epoch.

    Args:
        params: all parameters.
        training: videos to learn from.
        validation: videos to measure on, none of them in `training`.
        checkpoint: the file to write.
        live: receives the loss of each step and the measures of each evaluation.

    Raises:
        UserError: the lists are too short, initial weights cannot be had, or the loss diverges.
    """
    device = choose_device(params.device)
    keep_freed_memory()
    # Says now, not after an epoch, that the list is too short.
    Draws(validation, params.mixture)
    player = build(params.model, params.spectrogram, torch_seed(params.seed, "model"))
    load_weights(player, params.model.weights)
    player.to(device).to(memory_format=torch.channels_last)

    step_size = params.train.batch_size * params.train.devices
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(training, reader, params.train.repeats, step_size, params.seed)
    epoch_steps = len(mixtures) // step_size
    steps = epoch_steps * params.train.epochs
    optimizer = make_optimizer(player, params.train)
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, epoch_steps, params.train))
    parameters = sum(parameter.numel() for parameter in player.parameters())
    say(
        f"train: {len(training)} videos, {parameters / 1e6:.2f} M parameters on {device}, "
        f"{params.train.epochs} epochs of {epoch_steps} steps of {step_size} mixtures"
    )

    unreadable: dict[str, None] = {}
    began = time.monotonic()
    loader = training_batches(mixtures, range(steps * step_size), step_size, params, device)
    for step, batch in enumerate(track(loader, "train", steps, unit="step"), start=1):
        for reason in batch.left_out:
            if reason not in unreadable:
                say(f"left out of training: {reason}")
            unreadable[reason] = None
        loss = training_step(player, optimizer, batch, params, device)
        schedule.step()
        if not math.isfinite(loss):
            raise UserError(
                f"train: the loss is {loss} at step {step}; lower train.learning_rate, which is "
                f"{params.train.learning_rate.sound:g} for the sound net"
            )
        live.log_metric("train/loss", loss)
        if step % params.train.display_every == 0:
            rate = step * step_size / (time.monotonic() - began)
            say(f"step {step}/{steps}: loss {loss:.4f}, {rate:.1f} mixtures/s")
        if step % epoch_steps == 0:
            epoch = step // epoch_steps
            if epoch % params.train.evaluate_every == 0 or epoch == params.train.epochs:
                log_evaluation(player, validation, params, device, live, epoch)
            save_player(checkpoint, player, params, step)
        live.next_step()
    live.summary["train"]["left_out"] = len(unreadable)


def make_optimizer(player: PixelPlayer, params: TrainParams) -> Optimizer:
    """The optimizer, with the published learning rates: the vision head follows the sound net."""
    rates = params.learning_rate
    groups = [
        {"params": list(player.sound.parameters()), "lr": rates.sound},
        {"params": list(player.vision.trunk.parameters()), "lr": rates.vision},
        {"params": list(player.vision.head.parameters()), "lr": rates.sound},
        {"params": list(player.synthesizer.parameters()), "lr": rates.synthesizer},
    ]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=params.momentum, weight_decay=params.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=params.weight_decay)


def rate_factor(step: int, epoch_steps: int, params: TrainParams) -> float:
    """What the learning rates are multiplied by at a step, counted from 0."""
    if params.schedule == "steps":
        epochs_done = step // epoch_steps
        return float(0.1 ** sum(epochs_done >= drop for drop in params.learning_rate_steps))
    steps = epoch_steps * params.epochs
    warm = max(1, round(params.warmup_share * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def training_batches(
    mixtures: TrainingMixtures,
    items: range,
    step_size: int,
    params: Params,
    device: torch.device,
) -> Iterator[Batch]:
    """Batches of the given items, read by other processes while the networks work."""
    loader: DataLoader[Any] = DataLoader(
        mixtures,
        batch_size=step_size,
        sampler=items,
        num_workers=params.worker_count,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        prefetch_factor=4,
    )
    try:
        yield from loader
    except UserError as error:
        # A worker's error arrives as the last line of its traceback.
        line = str(error).strip().splitlines()[-1]
        raise UserError(line.removeprefix(f"{UserError.__module__}.UserError: ")) from None


def training_step(
    player: PixelPlayer, optimizer: Optimizer, batch: Batch, params: Params, device: torch.device
) -> float:
    """One step on a batch of `batch_size` times `devices` mixtures; returns its loss.

    Each part of `batch_size` mixtures has its own batch statistics and the gradients are their
    mean, as the published data-parallel training had it on `devices` GPUs.
    """
    player.train()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    parts = params.train.devices
    for audio, frames in zip(batch.audio.chunk(parts), batch.frames.chunk(parts), strict=True):
        spectra = player.spectra(audio.to(device, non_blocking=True))
        logits = player(spectra.magnitude, normalise_frames(frames.to(device, non_blocking=True)))
        true_masks = player.true_masks(spectra)
        loss = separation_loss(logits, spectra, true_masks, params.model, params.train) / parts
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def log_evaluation(
    player: PixelPlayer,
    validation: Sequence[Video],
    params: Params,
    device: torch.device,
    live: Live,
    epoch: int,
) -> None:
    """Measure on the first validation mixtures, log and print."""
    count = params.train.evaluate_mixtures
    separations = separate_mixtures(player, validation, params, count, VALIDATION_THRESHOLD, device)
    measured = list(scores(separations))
    if not any(isinstance(result, Score) for result in measured):
        # The masks of a model that has learned little may all be empty.
        say(f"epoch {epoch}/{params.train.epochs}: no validation mixture could be measured")
        return
    results = summary(measured)
    live.log_metric("validation/loss", results["loss"])
    for name in MEASURES:
        live.log_metric(f"validation/{name}", results[name]["mean"])
    say(
        f"epoch {epoch}/{params.train.epochs}: validation loss {results['loss']:.4f}, "
        + ", ".join(f"{name} {results[name]['mean']:.2f} dB" for name in MEASURES)
    )
