from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from sop.model.checkpoint import published_names, save_player
from sop.model.pixelplayer import PixelPlayer, build
from sop.model.vision import VisionNet
from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.initial_weights import load_imagenet, load_initial_weights
from tests.support.experiment import assert_same_weights, with_values

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def player(tiny_params: Params) -> PixelPlayer:
    return build(tiny_params.model, tiny_params.spectrogram, seed=1)


def test_each_net_from_a_whole_checkpoint(
    tmp_path: Path, player: PixelPlayer, tiny_params: Params
) -> None:
    saved = tmp_path / "last.pt"
    save_player(saved, player, tiny_params, step=12)
    for name in ("sound", "vision", "synthesizer"):
        other = build(tiny_params.model, tiny_params.spectrogram, seed=2)
        scratch = build(tiny_params.model, tiny_params.spectrogram, seed=2)
        params = with_values(tiny_params, {f"model.weights.{name}": str(saved)})
        load_initial_weights(other, params.model)
        for net in ("sound", "vision", "synthesizer"):
            assert_same_weights(
                getattr(other, net), getattr(player if net == name else scratch, net)
            )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old_format", [False, True])
def test_published_files_as_initial_weights(
    tmp_path: Path, tiny_params: Params, player: PixelPlayer, prefix: str, old_format: bool
) -> None:
    values = {"model.weights": {}}
    for name, file in (
        ("sound", "sound_best.pth"),
        ("vision", "frame_best.pth"),
        ("synthesizer", "synthesizer_best.pth"),
    ):
        net = getattr(player, name)
        own = net.state_dict()
        state = {prefix + theirs: own[ours] for theirs, ours in published_names(net).items()}
        torch.save(state, tmp_path / file, _use_new_zipfile_serialization=not old_format)
        values["model.weights"][name] = str(tmp_path / file)
    params = with_values(tiny_params, values)
    other = build(params.model, params.spectrogram, seed=2)
    load_initial_weights(other, params.model)
    assert_same_weights(other, player)


def test_imagenet_weights_of_the_trunk(
    monkeypatch: pytest.MonkeyPatch, tiny_params: Params
) -> None:
    torch.manual_seed(0)
    theirs = resnet18(weights=None)
    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs.state_dict(), raising=False
    )
    params = with_values(
        tiny_params, {"model.vision_width": 64, "model.weights.vision": "imagenet"}
    )
    player = build(params.model, params.spectrogram, seed=0)
    head = player.vision.head.weight.clone()
    load_initial_weights(player, params.model)
    layers = nn.Sequential(*list(theirs.children())[:-2])
    assert_same_weights(player.vision.trunk, layers)
    assert torch.equal(player.vision.head.weight, head)


def test_imagenet_weights_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline, raising=False)
    with pytest.raises(UserError) as error:
        load_imagenet(VisionNet())
    for part in ("service not known", "resnet18-", "checkpoints", "scratch"):
        assert part in str(error.value)
