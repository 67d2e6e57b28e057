"""What training changes: model, optimizer with its learning rates, moving average and counters."""

import math
from typing import Any

import torch
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sop.model.pixelplayer import PixelPlayer
from sop.params import TrainParams
from sop.train.gradients import unwrap


class TrainingState:
    """The state of a run between two steps.

    Args:
        player: the model, on its device.
        params: optimizer and moving average.
    """

    def __init__(self, player: PixelPlayer, params: TrainParams) -> None:
        self.params = params
        self.player = player
        self.optimizer = make_optimizer(player, params)
        self.ema: AveragedModel | None = None
        if params.ema_decay is not None:
            average = get_ema_multi_avg_fn(params.ema_decay)
            self.ema = AveragedModel(player, multi_avg_fn=average, use_buffers=True)
        self.step = 0
        """Number of completed steps, skipped ones included."""
        self.skipped = 0
        """Number of steps skipped because of a loss that was not finite."""
        self.best = -math.inf
        """Best validation result so far; larger is better."""
        self.left_out: dict[str, None] = {}
        """Clips that could not be read, each with its reason, in order."""

    @property
    def output_model(self) -> PixelPlayer:
        """The model to validate and save: the moving average if there is one."""
        return self.player if self.ema is None else unwrap(self.ema)

    def begin_step(self, epoch_steps: int) -> None:
        """Set the learning rates for the current step, and clear the gradients."""
        for group in self.optimizer.param_groups:
            factor = learning_rate_factor(self.step, epoch_steps, self.params, group["start"])
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)

    def update_weights(self) -> None:
        """Apply the gradients to the model, and the model to its moving average."""
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.player)

    def update_best(self, results: dict[str, float], best_by: str) -> bool:
        """Return True, and remember the result, if a validation is the best so far."""
        value = results.get(best_by, math.nan) * (-1 if best_by == "loss" else 1)
        is_best = value > self.best
        if is_best:
            self.best = value
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "left_out": list(self.left_out),
            "player": self.player.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.step, self.skipped, self.best = state["step"], state["skipped"], state["best"]
        self.left_out = dict.fromkeys(state["left_out"])
        self.player.load_state_dict(state["player"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


def make_optimizer(player: PixelPlayer, params: TrainParams) -> Optimizer:
    """Return the optimizer; as published, the vision net's head has the sound net's rate."""
    rates = params.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": list(player.sound.parameters()), "lr": rates.sound},
        {"params": list(player.vision.trunk.parameters()), "lr": rates.vision},
        {"params": list(player.vision.head.parameters()), "lr": rates.sound},
        {"params": list(player.synthesizer.parameters()), "lr": rates.synthesizer},
    ]
    for net in (player.motion, player.synchrony):
        if net is not None:
            group = {"params": list(net.parameters()), "lr": rates.sound}
            groups.append({**group, "start": params.motion_start})
    for group in groups:
        group["initial_lr"] = group["lr"]
        group.setdefault("start", 0.0)
    decay = params.weight_decay
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=params.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(groups, weight_decay=decay, fused=True)


def learning_rate_factor(
    step: int, epoch_steps: int, params: TrainParams, start: float = 0.0
) -> float:
    """Return the factor of the learning rates of a net at a step.

    Args:
        step: the step, counted from 0.
        epoch_steps: number of steps in an epoch.
        params: schedule and number of epochs.
        start: fraction of all steps after which the net begins to learn, and its cosine schedule.
    """
    if params.schedule == "steps":
        epochs_done = step // epoch_steps
        return float(0.1 ** sum(epochs_done >= drop for drop in params.learning_rate_steps))
    steps = epoch_steps * params.epochs
    begin = round(start * steps)
    step, steps = max(0, step - begin), steps - begin
    warmup = max(1, round(params.warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
