import io
import json
import math
import os
import pickle
import re
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sop.model.checkpoint import (
    load_checkpoint,
    load_net,
    load_player,
    published_names,
    save_checkpoint,
    save_player,
)
from sop.model.pixelplayer import PixelPlayer, build
from sop.model.sound import SoundNet
from sop.model.synthesizer import Synthesizer
from sop.model.vision import VisionNet
from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.initial_weights import load_initial_weights
from tests.support.experiment import Reference, assert_same_weights, with_values
from tests.support.stress import repeats

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED_NETS = {
    "sound.unet5": lambda: SoundNet("unet5"),
    "sound.unet6": lambda: SoundNet("unet6"),
    "sound.unet7": lambda: SoundNet("unet7"),
    "frame.resnet18fc": lambda: VisionNet(kind="resnet18fc"),
    "frame.resnet18dilated": lambda: VisionNet(kind="resnet18dilated"),
    "synthesizer.linear": lambda: Synthesizer("linear"),
    "synthesizer.bias": lambda: Synthesizer("bias"),
}


class Trap:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def player(tiny_params: Params) -> PixelPlayer:
    return build(tiny_params.model, tiny_params.spectrogram, seed=1)


@pytest.fixture
def saved(tmp_path: Path, player: PixelPlayer, tiny_params: Params) -> Path:
    path = tmp_path / "model" / "last.pt"
    save_player(path, player, tiny_params, step=12)
    return path


def published(net: nn.Module) -> dict[str, Tensor]:
    """Return the state of a net as the published code writes it."""
    state = net.state_dict()
    return OrderedDict((theirs, state[ours]) for theirs, ours in published_names(net).items())


def rejection(path: Path, params: Params) -> str:
    """Return the one-line error for a file, as initial weights and as a whole model."""
    other = build(params.model, params.spectrogram, seed=2)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    model = with_values(params, {"model.weights.sound": str(path)}).model
    with pytest.raises(UserError) as start:
        load_initial_weights(other, model)
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(UserError) as whole:
        load_player(path)
    for error, begin in ((start, f"model.weights.sound: {path}: "), (whole, f"{path}: ")):
        assert str(error.value).startswith(begin)
        assert "\n" not in str(error.value)
        assert len(str(error.value).replace(str(path), "")) < 450
        assert "git checkout" not in str(error.value)
    return str(start.value).removeprefix(f"model.weights.sound: {path}: ")


def test_saved_player_is_loaded_with_its_parameters(
    saved: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    loaded, params = load_player(saved)
    assert_same_weights(loaded, player)
    assert params.for_inference() == tiny_params.for_inference()
    assert load_checkpoint(saved)["params"].keys() == {"extract", "mixture", "spectrogram", "model"}
    assert not loaded.training
    assert load_checkpoint(saved)["step"] == 12


@pytest.mark.parametrize("name", PUBLISHED_NETS)
def test_published_names_and_shapes(reference: Reference, name: str) -> None:
    shapes = json.loads((Path(reference.recipe.__file__).parent / "shapes.json").read_text())
    with torch.device("meta"):
        net = PUBLISHED_NETS[name]()
    ours = {key: list(value.shape) for key, value in published(net).items()}
    assert ours == shapes[name]
    assert len(set(published_names(net).values())) == len(net.state_dict())


@pytest.mark.parametrize("name", ["sound.unet5", "frame.resnet18fc", "synthesizer.linear"])
def test_published_state_is_loaded_completely(reference: Reference, name: str) -> None:
    state = {
        key: torch.from_numpy(value) for key, value in reference.recipe.state_dict(name).items()
    }
    net = PUBLISHED_NETS[name]()
    load_net(net, state, name)
    for theirs, value in published(net).items():
        assert torch.equal(value, state[theirs]), theirs


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_not_executed(tmp_path: Path, tiny_params: Params) -> None:
    trap = Trap(tmp_path / "executed")
    pickle.loads(pickle.dumps(trap))  # noqa: S301
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").rmdir()

    torch.save({"model": trap}, tmp_path / "new.pt")
    torch.save({"model": trap}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.zeros(2), "x": trap}, tmp_path / "hidden.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(trap))
    for name in ("new.pt", "old.pt", "hidden.pt", "plain.pt"):
        message = rejection(tmp_path / name, tiny_params)
        assert "never loaded" in message
        assert not (tmp_path / "executed").exists()


def test_pickled_module_is_rejected(tmp_path: Path, tiny_params: Params) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    assert "never loaded" in rejection(tmp_path / "module.pt", tiny_params)


def test_files_that_are_no_checkpoints(tmp_path: Path, saved: Path, tiny_params: Params) -> None:
    content = saved.read_bytes()
    other_zip = io.BytesIO()
    with zipfile.ZipFile(other_zip, "w") as archive:
        archive.writestr("000001.jpg", b"picture")
    files = {
        "truncated.pt": content[: len(content) // 2],
        "one byte short.pt": content[:-1],
        "header alone.pt": content[:40],
        "empty.pt": b"",
        "text.pt": b"<!DOCTYPE html><html>404</html>",
        "zeros.pt": bytes(4096),
        "other zip.pt": other_zip.getvalue(),
        "naïve 'name'.pt": b"\x80\x02garbage",
    }
    for name, damaged in files.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        assert "checkpoint" in rejection(path, tiny_params), name
    assert rejection(tmp_path / "none.pt", tiny_params) == "no such checkpoint"
    assert "not a readable checkpoint" in rejection(tmp_path, tiny_params)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old_format", [False, True])
def test_random_damage_gives_one_line(tmp_path: Path, old_format: bool) -> None:
    path = tmp_path / "damaged.pt"
    state = {"model": {"bias": torch.zeros(3)}, "params": {"a": [1, 2.5, "x"]}, "step": 1}
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    count = repeats(60, 300)
    for _ in range(count):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 12):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert refused > count / 3


def test_changed_bit_in_a_weight(saved: Path, player: PixelPlayer, tiny_params: Params) -> None:
    content = saved.read_bytes()
    weight = player.sound.down[3].weight.detach().numpy().tobytes()
    place = content.index(weight) + len(weight) // 2
    saved.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    assert "is damaged" in rejection(saved, tiny_params)


def test_compressed_file_is_rejected(tmp_path: Path, tiny_params: Params) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    assert "unpack to more than its own size" in rejection(tmp_path / "bomb.pt", tiny_params)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_of_other_kinds_are_rejected(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    state = player.sound.state_dict()
    weight = state["down.0.weight"]
    for kind in (weight.to_sparse(), weight.to("meta"), weight.to(torch.complex64)):
        torch.save({**state, "down.0.weight": kind}, tmp_path / "odd.pt")
        message = rejection(tmp_path / "odd.pt", tiny_params)
        assert "down.0.weight is a tensor of another kind, not (4, 1, 4, 4)" in message


def test_impossible_weights_are_rejected(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    state = player.sound.state_dict()
    double = state["down.0.weight"].double() + 1e300
    for name, value, said in (
        ("norm.bias", torch.tensor([math.nan]), "norm.bias has values that are not finite"),
        ("norm.bias", torch.tensor([math.inf]), "norm.bias has values that are not finite"),
        ("down.0.weight", double, "down.0.weight has values that are not finite"),
        ("norm.running_var", torch.tensor([-1.0]), "norm.running_var has negative variances"),
    ):
        changed = {**state, name: value}
        torch.save(changed, tmp_path / "sound.pt")
        assert said in rejection(tmp_path / "sound.pt", tiny_params)
        whole = player.state_dict() | {f"sound.{key}": own for key, own in changed.items()}
        content = {"model": whole, "params": tiny_params.for_inference(), "step": 1}
        save_checkpoint(tmp_path / "whole.pt", content)
        with pytest.raises(UserError, match=rf"whole\.pt: no training .*{said}.*; restore"):
            load_player(tmp_path / "whole.pt")


def test_repeated_values_are_no_weights(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    state = player.sound.state_dict()
    state["down.0.weight"] = torch.zeros(1).expand(4, 1, 4, 4)
    torch.save(state, tmp_path / "sound.pt")
    message = rejection(tmp_path / "sound.pt", tiny_params)
    assert "down.0.weight is a tensor of another kind" in message


def test_numbers_in_a_checkpoint_reserve_no_memory(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    path = tmp_path / "last.pt"
    for values, said in (
        ({"sound_width": 10**9}, "model.sound_width: 1000000000 is not allowed"),
        ({"channels": 10**12}, "model.channels: 1000000000000 is not allowed"),
        # Allowed, but far from the weights beside them.
        ({"sound_width": 256, "vision_width": 256}, "its own params describe another model"),
    ):
        params = tiny_params.for_inference()
        params["model"] |= values
        save_checkpoint(path, {"model": player.state_dict(), "params": params, "step": 1})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=said):
            load_player(path)
        # In KiB. The largest of these nets has 2 GiB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("params", [[], None, 3, "text"])
def test_checkpoint_whose_params_are_no_section(
    tmp_path: Path, player: PixelPlayer, params: object
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": player.state_dict(), "params": params, "step": 1})
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint of .*, its params are a \w+$"):
        load_player(path)


def test_missing_model_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: no such checkpoint; `dvc repro train` writes"):
        load_player(tmp_path / "none.pt")


def test_weights_of_another_precision(player: PixelPlayer) -> None:
    other = SoundNet("unet5", 8, 4)
    load_net(other, {k: v.double() for k, v in player.sound.state_dict().items()}, "double")
    assert_same_weights(other, player.sound)


def test_files_without_batch_counters(player: PixelPlayer) -> None:
    other = SoundNet("unet5", 8, 4)
    state = published(player.sound)
    load_net(other, {k: v for k, v in state.items() if "num_batches" not in k}, "old")
    assert_same_weights(other, player.sound)


def test_control_characters_in_names(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    state = player.sound.state_dict()
    torch.save({**state, "two\nlines\x1b[31m": 1, "x" * 10_000: 2}, tmp_path / "names.pt")
    message = rejection(tmp_path / "names.pt", tiny_params)
    assert r"'two\nlines\x1b[31m' is unknown" in message


def test_foreign_content_is_rejected(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    sound = player.sound.state_dict()
    foreign: dict[str, Any] = {
        "list.pt": [sound],
        "tensor.pt": torch.zeros(3),
        "nothing.pt": {},
        "list inside.pt": {"model": [sound], "params": {}},
        "number inside.pt": {"model": 3, "params": []},
        "values.pt": {name: "text" for name in sound},
        "none.pt": dict.fromkeys(sound, None),
        "numbers.pt": {3: torch.zeros(2), None: torch.zeros(2)},
        "optimizer.pt": {"state": {0: {"momentum": torch.zeros(2)}}, "param_groups": [{"lr": 1}]},
    }
    for name, content in foreign.items():
        torch.save(content, tmp_path / name)
        assert "not a" in rejection(tmp_path / name, tiny_params), name


def test_other_architecture_names_first_differences(tmp_path: Path, tiny_params: Params) -> None:
    wider = with_values(tiny_params, {"model.sound_width": 8})
    deeper = with_values(tiny_params, {"model.sound": "unet6", "mixture.audio_samples": 32767})
    path = tmp_path / "other.pt"
    for params, said in (
        (wider, r"down\.0\.weight is \(8, 1, 4, 4\), not \(4, 1, 4, 4\).* and \d+ more"),
        (deeper, r" is missing, .* and \d+ more"),
    ):
        other = build(params.model, params.spectrogram, seed=1)
        torch.save(published(other.sound), path)
        message = rejection(path, tiny_params)
        assert re.search(said, message), message
        assert "this SoundNet" in message
        assert "values of model" in message


def test_missing_and_unknown_weights(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    path = tmp_path / "sound.pt"
    state = player.sound.state_dict()
    value = state.pop("norm.bias")
    state["extra"] = value
    torch.save(state, path)
    message = rejection(path, tiny_params)
    assert "norm.bias is missing" in message
    assert "'extra' is unknown" in message


def test_missing_and_unknown_weights_of_a_published_file(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    path = tmp_path / "sound.pth"
    state = published(player.sound)
    state["unet_block.extra"] = state.pop("bn0.bias")
    torch.save(state, path)
    message = rejection(path, tiny_params)
    assert "(norm.bias is missing, 'unet_block.extra' is unknown)" in message


def test_checkpoint_with_other_parameters(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    path = tmp_path / "last.pt"
    tree = tiny_params.for_inference()
    tree["model"]["mask"] = "soft"
    save_checkpoint(path, {"model": player.state_dict(), "params": tree, "step": 1})
    with pytest.raises(UserError, match=r"last\.pt: model\.mask: 'soft'"):
        load_player(path)
    del tree["extract"]["timeout_seconds"]
    save_checkpoint(path, {"model": player.state_dict(), "params": tree, "step": 1})
    with pytest.raises(UserError, match=r"last\.pt: parameters are missing, .* train the model"):
        load_player(path)
    wider = with_values(tiny_params, {"model.channels": 16}).for_inference()
    save_checkpoint(path, {"model": player.state_dict(), "params": wider, "step": 1})
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint of this PixelPlayer"):
        load_player(path)


def test_equal_content_gives_equal_bytes(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "last.pt", tmp_path / "another.pt"
    save_player(first, player, tiny_params, step=7)
    # The temporary name has the process id.
    monkeypatch.setattr(os, "getpid", lambda: 12345678)
    save_player(second, player, tiny_params, step=7)

    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_save_keeps_the_previous_file(
    saved: Path,
    player: PixelPlayer,
    tiny_params: Params,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    before = saved.read_bytes()

    def half(content: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        save_player(saved, player, tiny_params, step=13)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
