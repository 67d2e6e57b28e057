"""Initial weights of the networks: ImageNet, the published model, or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.models import ResNet18_Weights

from sop.model.checkpoint import load_checkpoint, load_net
from sop.model.pixelplayer import PixelPlayer, build
from sop.model.vision import VisionNet
from sop.params import (
    NETS,
    PUBLISHED_WIDTH,
    ModelParams,
    Net,
    Params,
    WeightsParams,
    differences_from_published,
)
from sop.runtime.errors import UserError
from sop.train.published import download

ARCHITECTURE = (
    f"model.sound unet7, sound_width {PUBLISHED_WIDTH}, vision resnet18dilated, "
    f"vision_width {PUBLISHED_WIDTH}, synthesizer linear, channels 32"
)

# Modules of torchvision's ResNet in the order of `VisionNet.trunk`; two of them have no weights.
RESNET_MODULES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def load_initial_weights(player: PixelPlayer, params: ModelParams) -> None:
    """Load the weights that `model.weights` names into each net of a model.

    `scratch` keeps the random weights, `imagenet` loads the trunk of the vision net, `published`
    downloads a file of the published model. Anything else is the path of a state dict, of a whole
    checkpoint, or of a file of the published model.

    Raises:
        UserError: a file is missing, damaged, of another architecture, or cannot be downloaded.
    """
    for net in NETS:
        source = getattr(params.weights, net)
        try:
            _load_weights(player, net, source, params)
        except UserError as error:
            raise UserError(f"model.weights.{net}: {error}") from None


def published_player(params: Params) -> tuple[PixelPlayer, Params]:
    """Return the published model, and parameters whose `model.weights` are `published`.

    Args:
        params: all parameters; their `model` must describe the published model.

    Raises:
        UserError: the parameters describe another model, or loading fails; see
            `load_initial_weights`.
    """
    if differences := differences_from_published(params.model, NETS):
        raise UserError(
            f"params.yaml does not fit the published model: set {', '.join(differences)}, or run "
            "`sop preset music`"
        )
    weights = WeightsParams(sound="published", vision="published", synthesizer="published")
    model = params.model.model_copy(update={"weights": weights})
    player = build(model, params.spectrogram, params.train.seed)
    load_initial_weights(player, model)
    return player.eval(), params.model_copy(update={"model": model})


def _load_weights(player: PixelPlayer, net: Net, source: str, params: ModelParams) -> None:
    """Load the weights of one net from a source, as `load_initial_weights` does."""
    if source == "imagenet":
        load_imagenet(player.vision)
    elif source == "published":
        path = download(net, params.published)
        try:
            load_net(getattr(player, net), load_checkpoint(path), str(path))
        except UserError as error:
            raise UserError(f"{error}: the published model has {ARCHITECTURE}") from None
    elif source != "scratch":
        state = _net_state(load_checkpoint(Path(source)), net)
        load_net(getattr(player, net), state, source)


def load_imagenet(vision: VisionNet) -> None:
    """Load torchvision's ImageNet weights into the trunk; they are downloaded once into its cache.

    Raises:
        UserError: they cannot be downloaded; the message names alternatives.
    """
    try:
        state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights cannot be downloaded ({error}); "
            f"put {ResNet18_Weights.IMAGENET1K_V1.url} into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}, or set it to scratch"
        ) from None
    trunk = {}
    for name in vision.trunk.state_dict():
        position, _, rest = name.partition(".")
        trunk[name] = state[f"{RESNET_MODULES[int(position)]}.{rest}"]
    vision.trunk.load_state_dict(trunk)


def _net_state(content: Mapping[str, Any], net: Net) -> Any:
    """Return the state of one net from the content of a checkpoint; `load_net` validates it."""
    whole = content.get("model", content)
    if not isinstance(whole, Mapping):
        return whole
    prefix = f"{net}."
    inner = {k.removeprefix(prefix): v for k, v in whole.items() if str(k).startswith(prefix)}
    return inner or dict(whole)
