"""Cost of the training that params.yaml in this folder describes, by a short real training.

`benchmarks.race` runs it in a folder of its own: python -m benchmarks.race_cost STEPS
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import wait
from sop.dataset.index import TRAIN, VALIDATION, read_index
from sop.dataset.mixtures import Batch, stack, to_batch
from sop.model.pixelplayer import build
from sop.params import load_params
from sop.runtime.errors import UserError, run
from sop.runtime.files import write_json
from sop.train.distributed import ProcessGroup, process_group
from sop.train.gradients import compute_gradients
from sop.train.trainer import RunFolders, Trainer

COST = Path("cost.json")

WARM_UP = 0.25
"""Fraction of the steps, at the beginning, that are not measured."""


@dataclass(frozen=True)
class Cost:
    """What training costs."""

    step: float
    """Seconds of a step, waiting for its batch included."""
    step_cpu: float
    """Seconds of all threads of the training process in a step."""
    validation: float
    """Seconds of a validation."""
    parameters: int
    """Number of weights."""
    flops: float
    """Operations of convolutions and matrix products in a step, both passes (FlopCounterMode)."""


class TimedTrainer(Trainer):
    """A training run that notes when each of its steps ends."""

    def __post_init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.validations: list[float] = []
        super().__post_init__()

    def train_step(self, batch: Batch) -> None:
        """Update the weights, and note the time."""
        super().train_step(batch)
        wait(self.group.device)
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def validate(self, epoch: int) -> dict[str, float]:
        """Validate, and note how long it takes."""
        began = time.perf_counter()
        found = super().validate(epoch)
        self.validations.append(time.perf_counter() - began)
        return found


def main() -> None:
    """Train for some steps, and write `COST`."""
    steps = int(sys.argv[1])
    params = load_params()
    index, motion = Path("data/index"), Path("data/motion")
    training = read_index(index / TRAIN, motion)
    repeats = -(-steps * params.train.batch_size // len(training))
    train = params.train.model_copy(update={"epochs": 1, "repeats": repeats})
    with process_group(params.device) as group:
        trainer = TimedTrainer(
            params.model_copy(update={"train": train}),
            training=training,
            validation=read_index(index / VALIDATION, motion),
            folders=RunFolders(Path("data/model"), Path("data/training"), Path("metrics/train")),
            group=group,
        )
        # With `train.motion_start` the steps before it are faster.
        begin = trainer.mixtures.motion_begin // params.train.batch_size
        count = trainer.plan.steps
        flops = count_flops(trainer, group, count - 1)
        if begin:
            flops += begin / count * (count_flops(trainer, group, 0) - flops)
        trainer.run()
    cost = Cost(
        step=mean_step(trainer.ends, begin),
        step_cpu=mean_step(trainer.cpu, begin),
        validation=sum(trainer.validations) / len(trainer.validations),
        parameters=sum(weight.numel() for weight in trainer.state.player.parameters()),
        flops=flops,
    )
    write_json(COST, asdict(cost))


def mean_step(ends: Sequence[float], begin: int = 0) -> float:
    """Return the seconds of a step without those for warming up.

    Args:
        ends: the time at which each step ends, in seconds.
        begin: number of steps of a first phase, which is measured apart; each phase counts by its
            number of steps.

    Raises:
        UserError: a phase has too few steps.
    """
    total = 0.0
    for first, last in ((0, begin), (begin, len(ends))):
        count = last - first
        left_out = max(1, round(WARM_UP * count))
        if not count and first == 0:
            continue
        if count <= left_out:
            raise UserError(
                f"a phase of the training has {count} of {len(ends)} measured steps; raise "
                "--cost-steps"
            )
        mean = (ends[last - 1] - ends[first + left_out - 1]) / (count - left_out)
        total += count * mean
    return total / len(ends)


def count_flops(trainer: Trainer, group: ProcessGroup, step: int) -> float:
    """Return the operations of a step, counted in a model that is not compiled."""
    params, size = trainer.params, trainer.params.train.batch_size
    batch = to_batch(stack([trainer.mixtures[step * size + item] for item in range(size)]))
    player = build(params.model, params.spectrogram, params.train.seed).to(group.device)
    with FlopCounterMode(display=False) as counter:
        compute_gradients(player, batch, params, group.device, trainer.plan.micro_batches)
    return float(counter.get_total_flops())


if __name__ == "__main__":
    run(main)
