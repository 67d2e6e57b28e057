import pytest
import torch

from sop.params import Params
from sop.runtime.errors import UserError
from sop.train.distributed import ProcessGroup, is_launched, process_count, process_group
from sop.train.loader import make_plan
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
def test_process_count(
    devices: int | str, device: str, gpus: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert process_count(devices, device) == processes


def test_group_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    with process_group("cpu") as group:
        assert group == ProcessGroup(0, 1, CPU)
        assert group.is_main
        assert group.mean(torch.tensor(3.0)) == 3
        assert group.any_rank(True) is True
        assert group.any_rank(False) is False
        group.barrier()


@pytest.mark.parametrize(
    ("batch", "parts", "ranks", "parts_of_rank"),
    [(80, 4, 1, 4), (80, 4, 2, 2), (80, 4, 4, 1), (80, 1, 8, 1), (80, 2, 4, 1), (16, 1, 1, 1)],
)
def test_micro_batches_are_shared(
    batch: int, parts: int, ranks: int, parts_of_rank: int, tiny_params: Params
) -> None:
    values = {"train.batch_size": batch, "train.micro_batches": parts, "train.epochs": 3}
    plan = make_plan(with_values(tiny_params, values).train, 5 * batch, ranks)
    assert (plan.epoch_steps, plan.steps, plan.micro_batches) == (5, 15, parts_of_rank)


@pytest.mark.parametrize(("batch", "parts", "ranks"), [(80, 4, 3), (80, 1, 3), (6, 6, 4)])
def test_batch_that_cannot_be_shared(
    batch: int, parts: int, ranks: int, tiny_params: Params
) -> None:
    values = {"train.batch_size": batch, "train.micro_batches": parts}
    params = with_values(tiny_params, values).train
    with pytest.raises(UserError, match=rf"train\.batch_size {batch} .* shared by {ranks} devices"):
        make_plan(params, 5 * batch, ranks)
