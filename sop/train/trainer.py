"""The training run: mix and separate, from the first step to the last."""

import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sop.dataset.index import VALIDATION, Video
from sop.dataset.mixtures import Batch, MixtureReader, MixtureSampler, Shares, TrainingMixtures
from sop.dataset.seeding import torch_seed
from sop.evaluate.measures import MEASURES
from sop.evaluate.validation import MixtureKind, Score, evaluation_summary, separate_mixtures
from sop.model.card import ModelCard
from sop.model.checkpoint import save_player
from sop.model.pixelplayer import SPECTRUM_POWER, PixelPlayer, build
from sop.model.spectrogram import MaskRule
from sop.params import Params, TrainParams
from sop.runtime.device import keep_freed_memory
from sop.runtime.errors import UserError
from sop.runtime.files import remove_partials, replacing, writing
from sop.runtime.progress import progress
from sop.train.description import training_card, with_pictures
from sop.train.distributed import ProcessGroup
from sop.train.gradients import compute_gradients, uses_bfloat16
from sop.train.initial_weights import load_initial_weights
from sop.train.loader import make_plan, training_batches
from sop.train.monitor import MetricLog, Throughput, open_live
from sop.train.resume import ResumeCheckpoint, run_identity
from sop.train.state import TrainingState

logger = logging.getLogger(__name__)

# Separate from evaluate.mask_threshold and mask_power, which can change without a new training.
VALIDATION_THRESHOLD = 0.5

# All runs validate on the same mixtures, so that their curves can be compared. With the default
# evaluate.seed these are the first ones of the evaluation.
VALIDATION_SEED = 1234

# Number of steps between two exchanges of stop requests among ranks.
STOP_EXCHANGE_STEPS = 10

# A terminal, `timeout` and torchrun may each pass on the same request to stop.
REPEAT_SECONDS = 0.5

# With 4 channels or fewer in channels_last, CPU convolutions of PyTorch 2.15 write out of bounds.
MIN_CHANNELS_LAST = 8


class RunFolders(NamedTuple):
    """Folders that a training run writes to."""

    model: Path
    """Receives the results, `last.pt` and `best.pt`."""
    resume: Path
    """Receives files that exist only until the run has ended."""
    metrics: Path
    """Receives the files of DVCLive: losses, learning rate and validation measures."""


@dataclass
class Trainer:
    """A training run.

    An interrupted run resumes from its last checkpoint, with the same result as without the
    interruption. Checkpoints of other runs are ignored.

    Args:
        params: all parameters.
        training: training videos.
        validation: validation videos, none of them in `training`.
        folders: output folders.
        group: the ranks that train together.

    Raises:
        UserError: the lists are too short, or initial weights cannot be loaded.
    """

    params: Params
    training: Sequence[Video]
    validation: Sequence[Video]
    folders: RunFolders
    group: ProcessGroup

    def __post_init__(self) -> None:
        keep_freed_memory()
        params, settings, group = self.params, self.params.train, self.group
        # Fails now instead of after an epoch if the list is too short.
        MixtureSampler(self.validation, params.mixture, VALIDATION)
        reader = MixtureReader(params.mixture, params.extract, params.model.motion != "none")
        self.mixtures = TrainingMixtures(
            self.training,
            reader,
            settings.repeats,
            settings.batch_size,
            settings.seed,
            Shares.of_parameters(settings),
        )
        self.plan = make_plan(settings, len(self.mixtures), group.world_size)
        player = build(params.model, params.spectrogram, torch_seed(settings.seed, "model"))
        if group.is_main:
            # DistributedDataParallel copies them to the other ranks.
            load_initial_weights(player, params.model)
        self.state = TrainingState(_on_device(player, settings, group.device), settings)
        self.live = open_live(str(self.folders.metrics)) if group.is_main else None
        self.metrics = MetricLog(self.live)
        self.best_path = self.folders.resume / "best.pt"
        self.resume_checkpoint = ResumeCheckpoint(
            self.folders.resume / "train.pt", run_identity(params, self.training, self.validation)
        )
        self.load_checkpoint()
        self.model: nn.Module = self.state.player
        if settings.compile:
            self.model.compile()
        if group.world_size > 1:
            # Steps before `motion_start` use no weights of the nets of motion.
            unused = params.model.motion != "none" and settings.motion_start > 0
            self.model = DistributedDataParallel(self.model, find_unused_parameters=unused)
        self.throughput = Throughput(settings.batch_size)
        self.saved_at = time.monotonic()
        # The card of the model after a step, with what its pictures look like.
        self.pictured: tuple[int, ModelCard] | None = None
        if group.is_main:
            self.log_start()

    def run(self) -> None:
        """Train to the last step, and write the last and the best state of the model.

        Raises:
            UserError: the loss is not finite, or a file cannot be written.
            SystemExit: a signal requested a stop; the resume checkpoint has been written.
        """
        params, state, group = self.params, self.state, self.group
        steps = range(state.step, self.plan.steps)
        with (
            writing(self.folders.metrics),
            self.live or nullcontext(),
            stop_signals() as signals,
            closing(
                training_batches(
                    self.mixtures,
                    steps,
                    self.params,
                    group,
                    # Several ranks must stop after the same step.
                    stop=lambda: group.world_size == 1 and bool(signals),
                )
            ) as batches,
        ):
            shown: Iterable[Batch] = batches
            if group.is_main:
                shown = progress(batches, "train", self.plan.steps, "step", done=state.step)
            for batch in self.throughput.timed(shown):
                self.train_step(batch)
                ends_epoch = state.step % self.plan.epoch_steps == 0
                stop = self.stop_requested(bool(signals))
                save = stop or time.monotonic() - self.saved_at >= params.checkpoint_seconds
                log = state.step % params.log_every == 0
                if log or save or ends_epoch:
                    self.check_losses(self.metrics.flush())
                if log and self.group.is_main:
                    self.log_step()
                if ends_epoch:
                    self.end_epoch()
                if save:
                    self.save_checkpoint()
                if stop:
                    break
            else:
                # The batches end early if a signal arrives while the next one is awaited.
                stop = state.step < self.plan.steps
                if stop:
                    self.check_losses(self.metrics.flush())
                    self.save_checkpoint()
            if stop:
                logger.info(f"train: stopped after step {state.step}; the next run resumes there")
                raise SystemExit(128 + (signals or [signal.SIGTERM])[0])
            if group.is_main:
                self.finish()

    def train_step(self, batch: Batch) -> None:
        """Update the weights with one batch."""
        state = self.state
        for reason in batch.left_out:
            if reason not in state.left_out:
                logger.info(f"left out of training: {reason}")
            state.left_out[reason] = None
        state.begin_step(self.plan.epoch_steps)
        loss = compute_gradients(
            self.model, batch, self.params, self.group.device, self.plan.micro_batches
        )
        loss = self.group.mean(loss)
        state.step += 1
        if self.is_usable(loss):
            state.update_weights()
            self.metrics.add_step(state.step, loss, state.optimizer.param_groups[0]["lr"])

    def is_usable(self, loss: Tensor) -> bool:
        """Return False if the current step must be skipped because its loss is not finite.

        On a GPU, the loss is read only if steps may be skipped, since reading it waits for the GPU.

        Raises:
            UserError: more steps have been skipped than allowed.
        """
        state, limit = self.state, self.params.train.max_non_finite_steps
        if loss.device.type != "cpu" and not limit:
            return True
        value = float(loss)
        if math.isfinite(value):
            return True
        state.skipped += 1
        if state.skipped > limit:
            self.check_losses([(state.step, value)])
        logger.info(f"train: step {state.step} is skipped because its loss is {value}")
        return False

    def check_losses(self, losses: Iterable[tuple[int, float]]) -> None:
        """Check the losses of steps.

        Raises:
            UserError: a loss is not finite; the message names the videos of that step.
        """
        settings = self.params.train
        for step, value in losses:
            if not math.isfinite(value):
                items = range((step - 1) * settings.batch_size, step * settings.batch_size)
                videos = {video.name for item in items for video in self.mixtures[item].videos}
                raise UserError(
                    f"train: the loss is {value} at step {step} with {', '.join(sorted(videos))}; "
                    "lower train.learning_rate, which is "
                    f"{settings.learning_rate.sound:g} for the sound net, or raise "
                    "train.max_non_finite_steps to skip such steps"
                )

    def stop_requested(self, signalled: bool) -> bool:
        """Return True on all ranks if any rank received a stop signal."""
        if self.group.world_size > 1 and self.state.step % STOP_EXCHANGE_STEPS:
            return False
        return self.group.any_rank(signalled)

    def end_epoch(self) -> None:
        """Validate if an evaluation is due, and save the model."""
        settings, state = self.params.train, self.state
        if self.group.is_main:
            epoch = state.step // self.plan.epoch_steps
            if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
                results = self.validate(epoch)
                self.metrics.add_validation(state.step, results)
                if state.update_best(results, settings.best_by):
                    self.save_model(self.best_path)
            self.save_model(self.folders.model / "last.pt")
        self.group.barrier()

    def validate(self, epoch: int) -> dict[str, float]:
        """Return loss and measures on the first validation mixtures, those that have a value."""
        separations = separate_mixtures(
            self.state.output_model,
            self.validation,
            self.params,
            self.params.train.evaluate_mixtures,
            VALIDATION_SEED,
            self.validation_rule,
            self.group.device,
            # The SDR of the noise of a source at rest says nothing, and would decide `best_by`.
            MixtureKind(rest_is_silence=True),
        )
        measured = [mixture.score() for mixture in separations]
        prefix = f"epoch {epoch}/{self.params.train.epochs}"
        if not any(isinstance(result, Score) for result in measured):
            logger.info(f"{prefix}: no validation mixture could be measured")
            return {}
        results = evaluation_summary(measured)
        means = {name: results[name]["mean"] for name in MEASURES}
        found = {"loss": results["loss"], **means}
        known = {name: value for name, value in found.items() if value is not None}
        silent = results["silent_estimates"]
        logger.info(
            f"{prefix}: validation "
            + ", ".join(
                f"loss {value:.4f}" if name == "loss" else f"{name} {value:.2f} dB"
                for name, value in known.items()
            )
            # Many masks may be empty early in training.
            + (f"; {silent} estimates are silent" if silent else "")
        )
        return {**known, "silent_estimates": silent}

    @property
    def validation_rule(self) -> MaskRule:
        """How masks become gains in validations: as the objective uses them."""
        power = SPECTRUM_POWER if self.params.train.spectrum_weight > 0 else None
        return MaskRule.of(self.params.model.mask, VALIDATION_THRESHOLD, power)

    def save_model(self, path: Path) -> None:
        """Write the current model."""
        model, step = self.state.output_model, self.state.step
        # The best and the last model of an epoch are the same.
        if self.pictured is None or self.pictured[0] != step:
            self.pictured = step, with_pictures(self.card, model, self.params, self.training)
        save_player(path, model, self.params, step, self.pictured[1])

    @cached_property
    def card(self) -> ModelCard:
        """What the model file says about the training; equal for equal runs."""
        return training_card(self.params, self.training)

    def save_checkpoint(self) -> None:
        """Write the resume checkpoint, on the main rank."""
        self.saved_at = time.monotonic()
        if self.group.is_main:
            state = {**self.state.state_dict(), "metrics": self.metrics.entries}
            self.resume_checkpoint.save(state)

    def load_checkpoint(self) -> None:
        """Restore the resume checkpoint of this run, if there is one."""
        if self.group.is_main:
            for folder in (self.folders.model, self.folders.resume):
                remove_partials(folder)
        if state := self.resume_checkpoint.load():
            self.state.load_state_dict(state)
            for entry in state["metrics"]:
                self.metrics.log(*entry)
        elif self.group.is_main:
            self.best_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Write the best model, and delete the files for resuming."""
        best, last = self.best_path, self.folders.model / "last.pt"
        with replacing(self.folders.model / "best.pt") as partial:
            shutil.copyfile(best if best.is_file() else last, partial)
        self.metrics.add_left_out(len(self.state.left_out))
        logger.info(
            f"train: {self.throughput.speed:.1f} mixtures/s, "
            f"{self.throughput.waiting_fraction:.0%} of the time waiting for data"
        )
        self.resume_checkpoint.path.unlink(missing_ok=True)
        best.unlink(missing_ok=True)

    def log_start(self) -> None:
        """Log size and settings of the run."""
        settings, group = self.params.train, self.group
        videos = len(self.training)
        parameters = sum(parameter.numel() for parameter in self.state.player.parameters())
        single = group.world_size == 1
        devices = str(group.device) if single else f"{group.world_size} x {group.device.type}"
        precision = "bfloat16" if uses_bfloat16(settings, group.device) else "float32"
        resumed = f", resuming after step {self.state.step}" if self.state.step else ""
        logger.info(
            f"train: {videos} videos, {parameters / 1e6:.2f} M parameters on {devices} in "
            f"{precision}, {settings.epochs} epochs of {self.plan.epoch_steps} steps of "
            f"{settings.batch_size} mixtures{resumed}"
        )

    def log_step(self) -> None:
        """Log loss, speed and learning rate."""
        logger.info(
            f"step {self.state.step}/{self.plan.steps}: loss {self.metrics.last_loss:.4f}, "
            f"{self.throughput.speed:.1f} mixtures/s, "
            f"{self.throughput.waiting_fraction:.0%} waiting, "
            f"learning rate {self.state.optimizer.param_groups[0]['lr']:.3g}"
        )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C in a list instead of interrupting a step.

    A signal that arrives `REPEAT_SECONDS` after the first one ends the process at once.
    """
    received: list[int] = []
    first = math.inf

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        del frame
        if time.monotonic() > first + REPEAT_SECONDS:
            os._exit(128 + number)
        received.append(number)
        first = min(first, time.monotonic())

    earlier = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _on_device(player: PixelPlayer, params: TrainParams, device: torch.device) -> PixelPlayer:
    if params.sync_batch_norm:
        if device.type != "cuda":
            raise UserError(
                f"train.sync_batch_norm: PyTorch supports it on GPUs only, not on {device}; set "
                "it to false"
            )
        player = nn.SyncBatchNorm.convert_sync_batchnorm(player)
    player.to(device)
    if min(player.params.sound_width, player.params.vision_width) >= MIN_CHANNELS_LAST:
        player.to_channels_last()
    return player
