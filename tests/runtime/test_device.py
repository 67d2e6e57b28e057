import pytest
import torch

from sop.runtime.device import choose_device
from sop.runtime.errors import UserError


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Pretend that this machine has a number of CUDA devices."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


@pytest.mark.parametrize("cuda_devices", [0], indirect=True)
def test_auto_without_cuda(cuda_devices: int) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match=f"device: '{name}' .* 0 CUDA devices; set auto or cpu"):
            choose_device(name)


@pytest.mark.parametrize("cuda_devices", [2], indirect=True)
def test_auto_with_cuda(cuda_devices: int) -> None:
    assert choose_device("auto").type == "cuda"
    assert choose_device("cpu").type == "cpu"
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"'cuda:2' .* 2 CUDA devices"):
        choose_device("cuda:2")
