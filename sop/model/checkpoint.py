"""Checkpoint files: written atomically, and read without executing code that they contain.

A model is also read from a file or folder that `sop export` writes.
"""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sop.model.card import ModelCard, card_values, read_card
from sop.model.pixelplayer import PixelPlayer
from sop.model.safetensors import SUFFIX, read_safetensors, write_safetensors
from sop.model.sound import SoundNet
from sop.model.vision import VisionNet
from sop.params import InferenceParams, validate
from sop.runtime.errors import UserError
from sop.runtime.files import replacing
from sop.runtime.plain_yaml import yaml_text

# Values of keys that were added to the parameters after the first models were written.
LATER_KEYS: Mapping[str, Mapping[str, Any]] = {
    "extract": {"motion_rate": None, "motion_height": 44},
    "mixture": {"motion_size": 40},
    "model": {"motion": "none", "sound_init": "published"},
}


# The model in a folder of `sop export`, and what is described in its header.
MODEL_FILE = "model.safetensors"
EXPORTED = ("params", "step", "card")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a file atomically."""
    # Given a path, torch stores its stem in the file, and the temporary name has the process id.
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(dict(content), file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values from a file, onto the CPU.

    A file that contains anything else, such as code, is rejected and nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, or contains more than tensors and plain values.
    """
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: rejected, it is not a checkpoint of plain tensors; "
            "files that could execute code are never loaded"
        ) from None
    except Exception as error:
        # Damaged bytes make the reader raise exceptions of nearly any type.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint, it contains a {type(content).__name__}")
    return content


@dataclass(frozen=True)
class LoadedModel:
    """A model file."""

    player: PixelPlayer
    """The model, in evaluation mode."""
    params: InferenceParams
    """Parameters that it is used with."""
    step: int
    """Number of training steps."""
    card: ModelCard
    """What the file says about it."""


def save_player(
    path: Path,
    player: PixelPlayer,
    params: InferenceParams,
    step: int,
    card: ModelCard | None = None,
) -> None:
    """Write a model, the parameters that it is used with, its training step, and its card."""
    content = {"model": player.state_dict(), "params": params.for_inference(), "step": step}
    if card is not None:
        content["card"] = dict(card_values(card))
    save_checkpoint(path, content)


def export_player(path: Path, model: LoadedModel) -> None:
    """Write a model, its parameters and its card as a safetensors file."""
    described = {
        "params": model.params.for_inference(),
        "step": model.step,
        "card": card_values(model.card),
    }
    write_safetensors(path, model.player.state_dict(), described)


def model_file(path: Path) -> Path:
    """Return the file of a model: the path itself, or that in a folder of `sop export`."""
    inner = path / MODEL_FILE
    return inner if inner.is_file() else path


def load_player(path: Path) -> tuple[PixelPlayer, InferenceParams]:
    """Read a model and the parameters that it is used with, as `load_model` does."""
    model = load_model(path)
    return model.player, model.params


def load_model(path: Path) -> LoadedModel:
    """Read a model that `save_player` or `export_player` wrote.

    Args:
        path: a checkpoint, a safetensors file, or a folder with one.

    Raises:
        UserError: the file is missing, damaged, not from this project, or does not match the
            architecture in its own parameters.
    """
    path = model_file(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; `dvc repro train` writes data/model/last.pt")
    content = _read_export(path) if path.suffix == SUFFIX else load_checkpoint(path)
    if not {"model", "params"} <= content.keys():
        raise UserError(f"{path}: not a checkpoint of this project, model or params are missing")
    if not isinstance(content["params"], dict):
        kind = type(content["params"]).__name__
        raise UserError(f"{path}: not a checkpoint of this project, its params are a {kind}")
    params = validate(InferenceParams, with_later_keys(content["params"]), str(path))
    with torch.device("meta"):
        # Shapes alone: an untrusted file must not decide how much memory is reserved.
        outline = PixelPlayer(params.model, params.spectrogram)
    state = _fitting_state(
        outline, content["model"], str(path), "its own params describe another model"
    )
    player = PixelPlayer(params.model, params.spectrogram)
    player.load_state_dict(state)
    step = content.get("step")
    card = read_card(content.get("card"), str(path))
    return LoadedModel(player.eval(), params, step if isinstance(step, int) else 0, card)


def _read_export(path: Path) -> dict[str, Any]:
    """Return the content of a safetensors file in the form of a checkpoint."""
    tensors, description = read_safetensors(path)
    described = {name: description[name] for name in EXPORTED if name in description}
    return {"model": tensors, **described}


def with_later_keys(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a checkpoint with the values that older checkpoints lack."""
    return {
        name: {**LATER_KEYS.get(name, {}), **section} if isinstance(section, dict) else section
        for name, section in params.items()
    }


def load_net(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the parameters of a net, under this project's names or the published ones.

    Args:
        net: a `SoundNet`, `VisionNet`, `Synthesizer`, or a whole `PixelPlayer` (own names only).
        state: parameter name -> tensor.
        source: origin of the state, for the error message.

    Raises:
        UserError: names or shapes do not match those of the net, or values are impossible.
    """
    advice = "set the values of model to those of its training"
    net.load_state_dict(_fitting_state(net, state, source, advice))


def _fitting_state(
    net: nn.Module, state: Mapping[str, Tensor], source: str, advice: str
) -> dict[str, Tensor]:
    """Return a state under the names of a net, after checking that it can be loaded.

    Args:
        net: the net; its values are not read.
        state: parameter name -> tensor.
        source: origin of the state, for the error message.
        advice: end of the message about a state of another architecture.

    Raises:
        UserError: names or shapes do not match those of the net, or values are impossible.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"{source}: not a state dict, it contains a {type(state).__name__}")
    # Checkpoints that the published code saved under DataParallel have this prefix.
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    expected = net.state_dict()
    if not isinstance(net, PixelPlayer) and not state.keys() & expected.keys():
        own_names = published_names(net)
        state = {own_names.get(name, name): value for name, value in state.items()}
    # Files written before PyTorch 0.4.1 have no batch counters, and nothing here reads them.
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    state = {**{name: torch.tensor(0) for name in counters}, **state}
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{yaml_text(name)} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} is {_form(state[name])}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and _form(state[name]) != str(tuple(value.shape))
    ]
    if problems:
        raise UserError(
            f"{source}: not a checkpoint of this {type(net).__name__} "
            f"({_first(problems)}); {advice}"
        )
    for name, value in expected.items():
        own = state[name].to(value.dtype)
        if not own.isfinite().all():
            problems.append(f"{name} has values that are not finite")
        elif name.endswith(".running_var") and (own < 0).any():
            problems.append(f"{name} has negative variances")
    if problems:
        raise UserError(
            f"{source}: no training makes such weights ({_first(problems)}); restore the file, or "
            "train the model again"
        )
    return state


def _first(problems: list[str]) -> str:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{', '.join(problems[:3])}{more}"


def published_names(net: nn.Module) -> dict[str, str]:
    """Map the parameter names in the published checkpoint files to those of one net."""
    return {_published_name(net, name): name for name in net.state_dict()}


def _check_archive(path: Path) -> None:
    """Raise ValueError if bytes of a file changed or if it is compressed; torch checks neither."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch never compresses, but would decompress a file of any resulting size.
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it would unpack to more than its own size")
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
    # There is no norm for level 0: neither on the way down nor, below its output, on the way up.
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
    """Describe what must match for a value to be loaded: kind and shape, but not precision."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        return "a tensor of another kind"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # A few values that are repeated to any size.
        return "a tensor of another kind"
    return str(tuple(value.shape))
