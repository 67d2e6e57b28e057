"""Model files in the format safetensors, which cannot contain code.

Eight bytes with the length of a header, the header as JSON, then the values of all tensors without
gaps. The header has the type, shape and place of each tensor, and text under `__metadata__`.
Source: https://github.com/huggingface/safetensors (format).
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sop.runtime.errors import UserError
from sop.runtime.files import replacing

SUFFIX = ".safetensors"

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16

# Values begin at a multiple of it.
ALIGNMENT = 8

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: by name, on any device.
        texts: by name, for the part `__metadata__`.

    Raises:
        NotWritable: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(texts)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(flat.numpy().tobytes())


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and texts, after checking every number of the header.

    Raises:
        UserError: the file is missing, damaged, or not of this format.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError("its header is longer than the file or the limit")
            header = json.loads(file.read(length))
            texts, places = _checked(header, size - 8 - length)
            tensors = {}
            for name, (dtype, shape, begin, end) in places.items():
                file.seek(8 + length + begin)
                data = bytearray(file.read(end - begin))
                flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0)
                tensors[name] = flat.to(torch.uint8).view(dtype).reshape(shape)
            return tensors, texts
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, struct.error, RecursionError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable safetensors file ({reason})") from None


_Place = tuple[torch.dtype, list[int], int, int]


def _checked(header: Any, data_bytes: int) -> tuple[dict[str, str], dict[str, _Place]]:
    """Return the texts, and type, shape, begin and end of each tensor.

    Raises:
        ValueError: the header is not valid, or the tensors do not cover the data exactly.
    """
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ValueError("its header is not a mapping, or too long")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its __metadata__ is not text")
    places: dict[str, _Place] = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise ValueError("a tensor without dtype, shape or data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        dtype = DTYPES.get(kind) if isinstance(kind, str) else None
        if dtype is None or not (_are_counts(shape) and _are_counts(offsets)):
            raise ValueError("a tensor of an unknown type, shape or place")
        if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
            raise ValueError("a tensor of an unknown type, shape or place")
        begin, end = offsets
        if end - begin != math.prod(shape) * torch.empty(0, dtype=dtype).element_size():
            raise ValueError("a tensor whose place is not as long as its shape")
        places[name] = dtype, shape, begin, end
    at = 0
    # Tensors that overlap could expand a small file to any size.
    for _, _, begin, end in sorted(places.values(), key=lambda place: place[2:]):
        if begin != at:
            raise ValueError("tensors overlap, or there is a gap between them")
        at = end
    if at != data_bytes:
        raise ValueError("its length is not that of its tensors")
    return texts, places


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )
