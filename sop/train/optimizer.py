"""Optimizer and learning rate schedule."""

import math

import torch
from torch.optim.optimizer import Optimizer

from sop.model.pixelplayer import PixelPlayer
from sop.params import TrainParams


def make_optimizer(player: PixelPlayer, params: TrainParams) -> Optimizer:
    """Return the optimizer; as published, the vision net's head has the sound net's rate."""
    rates = params.learning_rate
    groups = [
        {"params": list(player.sound.parameters()), "lr": rates.sound},
        {"params": list(player.vision.trunk.parameters()), "lr": rates.vision},
        {"params": list(player.vision.head.parameters()), "lr": rates.sound},
        {"params": list(player.synthesizer.parameters()), "lr": rates.synthesizer},
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    decay = params.weight_decay
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=params.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(groups, weight_decay=decay, fused=True)


def set_learning_rates(
    optimizer: Optimizer, step: int, epoch_steps: int, params: TrainParams
) -> None:
    """Set the learning rates for a step, counted from 0."""
    factor = learning_rate_factor(step, epoch_steps, params)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def learning_rate_factor(step: int, epoch_steps: int, params: TrainParams) -> float:
    """Return the factor of all learning rates at a step.

    Args:
        step: the step, counted from 0.
        epoch_steps: number of steps in an epoch.
        params: schedule and number of epochs.
    """
    if params.schedule == "steps":
        epochs_done = step // epoch_steps
        return float(0.1 ** sum(epochs_done >= drop for drop in params.learning_rate_steps))
    steps = epoch_steps * params.epochs
    warmup = max(1, round(params.warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
