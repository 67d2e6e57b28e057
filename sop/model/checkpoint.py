"""Checkpoints: written whole or not at all, read without executing anything that they contain."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sop.model.pixelplayer import PixelPlayer
from sop.model.sound import SoundNet
from sop.model.vision import VisionNet
from sop.params import NO_DENOISE, NO_REPORT, ModelParams, Params, validate
from sop.runtime.errors import UserError
from sop.runtime.files import replacing

State = Mapping[str, Tensor]


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all."""
    with replacing(path) as partial:
        torch.save(dict(content), partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Only tensors and plain values are accepted: a file that asks for anything to be executed is
    refused before it is.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of plain tensors.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, it is not a checkpoint of plain tensors; "
            "a file that would execute code is never loaded"
        ) from None
    except Exception as error:
        # What the reader raises on damaged bytes depends on which they are: nearly anything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint, it holds a {type(content).__name__}")
    return content


def save_player(path: Path, player: PixelPlayer, params: Params, step: int) -> None:
    """Write a model with all parameters that it was trained under."""
    save_checkpoint(
        path, {"model": player.state_dict(), "params": params.model_dump(), "step": step}
    )


def load_player(path: Path) -> tuple[PixelPlayer, Params]:
    """Read a model of `save_player` and the parameters that it was trained under.

    Raises:
        UserError: the file is missing, damaged, foreign, or of another architecture.
    """
    content = load_checkpoint(path)
    if not {"model", "params"} <= content.keys():
        raise UserError(f"{path}: not a checkpoint of this project, it holds no model and params")
    values = content["params"]
    if isinstance(values, dict):
        later = {"denoise": NO_DENOISE.model_dump(), "report": NO_REPORT.model_dump()}
        values = later | values
    params = validate(values, str(path))
    player = PixelPlayer(params.model, params.spectrogram)
    load_net(player, content["model"], str(path))
    return player.eval(), params


def load_weights(player: PixelPlayer, params: ModelParams) -> None:
    """Fill the networks from where params.yaml says they start.

    `scratch` leaves a net as it is, `imagenet` fills the vision trunk, `published` fetches the
    published model's file, anything else is the path of a state dict: ours, a whole checkpoint of
    ours, or one of the published files.

    Raises:
        UserError: a file is missing, damaged, of another architecture, or cannot be fetched.
    """
    # Not above: it reads what it fetches by what is defined here.
    from sop.model.published import load_published

    for name in ("sound", "vision", "synthesizer"):
        start = getattr(params.weights, name)
        if start == "imagenet":
            load_imagenet(player.vision)
        elif start == "published":
            load_published(getattr(player, name), name, params.published)
        elif start != "scratch":
            path = Path(start)
            load_net(getattr(player, name), net_state(load_checkpoint(path), name), str(path))


def net_state(content: Mapping[str, Any], name: str) -> Any:
    """The state of one net out of what a checkpoint file holds; `load_net` says if it is none."""
    whole = content.get("model", content)
    if not isinstance(whole, Mapping):
        return whole
    prefix = f"{name}."
    inner = {k.removeprefix(prefix): v for k, v in whole.items() if str(k).startswith(prefix)}
    return inner or dict(whole)


def load_net(net: nn.Module, state: State, source: str) -> None:
    """Load a net's state, by our names or the published ones.

    Args:
        net: a `SoundNet`, `VisionNet`, `Synthesizer`, or a whole `PixelPlayer` (our names only).
        state: parameter name -> tensor.
        source: where the state comes from, for the message.

    Raises:
        UserError: names or shapes are not this net's.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"{source}: not a state dict, it holds a {type(state).__name__}")
    # Checkpoints of the published code saved under DataParallel carry this prefix.
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    ours = net.state_dict()
    if not isinstance(net, PixelPlayer) and not state.keys() & ours.keys():
        published = published_names(net)
        state = {published.get(name, name): value for name, value in state.items()}
    # Files written before PyTorch 0.4.1 do not count batches, and nothing here reads the count.
    counters = {name for name in ours if name.endswith(".num_batches_tracked")}
    state = {**{name: ours[name] for name in counters}, **state}
    problems = [f"{name} is missing" for name in ours if name not in state]
    problems += [f"{_shown(name)} is unknown" for name in state if name not in ours]
    problems += [
        f"{name} is {_form(state[name])}, not {_form(value)}"
        for name, value in ours.items()
        if name in state and _form(state[name]) != _form(value)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{source}: not a checkpoint of this {type(net).__name__} "
            f"({', '.join(problems[:3])}{more}); model.* must be as it was trained"
        )
    net.load_state_dict(state)


def published_names(net: nn.Module) -> dict[str, str]:
    """Parameter names of the published checkpoint files -> ours, for one net."""
    return {_published_name(net, name): name for name in net.state_dict()}


def load_imagenet(vision: VisionNet) -> None:
    """Fill the trunk with torchvision's ImageNet weights, fetched once into its own cache.

    Raises:
        UserError: they cannot be had; the message says what to set instead.
    """
    from torchvision.models import ResNet18_Weights

    try:
        state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.weights.vision: the ImageNet weights cannot be had ({error}); "
            f"put {ResNet18_Weights.IMAGENET1K_V1.url} into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}, or set it to scratch"
        ) from None
    children = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")
    renamed = {
        f"{position}.{name.split('.', 1)[1]}": value
        for name, value in state.items()
        for position, child in enumerate(children)
        if child and name.startswith(f"{child}.")
    }
    # A trunk of fewer stages takes those that it has.
    vision.trunk.load_state_dict({name: renamed[name] for name in vision.trunk.state_dict()})


def _check_sums(path: Path) -> None:
    """Raise ValueError for a file whose bytes have changed or swell; torch looks at neither."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Never compressed by torch, but unpacked by it, whatever comes out.
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it would unpack to more than it is")
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")


def _published_name(net: nn.Module, name: str) -> str:
    if isinstance(net, VisionNet):
        return name.replace("trunk.", "features.", 1).replace("head.", "fc.", 1)
    if not isinstance(net, SoundNet):
        return name
    part, _, rest = name.partition(".")
    if part == "norm":
        return f"bn0.{rest}"
    position, _, leaf = rest.partition(".")
    # Our norms skip level 0 on the way down and count the level they lead to on the way up.
    level = int(position) + (part in ("down_norm", "up_norm"))
    outermost, innermost = level == 0, level == len(net.down) - 1
    slots = {
        "down": 0 if outermost else 1,
        "down_norm": 2,
        "up": 4 if outermost or innermost else 6,
        "up_norm": 5 if innermost else 7,
    }
    nesting = "" if outermost else ".1.model" + ".3.model" * (level - 1)
    return f"unet_block.model{nesting}.{slots[part]}.{leaf}"


def _form(value: Any) -> str:
    """What has to agree for a value to fill a weight; another precision of numbers may."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        return "a tensor of another kind"
    return str(tuple(value.shape))


def _shown(name: str) -> str:
    """A name out of a foreign file, fit for a message of one line."""
    return name if name.isprintable() and len(name) <= 100 else ascii(name[:100])
