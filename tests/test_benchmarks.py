"""Results and tables of the benchmarks of the training step, except for speeds."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import scaling, step
from benchmarks.machine import environment
from benchmarks.scaling import Layout
from benchmarks.step import FASTEST, KINDS, PUBLISHED, Measured
from sop.params import Params
from sop.train.distributed import ProcessGroup
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture
def params(tiny_params: Params) -> Params:
    # PyTorch 2.15 writes beyond its memory where 4 channels are channels_last (AVX2).
    return with_values(tiny_params, {"model.vision_width": 8, "model.sound_width": 8})


def test_environment() -> None:
    line = environment()
    assert "\n" not in line
    assert f"PyTorch {torch.__version__}" in line
    assert re.search(r"^\d+ cores of .*; \w+, Python 3\.\S+, .*; \d+ \w+ \d{4}\.$", line)


def test_both_steps_learn_alike(params: Params) -> None:
    rates = {"sound": 0.1, "vision": 0.01, "synthesizer": 0.1}
    params = with_values(params, {"train.learning_rate": rates})
    published = step.losses(PUBLISHED, params, CPU, 4)
    assert step.losses("ours, float32", params, CPU, 4) == pytest.approx(published, rel=1e-3)
    assert len(set(published)) == 4
    half = with_values(params, {"train.precision": "bfloat16"})
    assert step.losses(FASTEST, half, CPU, 4) == pytest.approx(published, rel=0.05)


def test_operations_of_both_steps(params: Params) -> None:
    first, second = (step.measure(kind, params, CPU, 1) for kind in (PUBLISHED, "ours, float32"))
    assert first.speed > 0
    assert first.bytes == 0
    assert first.operations == pytest.approx(second.operations, rel=0.01)
    player, _ = step.make(PUBLISHED, params, CPU)
    # At least one product and one sum per weight and output pixel, and twice that backwards.
    assert first.operations > 6 * sum(weight.numel() for weight in player.parameters())


def test_published_settings() -> None:
    params = step.published_params(FASTEST, 6)
    assert (params.train.batch_size, params.train.micro_batches) == (6, 1)
    assert (params.train.precision, params.model.sound) == ("bfloat16", "unet7")
    assert step.published_params(PUBLISHED, 6).train.precision == "float32"


def test_kinds_of_each_device() -> None:
    assert step.kinds_on("cuda", False) == list(KINDS)
    assert step.kinds_on("cpu", False) == [PUBLISHED, "ours, float32", "ours, bfloat16"]
    assert step.kinds_on("cpu", True)[3:] == ["ours, float32, compiled", "ours, bfloat16, compiled"]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", None),
    ],
)
def test_peak_rate(name: str, peak: float | None) -> None:
    assert step.peak_rate(name) == peak


def test_table_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-PCIE-40GB")
    slow = [Measured(speed, 1e12, 3 * 2**30) for speed in (9.0, 10.0, 8.0)]
    fast = [Measured(speed, 1e12, 2**30) for speed in (60.0, 50.0, 78.0)]
    step.report({PUBLISHED: slow, FASTEST: fast, KINDS[1]: [None, *slow[1:]]}, "cuda", 80)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| batch of 80, NVIDIA A100-PCIE-40GB, best of 3 | mixtures/s |")
    assert lines[2] == f"| {PUBLISHED} | 10.00 | 1.00 | 3.0 | 10 | 3% |"
    assert lines[3] == f"| {FASTEST} | 78.00 | 6.67 | 1.0 | 78 | 25% |"
    assert lines[4].startswith(f"| {KINDS[1]} | out of memory |")
    assert {line.count("|") for line in lines[:5]} == {7}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    step.report({PUBLISHED: slow}, "cuda", 80)
    assert "unknown for this GPU" in capsys.readouterr().out


def test_table_of_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    step.report({PUBLISHED: [Measured(2.0, 1.0, 0)]}, "cpu", 4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [f"| {PUBLISHED} | 2.00 | 1.00 |"]
    assert len({line.count("|") for line in lines}) == 1


def test_losses_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "losses.png"
    step.draw({"one": [0.7, 0.6], "other": [0.7, 0.5]}, path)
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [layout.processes for layout in scaling.layouts("cuda", 80)] == [1, 2, 4]
    assert scaling.layouts("cpu", 4) == [(1, 1), (1, 2), (2, 1)]


def test_efficiency(capsys: pytest.CaptureFixture[str]) -> None:
    speeds = {Layout(1, 1): [2.0, 1.0], Layout(1, 2): [3.0, 1.5], Layout(2, 1): [4.0, 2.0]}
    scaling.report(speeds, "cpu", 4)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 1 process of 1 thread | 2.00 | 1.00 | 100% |",
        "| 1 process of 2 threads | 3.00 | 1.50 | 75% |",
        "| 2 processes of 1 thread | 4.00 | 2.00 | 100% |",
    ]
    scaling.report({Layout(1, 8): [100.0], Layout(2, 8): [180.0]}, "cuda", 80)
    assert capsys.readouterr().out.splitlines()[3] == "| 2 GPUs | 180.00 | 1.80 | 90% |"


def test_speed_of_one_process(params: Params) -> None:
    assert scaling.measure(params, ProcessGroup(0, 1, CPU), 1) > 0
