"""Monitoring of a training run: losses, validation measures, and throughput."""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from dvclive.live import Live
from scmrepo.exceptions import SCMError
from torch import Tensor

from sop.dataset.mixtures import Batch
from sop.runtime.errors import UserError
from sop.runtime.files import write_text, writing


def open_live(folder: str) -> Live:
    """Open DVCLive for a folder, and remove earlier results in it.

    Raises:
        UserError: the git repository has no commit or cannot be read, or the folder cannot be
            written.
    """
    try:
        with writing(Path(folder), PermissionError):
            return Live(folder, save_dvc_exp=False, dvcyaml=None)
    except SCMError as error:
        raise UserError(
            f"git: {error}; DVCLive requires a commit: run `git add --all`, then `git commit`"
        ) from None


class MetricLog:
    """Loss and learning rate of each step, and measures of each validation.

    Losses stay on their device until `flush`, so that no step waits for the device.

    Args:
        live: receives all values; None on ranks other than the main one.
    """

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self.entries: list[tuple[int, str, float]] = []
        """All logged values: step, name, value."""
        self._pending: list[tuple[int, Tensor, float]] = []
        self.last_loss = math.nan
        """Loss of the last step before the last `flush`."""

    def add_step(self, step: int, loss: Tensor, learning_rate: float) -> None:
        """Add the loss of a step and the learning rate of the sound net."""
        self._pending.append((step, loss, learning_rate))

    def flush(self) -> list[tuple[int, float]]:
        """Log the steps since the last flush, and return each with its loss."""
        if not self._pending:
            return []
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        flushed = []
        for (step, _, learning_rate), loss in zip(self._pending, losses, strict=True):
            self.log(step, "train/loss", loss)
            self.log(step, "train/learning_rate", learning_rate)
            flushed.append((step, loss))
            self.last_loss = loss
        self._pending.clear()
        return flushed

    def add_validation(self, step: int, results: dict[str, float]) -> None:
        """Log the measures of a validation."""
        for name, value in results.items():
            self.log(step, f"validation/{name}", value)
        if self._live is not None:
            self._live.make_summary()

    def add_left_out(self, count: int) -> None:
        """Log the number of clips that could not be read, at the end of the run."""
        if self._live is not None:
            self._live.summary["train"]["left_out"] = count

    def log(self, step: int, name: str, value: float) -> None:
        """Log a value of a step, and keep it in `entries`."""
        self.entries.append((step, name, value))
        if self._live is None:
            return
        # JSON has no values that are not finite; such a loss ends the run.
        if math.isfinite(value):
            self._live.step = step - 1
            self._live.log_metric(name, value)
        elif name.startswith("validation/"):
            # Silent estimates have no SAR. DVC reports a plot without a table as a failure.
            table = Path(self._live.plots_dir) / f"metrics/{name}.tsv"
            if not table.exists():
                write_text(table, f"step\t{table.stem}\n")


class Throughput:
    """Measures the speed of a run, and the fraction of its time spent waiting for data.

    Args:
        batch_size: number of mixtures in a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._began = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; the time until each of them arrives counts as waiting."""
        asked = time.monotonic()
        for batch in batches:
            now = time.monotonic()
            if self._steps:
                self._waited += now - asked
            else:
                # The first batch includes the start of the workers, which is not their speed.
                self._began = now
            self._steps += 1
            yield batch
            asked = time.monotonic()

    @property
    def waiting_fraction(self) -> float:
        """Fraction of the time since the first batch that was spent waiting for data."""
        return self._waited / max(time.monotonic() - self._began, 1e-9)

    @property
    def speed(self) -> float:
        """Number of mixtures per second."""
        return self._steps * self._batch_size / max(time.monotonic() - self._began, 1e-9)
