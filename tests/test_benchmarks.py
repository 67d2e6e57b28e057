"""Results and tables of the benchmarks of the training step, except for speeds."""

import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import gpu, scaling, step
from benchmarks.machine import environment
from benchmarks.peak import CONVOLUTIONS, OPERATORS, OTHER, UNUSED, Peak, bound, fastest, group
from benchmarks.scaling import Layout
from benchmarks.step import EXACT, FASTEST, KINDS, PUBLISHED, Measured
from sop.params import Params
from sop.train.distributed import ProcessGroup
from tests.support.experiment import ROOT, with_values

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
    kinds = (PUBLISHED, "ours, float32")
    first, second = (step.measure(kind, params, CPU, 1, small=True) for kind in kinds)
    assert first.speed > 0
    assert first.bytes == 0
    assert first.operations == pytest.approx(second.operations, rel=0.01)
    player, _ = step.make(PUBLISHED, params, CPU)
    # At least one product and one sum per weight and output pixel, and twice that backwards.
    assert first.operations > 6 * sum(weight.numel() for weight in player.parameters())
    for measured in (first, second):
        assert min(measured.peak.matrix_product, measured.peak.convolution) > 0
        assert sum(measured.spent.values()) == pytest.approx(1)
        assert min(measured.spent[CONVOLUTIONS], measured.spent["batch normalization"]) > 0
    assert Measured.from_json(asdict(first)) == first


def test_published_settings() -> None:
    params = step.published_params(FASTEST, 6)
    assert (params.train.batch_size, params.train.micro_batches) == (6, 1)
    assert (params.train.precision, params.model.sound) == ("bfloat16", "unet7")
    assert step.published_params(PUBLISHED, 6).train.precision == "float32"
    small = step.published_params(PUBLISHED, 6, small=True)
    assert (small.model.sound, small.mixture.image_size) == ("unet5", 32)


def test_kinds_of_each_device() -> None:
    assert step.kinds_on("cuda", False) == list(KINDS)
    assert step.kinds_on("cpu", False) == [PUBLISHED, "ours, float32", "ours, bfloat16"]
    assert step.kinds_on("cpu", True)[3:] == ["ours, float32, compiled", "ours, bfloat16, compiled"]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("aten::mkldnn_convolution", CONVOLUTIONS),
        ("aten::cudnn_convolution", CONVOLUTIONS),
        ("aten::convolution_backward", CONVOLUTIONS),
        ("aten::cudnn_batch_norm_backward", "batch normalization"),
        ("aten::bmm", "matrix products"),
        ("aten::upsample_bilinear2d_backward", "pooling and upsampling"),
        ("aten::copy_", "copies and concatenation"),
        ("Optimizer.step#SGD.step", "optimizer"),
        ("triton_poi_fused_relu_0", OTHER),
    ],
)
def test_group_of_an_operator(operator: str, expected: str) -> None:
    assert group(operator) == expected


def test_fastest_repetition_counts() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(0)
        time.sleep(0.05 if len(calls) < 3 else 0.01)

    assert 0.01 <= fastest(work, CPU, 0.2) < 0.05
    calls.clear()
    assert fastest(work, CPU, 0.0) >= 0.05
    assert len(calls) == 2


def test_what_bounds_a_step() -> None:
    peak = Peak(1e12, 2e12)
    spent = {CONVOLUTIONS: 0.8, "batch normalization": 0.15, OTHER: 0.05}
    said = "convolutions, 80% of the time at 75% of their peak"
    assert bound(1.2e12, peak, spent) == said
    spent = {CONVOLUTIONS: 0.3, "batch normalization": 0.1, OTHER: 0.6}
    assert bound(1e12, peak, spent) == f"{OTHER}, 60% of the time; convolutions 30%"


def measured_step(speed: float, operations: float, memory: int = 0) -> Measured:
    spent = dict.fromkeys((*OPERATORS, OTHER, UNUSED), 0.0) | {CONVOLUTIONS: 0.5, OTHER: 0.5}
    return Measured(speed, operations, memory, Peak(1e14, 2e14), spent)


def test_tables_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-PCIE-40GB")
    slow = [measured_step(speed, 1e12, 3 * 2**30) for speed in (9.0, 10.0, 8.0)]
    fast = [measured_step(speed, 1e12, 2**30) for speed in (60.0, 50.0, 78.0)]
    step.report({PUBLISHED: slow, FASTEST: fast, EXACT: [None, *slow[1:]]}, "cuda", 80)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| batch of 80, NVIDIA A100-PCIE-40GB, best of 3 | mixtures/s |")
    assert lines[2] == f"| {PUBLISHED} | 10.00 | 1.00 | 3.0 | 10 | 10% | 5% |"
    assert lines[3] == f"| {FASTEST} | 78.00 | 6.67 | 1.0 | 78 | 78% | 39% |"
    assert lines[4].startswith(f"| {EXACT} | out of memory |")
    assert {line.count("|") for line in lines[:5]} == {8}
    # The row without TF32 has one measurement that was possible.
    assert [line for line in lines if "| 100 | 200 |" in line] == [
        f"| {name} | 100 | 200 |" for name in ("TF32", "bfloat16", "float32")
    ]
    assert f"| {CONVOLUTIONS} | 50% | 50% |" in lines
    assert f"| {UNUSED} | 0% | 0% |" in lines


def test_tables_of_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    step.report({PUBLISHED: [measured_step(2.0, 1e11)]}, "cpu", 4)
    out = capsys.readouterr().out
    tables = [table.splitlines() for table in out.split("\n\n")]
    assert tables[0][2:] == [f"| {PUBLISHED} | 2.00 | 1.00 | 0.2 | 0% | 0% |"]
    assert tables[1][2:] == ["| float32 | 100 | 200 |"]
    assert UNUSED not in out
    for table in tables[:3]:
        assert len({line.count("|") for line in table}) == 1
    assert tables[3] == [
        f"- {PUBLISHED}: bound by convolutions, 50% of the time at 0% of their peak."
    ]


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


SCRIPT = str(ROOT / "benchmarks" / "gpu.sh")


def test_published_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    trained, evaluated = gpu.experiment_mixtures(step.preset_music())
    # 548 videos, 100 times in each of 100 epochs, and 256 mixtures after each and at the end.
    assert (trained, evaluated) == (548 * 100 * 100, 256 * 101)
    loading = gpu.Loading(16, 900.0, 700.0, 500.0, 0.1, 4.0)
    compiled = {gpu.COMPILED_FASTEST: measured_step(1000.0, 1e12)}
    gpu.report_experiment(loading, compiled, step.preset_music())
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert rows[0].endswith("| 3.04 | 4.84 |")
    # The loader is slower than the step.
    assert rows[1].endswith("| 1.69 | 3.49 |")
    gpu.report_experiment(loading, {gpu.COMPILED_FASTEST: "not measured"}, step.preset_music())
    assert len(capsys.readouterr().out.strip().splitlines()) == 3


def test_parts_have_a_time_limit(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    child = f"(sleep 1; touch {ended}) & wait"
    assert gpu.output_of(["bash", "-c", child], 0.5) is None
    assert gpu.output_of(["bash", "-c", "echo 1"], 5) == "1\n"
    assert gpu.output_of(["bash", "-c", "echo 1; exit 1"], 5) is None
    assert gpu.output_of(["bash", "-c", "echo 1; exit 1"], 5, (0, 1)) == "1\n"
    assert gpu.output_of(["bash", "-c", "echo 1"], 0) is None
    time.sleep(1)
    assert not ended.exists()


def test_results_of_tests(tmp_path: Path) -> None:
    path = tmp_path / "results.xml"
    path.write_text(
        '<testsuites><testsuite><testcase name="one" time="1.5"/>'
        '<testcase name="two" time="2"><failure message="x">x</failure></testcase>'
        "</testsuite></testsuites>"
    )
    assert gpu.read_results(path) == {"one": ("passed", 1.5), "two": ("failure", 2.0)}


def test_wheels_are_those_of_the_requirements() -> None:
    required = dict(re.findall(r"^([\w.-]+)==(\S+)", text("requirements.txt"), re.MULTILINE))
    wheels = dict(re.findall(r"^([\w.-]+)==(\S+)", text("benchmarks/gpu-wheels.txt"), re.MULTILINE))
    shared = wheels.keys() & required.keys()
    assert {"pydantic", "librosa", "dvclive"} <= shared
    # The wheel of the ffmpeg is smaller.
    assert {name for name in shared if wheels[name] != required[name]} == {"imageio-ffmpeg"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def run_script(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_gpu_script_needs_wheels(tmp_path: Path) -> None:
    done = run_script("--wheels", str(tmp_path))
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path}: no wheels in it\n")
    done = run_script("--wheels")
    assert (done.returncode, done.stderr) == (2, "error: --wheels needs a folder\n")


@pytest.mark.slow
def test_gpu_script(tmp_path: Path) -> None:
    wheel = tmp_path / "brought-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("brought.py", "")
        archive.writestr("brought-1.0.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("brought-1.0.dist-info/WHEEL", tags)
        archive.writestr("brought-1.0.dist-info/RECORD", "")
    site = tmp_path / "site"
    options = ["--device", "cpu", "--seconds", "1000", "--kinds", FASTEST, "--batch", "4"]
    done = run_script(
        *("--wheels", str(tmp_path), "--site", str(site), "--tests", "bfloat16", *options),
        timeout=1000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site / "brought.py").is_file()
    for begin in (
        "| test_training_in_bfloat16 | passed |",
        f"| {FASTEST} |",
        "| bfloat16 |",
        "| loader alone, 1 process |",
        "| validation: separation and measures |",
        "| bfloat16, eager, as measured with its loader |",
        "Small networks: these are no measurements",
    ):
        assert f"\n{begin}" in done.stdout, begin
