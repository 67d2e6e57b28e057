"""Model files in the format safetensors, which cannot contain code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sop.runtime.errors import UserError
from sop.runtime.files import replacing

SUFFIX = ".safetensors"

# The text of the header that describes the model. It is a single one, since the library writes
# several in any order, and equal models are to have equal files.
DESCRIPTION = "sound_of_pixels"

# Types of numbers that a model can be converted from.
DTYPES = frozenset(("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"))


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write tensors and a description; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: by name, on any device.
        description: plain values.

    Raises:
        NotWritable: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, {DESCRIPTION: json.dumps(description, sort_keys=True)})
    with replacing(path) as partial:
        partial.write_bytes(content)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the description that `write_safetensors` writes, if there is one.

    Raises:
        UserError: the file is missing, damaged, or not of this format.
    """
    try:
        with safe_open(path, "pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if unknown := set(kinds.values()) - DTYPES:
                raise ValueError(f"numbers of type {min(unknown)} are not supported")
            texts = file.metadata() or {}
            description = json.loads(texts.get(DESCRIPTION, "{}"))
            if not isinstance(description, dict):
                raise ValueError("its description is not a mapping")
            return {name: file.get_tensor(name) for name in kinds}, description
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable safetensors file ({reason})") from None
