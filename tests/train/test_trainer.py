import copy
import csv
import json
import logging
import math
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sop.dataset.index import Video
from sop.dataset.mixtures import Batch, MixtureReader, TrainingMixtures, collate
from sop.dataset.seeding import torch_seed
from sop.model.checkpoint import load_checkpoint, load_model, load_player, save_checkpoint
from sop.model.pixelplayer import PixelPlayer, build, normalize_frames, separation_loss
from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.description import training_card, with_pictures
from sop.train.distributed import ProcessGroup
from sop.train.gradients import compute_gradients, uses_bfloat16
from sop.train.state import learning_rate_factor, make_optimizer
from sop.train.trainer import RunFolders, Trainer
from tests.dataset.test_mixtures import MOTION, ramps
from tests.support.experiment import with_values

__all__ = ["ramps"]

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
NO_LEARNING = {"train.learning_rate": {"sound": 0.0, "vision": 0.0, "synthesizer": 0.0}}


class Run:
    """A training run, and access to its results. The last four videos are for validation."""

    def __init__(self, folder: Path, params: Params, videos: list[Video]) -> None:
        self.folder = folder
        self.checkpoint = folder / "model" / "last.pt"
        self.params = params
        self.training, self.validation = videos[:-4], videos[-4:]
        self.log: list[str] = []

    def train(self) -> "Run":
        folders = RunFolders(*(self.folder / name for name in ("model", "resume", "live")))
        Trainer(self.params, self.training, self.validation, folders, ALONE).run()
        return self

    def state(self) -> dict[str, Any]:
        return load_checkpoint(self.checkpoint)["model"]

    def logged(self, name: str) -> list[float]:
        path = self.folder / "live" / "plots" / "metrics" / f"{name}.tsv"
        with path.open(newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return [float(row[path.stem]) for row in rows]

    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "live" / "metrics.json").read_text())


def training_step(
    player: PixelPlayer, optimizer: torch.optim.Optimizer, batch: Batch, params: Params
) -> float:
    optimizer.zero_grad()
    loss = compute_gradients(player, batch, params, CPU, params.train.micro_batches)
    optimizer.step()
    return float(loss)


def player_of(params: Params, seed: int = 0) -> PixelPlayer:
    return build(params.model, params.spectrogram, seed)


def batch_of(videos: list[Video], params: Params, count: int) -> Batch:
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(videos, reader, repeats=1, batch=count, seed=3)
    return collate([mixtures[item] for item in range(count)])


def biased_synthesizer(folder: Path, params: Params, bias: float) -> Path:
    """Write a checkpoint of a synthesizer that adds a bias to the logits of all masks."""
    synthesizer = player_of(params).synthesizer
    torch.nn.init.constant_(synthesizer.bias, bias)
    path = folder / "synthesizer.pt"
    save_checkpoint(path, synthesizer.state_dict())
    return path


def changed_nets(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the nets of which some weights differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_params: Params,
    tiny_videos: list[Video],
    one_thread: None,
) -> Run:
    """Train three epochs of four steps, and collect the log."""
    folder = tmp_path_factory.mktemp("trained")
    values = {
        "train.epochs": 3,
        "train.evaluate_every": 2,
        "train.evaluate_mixtures": 3,
        "train.learning_rate_steps": [2],
        "log_every": 5,
        # With these weights no mask is empty, so that all mixtures can be measured.
        "model.weights.synthesizer": str(biased_synthesizer(folder, tiny_params, 1.0)),
    }
    run = Run(folder, with_values(tiny_params, values), tiny_videos)
    handler = logging.Handler()
    handler.emit = lambda record: run.log.append(record.getMessage())
    logging.getLogger("sop").addHandler(handler)
    run.train()
    logging.getLogger("sop").removeHandler(handler)
    return run


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_params: Params,
    tiny_videos: list[Video],
    one_thread: None,
) -> Run:
    """Train one epoch of four steps."""
    torch.manual_seed(1)
    np.random.seed(1)
    return Run(tmp_path_factory.mktemp("plain"), tiny_params, tiny_videos).train()


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), ("sgd", 0.1)])
def test_loss_falls(
    tiny_params: Params, tiny_videos: list[Video], optimizer: str, rate: float
) -> None:
    values = {
        "train.optimizer": optimizer,
        "train.learning_rate": {"sound": rate, "vision": rate / 10, "synthesizer": rate},
    }
    params = with_values(tiny_params, values)
    batch = batch_of(tiny_videos, params, 4)
    player = player_of(params)
    made = make_optimizer(player, params.train)
    losses = [training_step(player, made, batch, params) for _ in range(25)]
    assert min(losses[-5:]) < 0.8 * losses[0]


def test_results_of_a_run(trained: Run) -> None:
    player, params = load_player(trained.checkpoint)
    assert params.for_inference() == trained.params.for_inference()
    assert load_checkpoint(trained.checkpoint)["step"] == 12
    assert len(trained.logged("train/loss")) == 12
    names = {path.name for path in trained.checkpoint.parent.iterdir()}
    assert names == {"best.pt", "last.pt"}
    assert list((trained.folder / "resume").iterdir()) == []
    start = player_of(trained.params).state_dict()
    assert player.state_dict().keys() == start.keys()
    summary = trained.summary()
    assert summary["train"]["loss"] == pytest.approx(trained.logged("train/loss")[-1])
    assert summary["train"]["left_out"] == 0


def test_card_says_what_the_pictures_of_training_look_like(
    trained: Run, tiny_videos: list[Video]
) -> None:
    model = load_model(trained.checkpoint)
    data = model.card.data
    assert data is not None
    assert data.pictures is not None
    assert data.pictures.typical > 0
    assert {video.category for video in tiny_videos} >= data.categories.keys()
    channels = trained.params.model.channels
    assert all(len(one.features) == channels for one in data.categories.values())
    # A function of the weights and the videos alone.
    training = trained.training
    bare = training_card(trained.params, training)
    assert with_pictures(bare, model.player, trained.params, training) == model.card


def test_validation_interval(trained: Run) -> None:
    for name in ("loss", "sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement"):
        values = trained.logged(f"validation/{name}")
        assert len(values) == 2
        assert np.isfinite(values).all()


def test_result_does_not_depend_on_workers_and_global_seeds(
    tmp_path: Path, plain: Run, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    torch.manual_seed(2)
    np.random.seed(2)
    again = Run(tmp_path, with_values(tiny_params, {"workers": 2}), tiny_videos).train()
    assert len(plain.logged("train/loss")) == 4
    assert again.logged("train/loss") == plain.logged("train/loss")
    expected = plain.state()
    assert again.state().keys() == expected.keys()
    for name, value in again.state().items():
        assert torch.equal(value, expected[name]), name


def test_seed_changes_the_run(
    tmp_path: Path, plain: Run, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    values = {"train.seed": 1, "train.evaluate_mixtures": 1}
    other = Run(tmp_path, with_values(tiny_params, values), tiny_videos).train()
    assert other.logged("train/loss") != plain.logged("train/loss")


def test_learning_rate_of_each_net(tiny_params: Params) -> None:
    values = {"train.learning_rate": {"sound": 0.3, "vision": 0.2, "synthesizer": 0.1}}
    for optimizer in ("sgd", "adamw"):
        params = with_values(tiny_params, values | {"train.optimizer": optimizer})
        player = player_of(params)
        made = make_optimizer(player, params.train)
        rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
        assert sum(len(group["params"]) for group in made.param_groups) == len(rates)
        for name, parameter in player.named_parameters():
            expected = {"so": 0.3, "sy": 0.1, "vi": 0.3 if "head" in name else 0.2}[name[:2]]
            assert rates.pop(id(parameter)) == expected, name
        assert not rates


def test_momentum_and_weight_decay(tiny_params: Params) -> None:
    values = {"train.momentum": 0.7, "train.weight_decay": 0.02}
    sgd = with_values(tiny_params, values)
    made = make_optimizer(player_of(sgd), sgd.train)
    assert isinstance(made, torch.optim.SGD)
    assert {(g["momentum"], g["weight_decay"]) for g in made.param_groups} == {(0.7, 0.02)}
    adamw = with_values(tiny_params, values | {"train.optimizer": "adamw"})
    made = make_optimizer(player_of(adamw), adamw.train)
    assert isinstance(made, torch.optim.AdamW)
    assert {group["weight_decay"] for group in made.param_groups} == {0.02}


def test_only_weights_with_a_learning_rate_change(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    rates = {"sound": 0.0, "vision": 1e-2, "synthesizer": 0.0}
    params = with_values(tiny_params, {"train.learning_rate": rates})
    start = player_of(params, torch_seed(params.train.seed, "model")).state_dict()
    end = Run(tmp_path, params, tiny_videos).train().state()
    names = {name for name, _ in player_of(params).named_parameters()}
    changed = {name for name in names if not torch.equal(start[name], end[name])}
    assert changed == {name for name in names if name.startswith("vision.trunk.")}


def test_schedule_of_steps(tiny_params: Params) -> None:
    params = with_values(tiny_params, {"train.epochs": 100}).train
    factors = [learning_rate_factor(step, 7, params) for step in range(700)]
    assert factors[:280] == [1.0] * 280
    assert factors[280:560] == pytest.approx([0.1] * 280)
    assert factors[560:] == pytest.approx([0.01] * 140)
    never = with_values(tiny_params, {"train.epochs": 100, "train.learning_rate_steps": []}).train
    assert {learning_rate_factor(step, 7, never) for step in range(700)} == {1.0}


def test_schedule_of_cosine(tiny_params: Params) -> None:
    values = {"train.schedule": "cosine", "train.epochs": 10, "train.warmup_fraction": 0.2}
    params = with_values(tiny_params, values).train
    factors = [learning_rate_factor(step, 10, params) for step in range(100)]
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 20)
    assert max(factors) == factors[20] == 1
    assert (np.diff(factors[20:]) < 0).all()
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    without = with_values(tiny_params, values | {"train.warmup_fraction": 0.0}).train
    assert [learning_rate_factor(step, 10, without) for step in (0, 1)] == [1, 1]
    one_step = with_values(tiny_params, values | {"train.epochs": 1}).train
    assert learning_rate_factor(0, 1, one_step) == 1


def test_nets_of_motion_have_a_schedule_of_their_own(tiny_params: Params) -> None:
    values = {
        "train.schedule": "cosine",
        "train.epochs": 10,
        "train.warmup_fraction": 0.2,
        "train.motion_start": 0.5,
        "model.motion": "synchrony",
        "extract.motion_rate": 8.0,
    }
    params = with_values(tiny_params, values)
    of_motion = [learning_rate_factor(step, 10, params.train, 0.5) for step in range(100)]
    half = with_values(params, {"train.epochs": 5}).train
    assert of_motion[50:] == [learning_rate_factor(step, 10, half) for step in range(50)]
    groups = make_optimizer(player_of(params), params.train).param_groups
    assert [group["start"] for group in groups] == [0, 0, 0, 0, 0.5, 0.5]


def test_motion_is_learned_after_the_steps_of_appearance(
    ramps: Callable[..., Video], tiny_params: Params, tmp_path: Path
) -> None:
    # Two epochs of two steps, and as many videos for validation.
    videos = [ramps(f"i{number % 2}/v{number}") for number in range(12)]
    common = MOTION | {"train.epochs": 2, "train.optimizer": "adamw"}
    states = []
    for start in (0.9, 0.5):
        values = common | {"model.motion": "synchrony", "train.motion_start": start}
        params = with_values(tiny_params, values)
        run = Run(tmp_path / str(start), params, videos).train()
        assert len(run.logged("train/loss")) == 4
        states.append(run.state())
    never, half = states
    fresh = player_of(params, torch_seed(params.train.seed, "model")).state_dict()
    nets = {"sound", "vision", "synthesizer"}
    assert changed_nets(fresh, never) == nets
    assert changed_nets(never, half) == nets | {"motion", "synchrony"}


def test_schedule_sets_the_learning_rate(trained: Run) -> None:
    assert trained.logged("train/learning_rate") == pytest.approx([1e-3] * 8 + [1e-4] * 4)


def test_micro_batches_have_their_own_batch_statistics(
    tiny_params: Params, tiny_videos: list[Video]
) -> None:
    values = {
        "train.batch_size": 4,
        "train.micro_batches": 2,
        "train.momentum": 0.0,
        "train.weight_decay": 0.0,
        "train.learning_rate": {"sound": 0.1, "vision": 0.1, "synthesizer": 0.1},
    }
    params = with_values(tiny_params, values)
    batch = batch_of(tiny_videos, params, 4)
    player = player_of(params)
    halves = [copy.deepcopy(player).train() for _ in range(2)]
    losses = []
    for half, part in zip(halves, (slice(0, 2), slice(2, 4)), strict=True):
        spectra = half.spectra(batch.audio[part])
        logits = half(spectra.magnitude, normalize_frames(batch.frames[part])).logits
        truth = half.true_masks(spectra)
        loss = separation_loss(logits, spectra, truth, params.model, params.train)
        loss.backward()
        losses.append(float(loss.detach()))
    expected = {
        name: parameter - 0.1 * (first.grad + second.grad) / 2
        for (name, parameter), first, second in zip(
            player.named_parameters(), *(half.parameters() for half in halves), strict=True
        )
    }
    together = copy.deepcopy(player)

    optimizer = make_optimizer(player, params.train)
    assert training_step(player, optimizer, batch, params) == pytest.approx(np.mean(losses))

    for name, parameter in player.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-7, rtol=1e-4)
    one = with_values(params, {"train.micro_batches": 1})
    loss = training_step(together, make_optimizer(together, one.train), batch, one)
    assert loss != pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.slow
def test_background_weight_silences_backgrounds(
    tiny_params: Params, tiny_videos: list[Video]
) -> None:
    batch = batch_of(tiny_videos, tiny_params, 4)
    losses, claimed = [], []
    for weight in (0.0, 4.0):
        params = with_values(tiny_params, {"train.background_weight": weight})
        player = player_of(params)
        optimizer = make_optimizer(player, params.train)
        losses.append([training_step(player, optimizer, batch, params) for _ in range(20)])
        magnitude = player.spectra(batch.audio).magnitude
        with torch.inference_mode():
            logits = player(magnitude, normalize_frames(batch.frames), True).logits
        claimed.append(float(logits[:, 2:].sigmoid().mean()))
    assert losses[0][0] == losses[1][0]
    assert claimed[1] < 0.8 * claimed[0]


def test_gradients_do_not_accumulate(tiny_params: Params, tiny_videos: list[Video]) -> None:
    params = with_values(tiny_params, NO_LEARNING)
    batch = batch_of(tiny_videos, params, 4)
    player = player_of(params)
    optimizer = make_optimizer(player, params.train)
    gradients = []
    for _ in range(2):
        training_step(player, optimizer, batch, params)
        gradients.append([parameter.grad.clone() for parameter in player.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def damaged(folder: Path, videos: list[Video], numbers: list[int]) -> list[Video]:
    """Return the videos, with the audio of some of them cut off."""
    listed = list(videos)
    for number in numbers:
        video = videos[number]
        path = folder / "damaged" / video.category / video.audio.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video.audio, path)
        path.write_bytes(path.read_bytes()[:9000])
        listed[number] = Video(path, video.frames, video.frame_count)
    return listed


def test_unreadable_clip_is_logged_once(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = damaged(tmp_path, tiny_videos, [2])
    params = with_values(tiny_params, {"train.epochs": 3, "train.evaluate_every": 9})
    run = Run(tmp_path, params, videos).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line]
    assert lines == [f"left out of training: {videos[2].audio}: shorter than its header says"]
    assert run.summary()["train"]["left_out"] == 1
    assert len(run.logged("train/loss")) == 12


def test_unreadable_list_gives_one_line(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    run = Run(tmp_path, tiny_params, tiny_videos)
    run.training = damaged(tmp_path, run.training, list(range(16)))
    with pytest.raises(
        UserError, match=r"^training: 20 clips in a row .*\.wav: shorter than its header says"
    ):
        run.train()
    assert not run.checkpoint.exists()


def test_diverged_loss_names_the_learning_rate(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    # More than params.yaml allows, so that the second step diverges.
    values = dict.fromkeys(("sound", "vision", "synthesizer"), 1e30)
    rates = tiny_params.train.learning_rate.model_copy(update=values)
    train = tiny_params.train.model_copy(update={"learning_rate": rates})
    run = Run(tmp_path, tiny_params.model_copy(update={"train": train}), tiny_videos)
    said = (
        r"^train: the loss is (nan|inf) at step 2 with .*/.*; lower train\.learning_rate, .* 1e\+30"
    )
    with pytest.raises(UserError, match=said):
        run.train()
    assert not run.checkpoint.exists()
    # Remaining workers would keep the program from ending.
    assert multiprocessing.active_children() == []


def test_too_few_validation_videos(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    run = Run(tmp_path, tiny_params, tiny_videos)
    run.validation = run.validation[:1]
    with pytest.raises(UserError, match=r"mixture\.sources"):
        run.train()
    assert not (tmp_path / "live" / "plots" / "metrics").exists()


def test_validation_of_silent_estimates(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = biased_synthesizer(tmp_path, tiny_params, -50.0)
    params = with_values(
        tiny_params,
        NO_LEARNING
        | {"model.weights.synthesizer": str(start), "train.epochs": 2, "train.batch_size": 16},
    )
    run = Run(tmp_path, params, tiny_videos).train()
    assert float(run.state()["synthesizer.bias"]) == -50
    assert len(run.logged("train/loss")) == 2
    assert "; 4 estimates are silent" in capsys.readouterr().out
    assert run.logged("validation/silent_estimates") == [4, 4]
    assert max(run.logged("validation/sdr")) <= 0
    # Silence has no SAR.
    assert "sar" not in run.summary()["validation"]


def test_validation_leaves_out_sources_at_rest(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The SDR of the noise of their recording would decide which model is the best."""
    run = Run(tmp_path, tiny_params, tiny_videos)
    heard, other = next(
        (a, b) for a in run.validation for b in run.validation if a.category != b.category
    )
    samples, rate = soundfile.read(other.audio)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(samples))
    soundfile.write(tmp_path / "rest.wav", noise, rate)
    run.validation = [heard, replace(other, audio=tmp_path / "rest.wav")]
    run.train()
    assert "no validation mixture could be measured" in capsys.readouterr().out


@pytest.mark.slow
def test_training_from_a_checkpoint(
    tmp_path: Path, trained: Run, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    weights = dict.fromkeys(("sound", "vision", "synthesizer"), str(trained.checkpoint))
    values = {"model.weights": weights, "train.epochs": 1, "train.batch_size": 16}
    params = with_values(trained.params, NO_LEARNING | values)
    state = Run(tmp_path, params, tiny_videos).train().state()
    for name, _ in player_of(params).named_parameters():
        assert torch.equal(state[name], trained.state()[name]), name


def test_log_of_a_run(trained: Run) -> None:
    losses = trained.logged("train/loss")
    assert trained.log[0].startswith("train: 16 videos, ")
    assert trained.log[0].endswith(" on cpu in float32, 3 epochs of 4 steps of 4 mixtures")
    for step in (5, 10):
        prefix = f"step {step}/12: loss {losses[step - 1]:.4f}, "
        assert any(line.startswith(prefix) for line in trained.log)
    assert sum(line.startswith("epoch ") for line in trained.log) == 2
    assert any(line.startswith("train: 12/12 steps, ") for line in trained.log)
    assert not math.isnan(losses[-1])


def test_moving_average_is_saved(
    tmp_path: Path, plain: Run, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    params = with_values(tiny_params, {"train.ema_decay": 0.9})
    averaged = Run(tmp_path, params, tiny_videos).train()
    # The steps are the same, but the resulting model is not.
    assert averaged.logged("train/loss") == plain.logged("train/loss")
    name = "sound.down.0.weight"
    assert averaged.state().keys() == plain.state().keys()
    assert not torch.equal(averaged.state()[name], plain.state()[name])
    start = player_of(params, torch_seed(params.train.seed, "model")).state_dict()[name]
    moved = (averaged.state()[name] - start).norm()
    assert 0 < moved < (plain.state()[name] - start).norm()


def test_best_model_is_saved(trained: Run) -> None:
    best = load_checkpoint(trained.checkpoint.with_name("best.pt"))
    measured = trained.logged("validation/sdr")
    # Evaluated after epochs 2 and 3, of four steps each.
    assert best["step"] == (8, 12)[int(np.argmax(measured))]


def test_steps_of_non_finite_losses_are_skipped(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        loss = compute_gradients(*arguments)
        return loss * math.nan if len(calls) in (2, 3) else loss

    monkeypatch.setattr("sop.train.trainer.compute_gradients", broken)
    params = with_values(tiny_params, {"train.max_non_finite_steps": 2})
    run = Run(tmp_path / "two", params, tiny_videos).train()
    assert len(run.logged("train/loss")) == 2
    assert "train: step 3 is skipped because its loss is nan" in capsys.readouterr().out
    assert all(value.isfinite().all() for value in run.state().values())
    calls.clear()
    params = with_values(tiny_params, {"train.max_non_finite_steps": 1})
    with pytest.raises(UserError, match=r"loss is nan at step 3 with \w+/\w+, "):
        Run(tmp_path / "one", params, tiny_videos).train()


def test_bfloat16_learns_like_float32(tiny_params: Params, tiny_videos: list[Video]) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        params = with_values(tiny_params, {"train.precision": precision})
        batch = batch_of(tiny_videos, params, 4)
        player = player_of(params)
        optimizer = make_optimizer(player, params.train)
        losses[precision] = [training_step(player, optimizer, batch, params) for _ in range(8)]
        assert {parameter.dtype for parameter in player.parameters()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_sync_batch_norm_on_a_cpu(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    params = with_values(tiny_params, {"train.sync_batch_norm": True})
    with pytest.raises(UserError, match=r"^train\.sync_batch_norm: .* GPUs only"):
        Run(tmp_path, params, tiny_videos).train()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": True}, True),
        ({"neon": True}, False),
        (None, False),
    ],
)
def test_auto_precision_of_cpus(
    capabilities: dict[str, bool] | None,
    expected: bool,
    tiny_params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    params = with_values(tiny_params, {"train.precision": "auto"}).train
    assert uses_bfloat16(params, CPU) is expected
    for precision in ("float32", "bfloat16"):
        fixed = params.model_copy(update={"precision": precision})
        assert uses_bfloat16(fixed, CPU) is (precision == "bfloat16")
