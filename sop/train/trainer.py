"""Training: mix and separate, from the first step to the last.

Shapes: B mixtures, N sources, L samples.
"""

import logging
import math
import shutil
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from dvclive.live import Live
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler

from sop.dataset.index import Video
from sop.dataset.mixtures import Batch, MixtureReader, MixtureSampler, TrainingMixtures, collate
from sop.dataset.seeding import torch_seed
from sop.evaluate.measures import MEASURES
from sop.evaluate.validation import Score, scores, separate_mixtures, summary
from sop.model.checkpoint import save_player
from sop.model.pixelplayer import (
    PixelPlayer,
    Spectra,
    build,
    normalize_frames,
    separation_loss,
)
from sop.params import Params, TrainParams
from sop.runtime.device import is_bfloat16_fast, keep_freed_memory
from sop.runtime.errors import UserError
from sop.runtime.files import remove_partials, replacing
from sop.runtime.progress import progress
from sop.train.distributed import Team
from sop.train.initial_weights import load_initial_weights
from sop.train.monitor import Clock, History
from sop.train.resume import Unfinished, identity

logger = logging.getLogger(__name__)

# Evaluation has a threshold of its own, which may change without training anew.
VALIDATION_THRESHOLD = 0.5

# Steps after which the processes of a team ask each other whether one was told to stop.
AGREE_STEPS = 10

# Channels of nets that are stored in the default layout.
NARROW = 8

# The longest step after which a run that was told to stop may still want its readers.
GRACE_SECONDS = 600


def train(
    params: Params,
    training: Sequence[Video],
    validation: Sequence[Video],
    models: Path,
    unfinished: Path,
    team: Team,
    live: Live | None,
) -> None:
    """Train a PixelPlayer; leave its last state and its best, `last.pt` and `best.pt`.

    A run that was stopped goes on from its last checkpoint and ends as if it had not been; the
    checkpoint of another run is not continued.

    Args:
        params: all parameters.
        training: videos to learn from.
        validation: videos to measure on, none of them in `training`.
        models: folder of the models.
        unfinished: folder of what is kept until the run has ended.
        team: the processes that train together.
        live: receives the loss of each step and the measures of each evaluation, from the process
            that leads; the others have None.

    Raises:
        UserError: the lists are too short, initial weights cannot be had, or the loss diverges.
        SystemExit: told to stop, after a checkpoint was made.
    """
    keep_freed_memory()
    # Says now, not after an epoch, that the list is too short.
    MixtureSampler(validation, params.mixture)
    settings = params.train
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(
        training, reader, settings.repeats, settings.batch_size, params.seed
    )
    plan = make_plan(settings, len(mixtures), team)
    player = build(params.model, params.spectrogram, torch_seed(params.seed, "model"))
    if team.leads:
        # The others get them from it, when the model is shared.
        load_initial_weights(player, params.model)
    player = _on_device(player, settings, team)
    state = State(player, make_optimizer(player, settings), _average(player, settings))
    history = History(live)
    if team.leads:
        for folder in (models, unfinished):
            remove_partials(folder)
    kept = Unfinished(unfinished / "train.pt", identity(params, training, validation))
    best = unfinished / "best.pt"
    if content := kept.load():
        state.restore(content)
        history.restore(content["history"])
    elif team.leads:
        best.unlink(missing_ok=True)
    if team.leads:
        _introduce(params, plan, state, len(training), team)

    model = _shared(player, settings, team)
    clock = Clock(settings.batch_size)
    # Closed in any case: readers that are left behind would keep the program from ending.
    with (
        told_to_stop() as told,
        closing(training_batches(mixtures, plan, state.step, params, team)) as batches,
    ):
        left = plan.steps - state.step
        shown = progress(batches, "train", left, unit="step") if team.leads else iter(batches)
        for batch in clock.waiting(shown):
            step = state.step + 1
            state.note(batch.left_out)
            factor = set_rates(state.optimizer, step - 1, plan.epoch_steps, settings)
            loss = team.mean(gradients(model, state.optimizer, batch, params, team, plan.parts))
            if is_usable(loss, step, state, mixtures, settings):
                state.advance()
                history.add(step, loss, factor * settings.learning_rate.sound)
            state.step = step

            epoch, rest = divmod(step, plan.epoch_steps)
            stop = bool(told) if team.size == 1 else _all_stop(step, bool(told), team)
            save = stop or clock.is_time_to_save(settings.checkpoint_seconds)
            show = step % settings.log_every == 0
            if show or save or rest == 0:
                check(history.flush(), mixtures, settings)
            if show and team.leads:
                logger.info(
                    f"step {step}/{plan.steps}: loss {history.last:.4f}, {clock.speed:.1f} "
                    f"mixtures/s, {clock.seconds_left(plan.steps - step) / 60:.1f} min left, "
                    f"waiting {clock.waiting_share:.0%}, rate {settings.learning_rate.sound:g} "
                    f"x {factor:.3g}"
                )
            if rest == 0 and team.leads:
                if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
                    results = measure(state.model, validation, params, team, epoch)
                    history.measured(step, results)
                    if state.is_best(results, settings.best_by):
                        save_player(best, state.model, params, step)
                save_player(models / "last.pt", state.model, params, step)
            if rest == 0:
                team.wait()
            if save and team.leads:
                kept.save(state.content() | {"history": history.content()})
            if stop:
                logger.info(f"train: stopped after step {step}; the next run goes on from there")
                raise SystemExit(128 + (told or [signal.SIGTERM])[0])

    if team.leads:
        with replacing(models / "best.pt") as partial:
            shutil.copyfile(best if best.is_file() else models / "last.pt", partial)
        history.end(len(state.unreadable))
        logger.info(
            f"train: {clock.speed:.1f} mixtures/s, waited for data {clock.waiting_share:.0%}"
        )
        kept.remove()
        best.unlink(missing_ok=True)


@dataclass(frozen=True)
class Plan:
    """How a run is cut into steps, and a batch into shares."""

    epoch_steps: int
    steps: int
    """Of all epochs."""
    parts: int
    """Of this process's share of a batch, each with batch statistics of its own."""


def make_plan(params: TrainParams, epoch_mixtures: int, team: Team) -> Plan:
    """Cut a run into steps for a team.

    Args:
        params: batch size, parts and epochs.
        epoch_mixtures: a multiple of the batch size.
        team: its processes share each batch and its parts.

    Raises:
        UserError: the batch cannot be shared evenly.
    """
    parts, size = params.micro_batches, team.size
    if params.batch_size % (max(parts, size)) or (parts > size and parts % size):
        raise UserError(
            f"train.batch_size {params.batch_size} in train.micro_batches {parts} cannot be shared "
            f"by {size} devices: the batch must be a multiple of both, and more parts than devices "
            "a multiple of these"
        )
    epoch_steps = epoch_mixtures // params.batch_size
    return Plan(epoch_steps, epoch_steps * params.epochs, max(1, parts // size))


class State:
    """What a step changes."""

    def __init__(
        self, player: PixelPlayer, optimizer: Optimizer, average: AveragedModel | None
    ) -> None:
        self.player = player
        self.optimizer = optimizer
        self.average = average
        self.step = 0
        self.skipped = 0
        self.best: float | None = None
        self.unreadable: dict[str, None] = {}

    @property
    def model(self) -> PixelPlayer:
        """What is measured and handed over: the average of the weights, if one is kept."""
        return self.player if self.average is None else _player_of(self.average)

    def advance(self) -> None:
        """Follow the gradients."""
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.player)

    def note(self, reasons: Sequence[str]) -> None:
        """Say once of each clip that it could not be read."""
        for reason in reasons:
            if reason not in self.unreadable:
                logger.info(f"left out of training: {reason}")
            self.unreadable[reason] = None

    def is_best(self, results: dict[str, float], best_by: str) -> bool:
        """Whether an evaluation is better than all before; it is remembered then."""
        if best_by not in results:
            return False
        value = -results[best_by] if best_by == "loss" else results[best_by]
        better = self.best is None or value > self.best
        if better:
            self.best = value
        return better

    def content(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "unreadable": list(self.unreadable),
            "player": self.player.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Become what `content` was taken of."""
        self.step, self.skipped = content["step"], content["skipped"]
        self.best = content["best"]
        self.unreadable = dict.fromkeys(content["unreadable"])
        self.player.load_state_dict(content["player"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])


@contextmanager
def told_to_stop() -> Iterator[list[int]]:
    """A list that a SIGTERM or Ctrl-C is put into, instead of ending a step in its middle."""
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    earlier = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def make_optimizer(player: PixelPlayer, params: TrainParams) -> Optimizer:
    """The optimizer, with the published learning rates: the vision head follows the sound net."""
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


def set_rates(optimizer: Optimizer, step: int, epoch_steps: int, params: TrainParams) -> float:
    """Set the learning rates of a step, counted from 0; returns what they are multiplied by."""
    factor = rate_factor(step, epoch_steps, params)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return factor


def rate_factor(step: int, epoch_steps: int, params: TrainParams) -> float:
    """What the learning rates are multiplied by at a step, counted from 0."""
    if params.schedule == "steps":
        epochs_done = step // epoch_steps
        return float(0.1 ** sum(epochs_done >= drop for drop in params.learning_rate_steps))
    steps = epoch_steps * params.epochs
    warm = max(1, round(params.warmup_fraction * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def training_batches(
    mixtures: TrainingMixtures, plan: Plan, first: int, params: Params, team: Team
) -> Generator[Batch]:
    """This process's share of each batch after the first so many, read by other processes."""
    loader: DataLoader[Any] = DataLoader(
        mixtures,
        batch_sampler=_Shares(range(first, plan.steps), params.train.batch_size, team),
        num_workers=max(1, params.worker_count // team.size),
        collate_fn=collate,
        pin_memory=team.device.type == "cuda",
        prefetch_factor=4,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    batches = iter(loader)
    try:
        yield from batches
    except UserError as error:
        # A worker's error arrives as the last line of its traceback.
        line = str(error).strip().splitlines()[-1]
        raise UserError(line.removeprefix(f"{UserError.__module__}.UserError: ")) from None
    finally:
        # PyTorch does it when nothing refers to them any more, but an error's traceback does.
        batches._shutdown_workers()  # type: ignore[attr-defined]


def gradients(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    params: Params,
    team: Team,
    parts: int = 1,
) -> Tensor:
    """The gradients of a batch, left in the parameters, and its loss, a scalar.

    The loss is that of the sources; the gradients follow that of their backgrounds too.

    Each part has its own batch statistics and the gradients are their mean, as the published
    data-parallel training had it on as many GPUs.

    Args:
        model: a `PixelPlayer`, or what `DistributedDataParallel` or `torch.compile` made of it.
        optimizer: whose gradients are forgotten first.
        batch: of this process.
        params: model, loss and precision.
        team: its device, and who else has a share of the batch.
        parts: of this process's share.
    """
    player = _player_of(model)
    player.train()
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=team.device)
    half = is_half(params.train, team.device)
    weight = params.train.background_weight
    pairs = zip(batch.audio.chunk(parts), batch.frames.chunk(parts), strict=True)
    for part, (audio, frames) in enumerate(pairs, start=1):
        spectra = player.spectra(audio.to(team.device, non_blocking=True))
        true_masks = player.true_masks(spectra)
        pixels = normalize_frames(frames.to(team.device, non_blocking=True))
        with _exchanging(model, part == parts):
            with torch.autocast(team.device.type, torch.bfloat16, enabled=half):
                logits = model(spectra.magnitude, pixels, weight > 0)
            loss, of_background = _losses(logits.float(), spectra, true_masks, params)
            ((loss + weight * of_background) / parts).backward()
        total += loss.detach() / parts
    return total


def _losses(
    logits: Tensor, spectra: Spectra, true_masks: Tensor, params: Params
) -> tuple[Tensor, Tensor | float]:
    """The loss of the sources, and of their backgrounds, which should be silent, if there are any.

    Max pooling alone leaves open what the rest of the picture sounds like.
    """
    sources = true_masks.shape[1]
    loss = separation_loss(logits[:, :sources], spectra, true_masks, params.model, params.train)
    behind = logits[:, sources:]
    if not behind.shape[1]:
        return loss, 0.0
    silence = torch.zeros_like(true_masks)
    return loss, separation_loss(behind, spectra, silence, params.model, params.train)


def is_half(params: TrainParams, device: torch.device) -> bool:
    """Whether the networks compute in bfloat16."""
    if params.precision == "auto":
        return is_bfloat16_fast(device)
    return params.precision == "bfloat16"


def is_usable(
    loss: Tensor, step: int, state: State, mixtures: TrainingMixtures, params: TrainParams
) -> bool:
    """Whether to follow the gradients of a step.

    On a GPU nobody looks, for the step would wait for it, unless such steps may be skipped.

    Raises:
        UserError: the loss is not finite, once too often.
    """
    if loss.device.type != "cpu" and not params.max_non_finite_steps:
        return True
    value = float(loss)
    if math.isfinite(value):
        return True
    state.skipped += 1
    if state.skipped > params.max_non_finite_steps:
        check([(step, value)], mixtures, params)
    logger.info(f"train: step {step} is skipped, its loss is {value}")
    return False


def check(
    losses: Iterable[tuple[int, float]], mixtures: TrainingMixtures, params: TrainParams
) -> None:
    """Look at losses, each with its step.

    Raises:
        UserError: one is not finite; it names the videos of that step.
    """
    for step, value in losses:
        if not math.isfinite(value):
            items = range((step - 1) * params.batch_size, step * params.batch_size)
            names = sorted({video.name for item in items for video in mixtures[item].videos})
            raise UserError(
                f"train: the loss is {value} at step {step}, of {', '.join(names)}; lower "
                f"train.learning_rate, which is {params.learning_rate.sound:g} for the sound net, "
                "or let train.max_non_finite_steps skip some"
            )


def measure(
    player: PixelPlayer, validation: Sequence[Video], params: Params, team: Team, epoch: int
) -> dict[str, float]:
    """Measure on the first validation mixtures, and print; nothing where none has a score."""
    count = params.train.evaluate_mixtures
    separations = separate_mixtures(
        player, validation, params, count, VALIDATION_THRESHOLD, team.device
    )
    measured = list(scores(separations))
    if not any(isinstance(result, Score) for result in measured):
        # The masks of a model that has learned little may all be empty.
        logger.info(f"epoch {epoch}/{params.train.epochs}: no validation mixture could be measured")
        return {}
    results = summary(measured)
    logger.info(
        f"epoch {epoch}/{params.train.epochs}: validation loss {results['loss']:.4f}, "
        + ", ".join(f"{name} {results[name]['mean']:.2f} dB" for name in MEASURES)
    )
    return {"loss": results["loss"]} | {name: results[name]["mean"] for name in MEASURES}


class _Shares(Sampler[list[int]]):
    """The items of each step that are this process's."""

    def __init__(self, steps: range, batch_size: int, team: Team) -> None:
        self._steps = steps
        self._batch_size = batch_size
        self._share = batch_size // team.size
        self._offset = team.rank * self._share

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            begin = step * self._batch_size + self._offset
            yield list(range(begin, begin + self._share))


def _introduce(params: Params, plan: Plan, state: State, videos: int, team: Team) -> None:
    parameters = sum(parameter.numel() for parameter in state.player.parameters())
    on = f"{team.device}" if team.size == 1 else f"{team.size} x {team.device.type}"
    precision = "bfloat16" if is_half(params.train, team.device) else "float32"
    logger.info(
        f"train: {videos} videos, {parameters / 1e6:.2f} M parameters on {on} in {precision}, "
        f"{params.train.epochs} epochs of {plan.epoch_steps} steps of {params.train.batch_size} "
        "mixtures" + (f", going on after step {state.step}" if state.step else "")
    )


def _on_device(player: PixelPlayer, params: TrainParams, team: Team) -> PixelPlayer:
    if params.sync_batch_norm and team.device.type != "cuda":
        raise UserError(
            f"train.sync_batch_norm: PyTorch has it for GPUs only, not for {team.device}; set false"
        )
    if params.sync_batch_norm:
        player = nn.SyncBatchNorm.convert_sync_batchnorm(player)
    # PyTorch 2.15's convolutions for a CPU write beyond their memory where four channels, or fewer,
    # are stored last.
    narrow = min(player.params.sound_width, player.params.vision_width) < NARROW
    layout = torch.contiguous_format if narrow else torch.channels_last
    return player.to(team.device).to(memory_format=layout)


def _average(player: PixelPlayer, params: TrainParams) -> AveragedModel | None:
    if params.ema_decay is None:
        return None
    average = get_ema_multi_avg_fn(params.ema_decay)
    return AveragedModel(player, multi_avg_fn=average, use_buffers=True)


def _shared(player: PixelPlayer, params: TrainParams, team: Team) -> nn.Module:
    """The model as a team trains it."""
    model: nn.Module = player
    if params.compile:
        model.compile()
    return DistributedDataParallel(model) if team.size > 1 else model


def _exchanging(model: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients once in a step, with those of the last part."""
    if isinstance(model, DistributedDataParallel) and not wanted:
        return model.no_sync()
    return nullcontext()


def _player_of(model: nn.Module) -> PixelPlayer:
    player = model.module if isinstance(model, DistributedDataParallel | AveragedModel) else model
    assert isinstance(player, PixelPlayer)
    return player


def _all_stop(step: int, told: bool, team: Team) -> bool:
    return step % AGREE_STEPS == 0 and team.agree(told)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A terminal or a cluster sends them to all processes, and the trainer ends its readers.

    If it never does, they end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))
