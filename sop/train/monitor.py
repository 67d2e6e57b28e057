"""Watching a training run: losses, measures, and where the time goes."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from dvclive.live import Live
from scmrepo.exceptions import SCMError
from torch import Tensor

from sop.dataset.mixtures import Batch
from sop.runtime.errors import UserError


def opened(folder: str) -> Live:
    """DVCLive, writing into a folder whose earlier results it removes.

    Raises:
        UserError: git, which it looks at, has no commit or cannot be read.
    """
    try:
        return Live(folder, save_dvc_exp=False, dvcyaml=None)
    except SCMError as error:
        raise UserError(
            f"git: {error}; DVCLive wants a commit to start from: `git add --all`, then "
            "`git commit`"
        ) from None


class History:
    """Loss and learning rate of each step, measures of each evaluation, also of before a stop.

    Losses stay on their device until they are looked at, so that no step waits for it.

    Args:
        live: is told all of it; None in processes that do not lead.
    """

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._entries: list[tuple[int, str, float]] = []
        self._pending: list[tuple[int, Tensor, float]] = []
        self.last = math.nan
        """The loss that was looked at last."""

    def add(self, step: int, loss: Tensor, rate: float) -> None:
        """Keep the loss of a step, and the sound net's learning rate in it."""
        self._pending.append((step, loss, rate))

    def flush(self) -> list[tuple[int, float]]:
        """Log the losses that came since the last time; returns them with their steps."""
        if not self._pending:
            return []
        values = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        flushed = []
        for (step, _, rate), value in zip(self._pending, values, strict=True):
            self._log(step, "train/loss", value)
            self._log(step, "train/learning_rate", rate)
            flushed.append((step, value))
            self.last = value
        self._pending.clear()
        return flushed

    def measured(self, step: int, results: dict[str, float]) -> None:
        """Log an evaluation."""
        for name, value in results.items():
            self._log(step, f"validation/{name}", value)
        if self._live is not None:
            self._live.make_summary()

    def content(self) -> list[tuple[int, str, float]]:
        """What was logged so far: step, name, value."""
        return list(self._entries)

    def restore(self, entries: Iterable[Sequence[Any]]) -> None:
        """Log again what had been logged before a stop."""
        for step, name, value in entries:
            self._log(step, name, value)

    def end(self, unreadable: int) -> None:
        """Log what is known at the end: how many clips could not be read."""
        if self._live is not None:
            self._live.summary["train"]["left_out"] = unreadable

    def _log(self, step: int, name: str, value: float) -> None:
        self._entries.append((step, name, value))
        # What is not finite ends the run, and is no JSON.
        if self._live is not None and math.isfinite(value):
            self._live.step = step - 1
            self._live.log_metric(name, value)


class Clock:
    """Measures the speed of a run, and the share of its time that it waits for data.

    Args:
        batch_size: mixtures of a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._began = self._saved = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time until each comes counts as waiting."""
        remaining = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(remaining)
            except StopIteration:
                return
            if self._steps:
                self._waited += time.monotonic() - asked
            else:
                # The first comes when the readers have started, which says nothing of their speed.
                self._began = time.monotonic()
            self._steps += 1
            yield batch

    @property
    def waiting_share(self) -> float:
        """Of the time since the first batch."""
        return self._waited / max(time.monotonic() - self._began, 1e-9)

    @property
    def speed(self) -> float:
        """Mixtures per second."""
        return self._steps * self._batch_size / max(time.monotonic() - self._began, 1e-9)

    def seconds_left(self, steps: int) -> float:
        """How long so many steps will take."""
        return steps * self._batch_size / max(self.speed, 1e-9)

    def is_time_to_save(self, every_seconds: float) -> bool:
        """Whether so many seconds have passed since this was last true."""
        due = time.monotonic() - self._saved >= every_seconds
        if due:
            self._saved = time.monotonic()
        return due
