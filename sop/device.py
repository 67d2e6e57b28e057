"""Where tensors are computed."""

import torch

from sop.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of params.yaml: `auto` is CUDA where there is one, else the CPU.

    Raises:
        UserError: a CUDA device is asked for that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA "
            "devices; set auto or cpu"
        )
    return device
