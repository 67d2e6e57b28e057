import copy
import csv
import json
import math
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dvclive.live import Live

from sop.dataset.index import Video
from sop.dataset.mixtures import Batch, MixtureReader, TrainingMixtures, collate
from sop.dataset.seeding import torch_seed
from sop.model.checkpoint import load_checkpoint, load_player, save_checkpoint
from sop.model.pixelplayer import PixelPlayer, build, normalize_frames, separation_loss
from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.distributed import Team
from sop.train.trainer import gradients, make_optimizer, rate_factor, train
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = Team(0, 1, torch.device("cpu"))
STILL = {"train.learning_rate": {"sound": 0.0, "vision": 0.0, "synthesizer": 0.0}}


class Run:
    """A training run on the first videos of the list, and what it left behind."""

    def __init__(self, folder: Path, params: Params, videos: list[Video]) -> None:
        self.folder = folder
        self.checkpoint = folder / "model" / "last.pt"
        self.params = params
        self.training, self.validation = videos[:-4], videos[-4:]

    def train(self) -> "Run":
        with Live(str(self.folder / "live"), save_dvc_exp=False, dvcyaml=None) as live:
            train(
                self.params,
                self.training,
                self.validation,
                self.folder / "model",
                self.folder / "unfinished",
                ALONE,
                live,
            )
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
    loss = gradients(player, optimizer, batch, params, ALONE, params.train.micro_batches)
    optimizer.step()
    return float(loss)


def player_of(params: Params, seed: int = 0) -> PixelPlayer:
    return build(params.model, params.spectrogram, seed)


def batch_of(videos: list[Video], params: Params, count: int) -> Batch:
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(videos, reader, repeats=1, batch=count, seed=3)
    return collate([mixtures[item] for item in range(count)])


def biased_synthesizer(folder: Path, params: Params, bias: float) -> Path:
    """A checkpoint of a synthesizer that adds so much to every mask's logits."""
    synthesizer = player_of(params).synthesizer
    torch.nn.init.constant_(synthesizer.bias, bias)
    path = folder / "synthesizer.pt"
    save_checkpoint(path, synthesizer.state_dict())
    return path


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_params: Params,
    tiny_videos: list[Video],
    one_thread: None,
) -> Run:
    """Three epochs of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    values = {
        "train.epochs": 3,
        "train.evaluate_every": 2,
        "train.evaluate_mixtures": 3,
        # Masks that let something through, so that there is something to measure.
        "model.weights.synthesizer": str(biased_synthesizer(folder, tiny_params, 1.0)),
    }
    return Run(folder, with_values(tiny_params, values), tiny_videos).train()


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
    losses = [training_step(player, made, batch, params) for _ in range(40)]
    assert min(losses[-5:]) < 0.8 * losses[0]


def test_run_leaves_its_last_model_and_metrics(trained: Run) -> None:
    player, params = load_player(trained.checkpoint)
    assert params.for_inference() == trained.params.for_inference()
    assert load_checkpoint(trained.checkpoint)["step"] == 12
    assert len(trained.logged("train/loss")) == 12
    names = {path.name for path in trained.checkpoint.parent.iterdir()}
    assert names == {"best.pt", "last.pt"}
    assert list((trained.folder / "unfinished").iterdir()) == []
    start = player_of(trained.params).state_dict()
    assert player.state_dict().keys() == start.keys()
    summary = trained.summary()
    assert summary["train"]["loss"] == pytest.approx(trained.logged("train/loss")[-1])
    assert summary["train"]["left_out"] == 0


def test_validation_runs_every_so_many_epochs_and_at_the_end(trained: Run) -> None:
    for name in ("loss", "sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement"):
        values = trained.logged(f"validation/{name}")
        assert len(values) == 2
        assert np.isfinite(values).all()


def test_runs_are_identical_whatever_the_workers_and_global_generators(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    states, losses = [], []
    for run, workers in enumerate((1, 1, 2)):
        torch.manual_seed(run)
        np.random.seed(run)
        params = with_values(tiny_params, {"workers": workers})
        done = Run(tmp_path / str(run), params, tiny_videos).train()
        states.append(done.state())
        losses.append(done.logged("train/loss"))
    assert len(losses[0]) == 4
    assert losses[0] == losses[1] == losses[2]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        for name, value in state.items():
            assert torch.equal(value, states[0][name]), name


def test_another_seed_is_another_run(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    losses = []
    for seed in (1, 2):
        params = with_values(tiny_params, {"seed": seed, "train.batch_size": 16})
        losses.append(Run(tmp_path / str(seed), params, tiny_videos).train().logged("train/loss"))
    assert losses[0] != losses[1]


def test_vision_head_learns_at_the_sound_nets_rate(tiny_params: Params) -> None:
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


def test_optimizer_has_its_momentum_and_weight_decay(tiny_params: Params) -> None:
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
    start = Run(tmp_path / "start", with_values(tiny_params, STILL), tiny_videos).train().state()
    rates = {"sound": 0.0, "vision": 1e-2, "synthesizer": 0.0}
    params = with_values(tiny_params, {"train.learning_rate": rates})
    end = Run(tmp_path / "end", params, tiny_videos).train().state()
    names = {name for name, _ in player_of(params).named_parameters()}
    changed = {name for name in names if not torch.equal(start[name], end[name])}
    assert changed == {name for name in names if name.startswith("vision.trunk.")}


def test_rates_drop_tenfold_after_the_named_epochs(tiny_params: Params) -> None:
    params = with_values(tiny_params, {"train.epochs": 100}).train
    factors = [rate_factor(step, 7, params) for step in range(700)]
    assert factors[:280] == [1.0] * 280
    assert factors[280:560] == pytest.approx([0.1] * 280)
    assert factors[560:] == pytest.approx([0.01] * 140)
    never = with_values(tiny_params, {"train.epochs": 100, "train.learning_rate_steps": []}).train
    assert {rate_factor(step, 7, never) for step in range(700)} == {1.0}


def test_cosine_rises_falls_and_never_stops(tiny_params: Params) -> None:
    values = {"train.schedule": "cosine", "train.epochs": 10, "train.warmup_fraction": 0.2}
    params = with_values(tiny_params, values).train
    factors = [rate_factor(step, 10, params) for step in range(100)]
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 20)
    assert max(factors) == factors[20] == 1
    assert (np.diff(factors[20:]) < 0).all()
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    without = with_values(tiny_params, values | {"train.warmup_fraction": 0.0}).train
    assert [rate_factor(step, 10, without) for step in (0, 1)] == [1, 1]
    one_step = with_values(tiny_params, values | {"train.epochs": 1}).train
    assert rate_factor(0, 1, one_step) == 1


def test_schedule_is_followed_step_by_step(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    values = {
        "train.repeats": 1,
        "train.batch_size": 8,
        "train.epochs": 2,
        "train.momentum": 0.0,
        "train.weight_decay": 0.0,
    }
    kept = Run(tmp_path / "kept", with_values(tiny_params, values), tiny_videos).train()
    values |= {"train.learning_rate_steps": [1]}
    dropped = Run(tmp_path / "dropped", with_values(tiny_params, values), tiny_videos).train()
    first, second = kept.logged("train/loss"), dropped.logged("train/loss")
    assert len(first) == 4
    # The rate of the third step shows in the loss of the fourth.
    assert first[:3] == second[:3]
    assert first[3] != second[3]


def test_each_part_has_batch_statistics_of_its_own(
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
        logits = half(spectra.magnitude, normalize_frames(batch.frames[part]))
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


def test_weight_of_the_background_silences_it_and_keeps_the_loss_of_the_sources(
    tiny_params: Params, tiny_videos: list[Video]
) -> None:
    batch = batch_of(tiny_videos, tiny_params, 4)
    losses, claimed = [], []
    for weight in (0.0, 4.0):
        params = with_values(tiny_params, {"train.background_weight": weight})
        player = player_of(params)
        optimizer = make_optimizer(player, params.train)
        losses.append([training_step(player, optimizer, batch, params) for _ in range(30)])
        magnitude = player.spectra(batch.audio).magnitude
        with torch.inference_mode():
            logits = player(magnitude, normalize_frames(batch.frames), True)
        claimed.append(float(logits[:, 2:].sigmoid().mean()))
    assert losses[0][0] == losses[1][0]
    assert claimed[1] < 0.8 * claimed[0]


def test_gradients_of_the_last_step_are_forgotten(
    tiny_params: Params, tiny_videos: list[Video]
) -> None:
    params = with_values(tiny_params, STILL)
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
    """The videos, of which some have sounds cut off in the middle."""
    listed = list(videos)
    for number in numbers:
        video = videos[number]
        path = folder / "damaged" / video.category / video.audio.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video.audio, path)
        path.write_bytes(path.read_bytes()[:9000])
        listed[number] = Video(path, video.frames, video.frame_count)
    return listed


def test_unreadable_clip_is_reported_once_and_training_goes_on(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = damaged(tmp_path, tiny_videos, [2])
    params = with_values(tiny_params, STILL | {"train.epochs": 3})
    run = Run(tmp_path, params, videos).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line]
    assert lines == [
        f"left out of training: {videos[2].audio}: ends before the length that its header says"
    ]
    assert run.summary()["train"]["left_out"] == 1
    assert len(run.logged("train/loss")) == 12


def test_list_of_unreadable_clips_is_a_users_mistake_in_one_line(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    run = Run(tmp_path, tiny_params, tiny_videos)
    run.training = damaged(tmp_path, run.training, list(range(16)))
    with pytest.raises(UserError, match=r"^training: 20 clips in a row .*\.wav: ends before"):
        run.train()
    assert not run.checkpoint.exists()


def test_diverged_loss_is_a_users_mistake_that_names_the_rate(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    rates = {"sound": 1e30, "vision": 1e30, "synthesizer": 1e30}
    run = Run(tmp_path, with_values(tiny_params, {"train.learning_rate": rates}), tiny_videos)
    said = (
        r"^train: the loss is (nan|inf) at step 2, of .*/.*; lower train\.learning_rate, .* 1e\+30"
    )
    with pytest.raises(UserError, match=said):
        run.train()
    assert not run.checkpoint.exists()
    # A reader that is left behind would keep the program from ending.
    assert multiprocessing.active_children() == []


def test_too_few_validation_videos_are_named_before_any_step(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    run = Run(tmp_path, tiny_params, tiny_videos)
    run.validation = run.validation[:1]
    with pytest.raises(UserError, match=r"mixture\.sources"):
        run.train()
    assert not (tmp_path / "live" / "plots" / "metrics").exists()


def test_validation_that_can_measure_nothing_does_not_end_the_training(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = biased_synthesizer(tmp_path, tiny_params, -50.0)
    params = with_values(
        tiny_params, STILL | {"model.weights.synthesizer": str(start), "train.epochs": 2}
    )
    run = Run(tmp_path, params, tiny_videos).train()
    assert float(run.state()["synthesizer.bias"]) == -50
    assert len(run.logged("train/loss")) == 8
    assert "no validation mixture could be measured" in capsys.readouterr().out


def test_training_begins_with_the_weights_of_a_checkpoint(
    tmp_path: Path, trained: Run, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    weights = dict.fromkeys(("sound", "vision", "synthesizer"), str(trained.checkpoint))
    params = with_values(trained.params, STILL | {"model.weights": weights, "train.epochs": 1})
    state = Run(tmp_path, params, tiny_videos).train().state()
    for name, _ in player_of(params).named_parameters():
        assert torch.equal(state[name], trained.state()[name]), name


def test_progress_tells_of_steps_epochs_and_speed(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = with_values(tiny_params, {"train.epochs": 2, "train.log_every": 3})
    losses = Run(tmp_path, params, tiny_videos).train().logged("train/loss")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 16 videos, ")
    assert lines[0].endswith(" on cpu in float32, 2 epochs of 4 steps of 4 mixtures")
    for step in (3, 6):
        assert any(
            line.startswith(f"step {step}/8: loss {losses[step - 1]:.4f}, ") for line in lines
        )
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert any(line.startswith("train: 8/8 steps, ") for line in lines)
    assert not math.isnan(losses[-1])


def test_average_of_the_weights_is_what_is_kept(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    plain = Run(tmp_path / "plain", tiny_params, tiny_videos).train()
    params = with_values(tiny_params, {"train.ema_decay": 0.9})
    averaged = Run(tmp_path / "averaged", params, tiny_videos).train()
    # The steps are the same, the model that comes of them is not.
    assert averaged.logged("train/loss") == plain.logged("train/loss")
    name = "sound.down.0.weight"
    assert averaged.state().keys() == plain.state().keys()
    assert not torch.equal(averaged.state()[name], plain.state()[name])
    start = player_of(params, torch_seed(params.seed, "model")).state_dict()[name]
    moved = (averaged.state()[name] - start).norm()
    assert 0 < moved < (plain.state()[name] - start).norm()


def test_best_model_is_kept_beside_the_last(trained: Run, tmp_path: Path) -> None:
    best = load_checkpoint(trained.checkpoint.with_name("best.pt"))
    measured = trained.logged("validation/sdr")
    # Evaluated after epochs 2 and 3, of four steps each.
    assert best["step"] == (8, 12)[int(np.argmax(measured))]


def test_steps_of_a_loss_that_is_not_finite_are_skipped_as_often_as_allowed(
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        loss = gradients(*arguments)
        return loss * math.nan if len(calls) in (2, 3) else loss

    monkeypatch.setattr("sop.train.trainer.gradients", broken)
    params = with_values(tiny_params, {"train.max_non_finite_steps": 2})
    run = Run(tmp_path / "two", params, tiny_videos).train()
    assert len(run.logged("train/loss")) == 2
    assert "train: step 3 is skipped, its loss is nan" in capsys.readouterr().out
    assert all(value.isfinite().all() for value in run.state().values())
    calls.clear()
    params = with_values(tiny_params, {"train.max_non_finite_steps": 1})
    with pytest.raises(UserError, match=r"loss is nan at step 3, of \w+/\w+, "):
        Run(tmp_path / "one", params, tiny_videos).train()


def test_bfloat16_learns_what_float32_does(tiny_params: Params, tiny_videos: list[Video]) -> None:
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


def test_synchronised_batch_norm_on_a_cpu_is_a_users_mistake(
    tmp_path: Path, tiny_params: Params, tiny_videos: list[Video]
) -> None:
    params = with_values(tiny_params, {"train.sync_batch_norm": True})
    with pytest.raises(UserError, match=r"^train\.sync_batch_norm: .* GPUs only"):
        Run(tmp_path, params, tiny_videos).train()
