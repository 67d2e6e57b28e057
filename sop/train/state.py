"""What training changes: model, optimizer, moving average and counters."""

from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sop.model.pixelplayer import PixelPlayer
from sop.params import TrainParams
from sop.train.gradients import unwrap
from sop.train.optimizer import make_optimizer


class TrainingState:
    """The state of a run between two steps.

    Args:
        player: the model, on its device.
        params: optimizer and moving average.
    """

    def __init__(self, player: PixelPlayer, params: TrainParams) -> None:
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
        self.best: float | None = None
        """Best validation result so far; larger is better."""
        self.left_out: dict[str, None] = {}
        """Clips that could not be read, each with its reason, in order."""

    @property
    def output_model(self) -> PixelPlayer:
        """The model to validate and save: the moving average if there is one."""
        return self.player if self.ema is None else unwrap(self.ema)

    def update_weights(self) -> None:
        """Apply the gradients to the model, and the model to its moving average."""
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.player)

    def update_best(self, results: dict[str, float], best_by: str) -> bool:
        """Return True, and remember the result, if a validation is the best so far."""
        if best_by not in results:
            return False
        value = -results[best_by] if best_by == "loss" else results[best_by]
        is_best = self.best is None or value > self.best
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
