import pytest
import torch

from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.distributed import Team, is_launched, joined, processes_wanted
from sop.train.trainer import make_plan
from tests.support.experiment import with_values

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("devices", "device", "gpus", "processes"),
    [
        ("auto", "auto", 0, 1),
        ("auto", "auto", 4, 4),
        ("auto", "cpu", 4, 1),
        ("auto", "cuda:1", 4, 1),
        (2, "cpu", 0, 2),
        (1, "auto", 4, 1),
    ],
)
def test_processes_are_the_gpus_unless_told_otherwise(
    devices: int | str,
    device: str,
    gpus: int,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert processes_wanted(devices, device) == processes


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    with joined("cpu") as team:
        assert team == Team(0, 1, CPU)
        assert team.leads
        assert team.mean(torch.tensor(3.0)) == 3
        assert team.agree(True) is True
        assert team.agree(False) is False
        team.wait()


@pytest.mark.parametrize(
    ("batch", "parts", "size", "local_parts"),
    [(80, 4, 1, 4), (80, 4, 2, 2), (80, 4, 4, 1), (80, 1, 8, 1), (80, 2, 4, 1), (16, 1, 1, 1)],
)
def test_parts_of_a_batch_are_shared(
    batch: int, parts: int, size: int, local_parts: int, tiny_params: Params
) -> None:
    values = {"train.batch_size": batch, "train.micro_batches": parts, "train.epochs": 3}
    plan = make_plan(with_values(tiny_params, values).train, 5 * batch, Team(0, size, CPU))
    assert (plan.epoch_steps, plan.steps, plan.parts) == (5, 15, local_parts)


@pytest.mark.parametrize(("batch", "parts", "size"), [(80, 4, 3), (80, 1, 3), (6, 6, 4)])
def test_a_batch_that_cannot_be_shared_is_a_users_mistake(
    batch: int, parts: int, size: int, tiny_params: Params
) -> None:
    values = {"train.batch_size": batch, "train.micro_batches": parts}
    params = with_values(tiny_params, values).train
    with pytest.raises(UserError, match=rf"train\.batch_size {batch} .* shared by {size} devices"):
        make_plan(params, 5 * batch, Team(0, size, CPU))
