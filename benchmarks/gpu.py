"""Everything that needs a GPU, within minutes: tests, training steps, waiting for data, and what
the published experiment would take.

Run: benchmarks/gpu.sh, which see; or python -m benchmarks.gpu [--device cpu] [--seconds N] ...

Each part runs in a process of its own, with a time limit. What does not fit is named, and the rest
is reported. On a CPU the networks are small: that tests this script, and measures nothing.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks import step as steps
from benchmarks.loader import batches_per_second, make_video
from benchmarks.machine import environment
from benchmarks.peak import wait
from benchmarks.step import FASTEST, KINDS, Measured, preset_music, print_row
from sop.dataset.index import Video, count_frames
from sop.dataset.mixtures import Batch, MixtureReader, TrainingMixtures
from sop.evaluate.records import evaluation_rule
from sop.evaluate.validation import SeparatedMixture, separate_mixtures
from sop.extract.extraction import extract_video
from sop.model.pixelplayer import build
from sop.params import Params
from sop.runtime.device import keep_freed_memory
from sop.train.distributed import ProcessGroup
from sop.train.gradients import compute_gradients
from sop.train.loader import training_batches
from sop.train.monitor import Throughput
from sop.train.state import make_optimizer

TESTS = "tests/test_devices.py"
COMPILED_TEST = "test_compiled_training"
COMPILED_FASTEST = f"{FASTEST}, compiled"

# Of the 8 minutes, what is left when the last part has been stopped.
SECONDS = 460.0
# Longest time of each part on a GPU.
TEST_SECONDS, STEP_SECONDS, LOADING_SECONDS, COMPILED_SECONDS = 90.0, 60.0, 90.0, 120.0
TEST_PROCESSES = {"cpu": 0, "cuda": 5}

# Videos for the loader; they fit into the system's cache of files, as those of MUSIC do on a
# machine with 32 GiB.
VIDEOS = {"cpu": 2, "cuda": 8}
VIDEO_SECONDS = {"cpu": 3, "cuda": 24}
TRAINING_STEPS = {"cpu": 3, "cuda": 60}
EVALUATED = {"cpu": 2, "cuda": 24}

# Solos and duets of the published list of MUSIC, see docs/published.md.
MUSIC_VIDEOS = 536 + 149


@dataclass(frozen=True)
class Loading:
    """Measurement of a training with its loader, in mixtures per second."""

    readers: int
    """Number of processes that read."""
    loader: float
    """Speed of the loader alone."""
    steps: float
    """Speed of the steps on one batch, without loader."""
    training: float
    """Speed of both together."""
    waiting: float
    """Fraction of the time of both together that was spent waiting for data."""
    evaluation: float
    """Speed of validation: separation and measures."""


def main() -> int:
    """Run all parts, and print the report; return 0 if all tests passed and all parts ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all parts")
    parser.add_argument("--batch", type=int, help="mixtures per step")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="kinds of steps to measure")
    parser.add_argument("--tests", default="", help="only tests whose name has this in it")
    parser.add_argument("--loading", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, small = options.device, options.device == "cpu"
    if options.loading:
        print(json.dumps(asdict(measure_loading(torch.device(device), small))))
        return 0
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU here; --device cpu tests this script without one")
    batch = options.batch or steps.BATCHES[device]
    # Ends the processes of the part that runs, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    until = time.monotonic() + options.seconds
    longest = math.inf if small else 1.0
    wanted = steps.kinds_on(device, compiled=False) if options.kinds is None else options.kinds
    eager = [kind for kind in wanted if steps.COMPILED not in kind]
    late = [kind for kind in wanted if steps.COMPILED in kind]

    only = options.tests or "test"
    tests = run_tests(device, f"{only} and not compiled", min(longest * TEST_SECONDS, left(until)))
    found = measure_steps(eager, device, batch, small, until, longest * STEP_SECONDS)
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--loading"]
    loaded = last_line(command, min(longest * LOADING_SECONDS, left(until)))
    loading = None if loaded is None else Loading(**loaded)
    # Last, since compiling takes longest.
    if options.tests in COMPILED_TEST:
        seconds = min(longest * COMPILED_SECONDS, left(until))
        ended = run_tests(device, COMPILED_TEST, seconds)
        tests |= ended or {COMPILED_TEST: ("not ended", seconds)}
    compiled = late[::-1]
    found |= measure_steps(compiled, device, batch, small, until, longest * COMPILED_SECONDS)

    report_tests(tests)
    measured = {kind: [one] for kind, one in found.items() if not isinstance(one, str)}
    if measured:
        print()
        steps.report(measured, device, batch)
    for kind, one in found.items():
        if isinstance(one, str):
            print(f"\n{kind}: {one}.")
    if loading is None:
        print("\nThe loader was not measured: it failed, or its time was up.")
    else:
        report_loading(loading)
        report_experiment(loading, found, preset_music())
    if small:
        print("\nSmall networks: these are no measurements, but a test of the script.")
    print(f"\n{environment()}")
    complete = loading is not None and not any(isinstance(one, str) for one in found.values())
    return 0 if complete and tests and all(said == "passed" for said, _ in tests.values()) else 1


def left(until: float) -> float:
    """Return the seconds until a moment of the monotonic clock, 0 if it is over."""
    return max(0.0, until - time.monotonic())


def output_of(
    command: Sequence[str], seconds: float, statuses: Sequence[int] = (0,), **variables: str
) -> str | None:
    """Return what a command prints.

    Returns:
        None if it ends with another status than those allowed, or takes longer than `seconds` and
        is killed.
    """
    if seconds < 1:
        return None
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | steps.QUIET | variables,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # With its own processes: readers, and those that compile.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return said if process.returncode in statuses else None


def last_line(command: Sequence[str], seconds: float) -> Any:
    """Return the last line that a command prints, read as JSON; None if there is none in time."""
    said = output_of(command, seconds)
    return json.loads(said.splitlines()[-1]) if said else None


def run_tests(device: str, only: str, seconds: float) -> dict[str, tuple[str, float]]:
    """Run the tests of a device; return result and seconds of each, nothing if none ended."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "--quiet", TESTS, f"--junitxml={results}"]
        command += ["-p", "no:cacheprovider", "-k", only]
        if TEST_PROCESSES[device]:
            command += ["--numprocesses", str(TEST_PROCESSES[device])]
        # Status 1: some tests failed.
        said = output_of(command, seconds, (0, 1), SOP_TEST_DEVICE=device)
        note(said or f"{TESTS}: failed to start, or the time was up")
        if said is None or not results.is_file():
            return {}
        return read_results(results)


def read_results(path: Path) -> dict[str, tuple[str, float]]:
    """Return result and seconds of each test in a file of pytest."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        bad = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), None)
        found[case.get("name", "")] = (bad or "passed", float(case.get("time", "0")))
    return found


def measure_steps(
    kinds: Sequence[str], device: str, batch: int, small: bool, until: float, seconds: float
) -> dict[str, Measured | str | None]:
    """Measure kinds of steps, each in its own process.

    Returns:
        For each kind the measurement; None if the memory is insufficient; else what went wrong.
    """
    found: dict[str, Measured | str | None] = {}
    for kind in kinds:
        began, limit = time.monotonic(), min(seconds, left(until))
        options = ["--small"] if small else []
        said = output_of(steps.command_of(kind, device, batch, *options), limit)
        took = time.monotonic() - began
        if said is None:
            ended = took >= limit
            found[kind] = f"not measured, {'the time was up' if ended else 'it failed'}"
            note(f"{kind}: {found[kind]}")
            continue
        values = json.loads(said.splitlines()[-1])
        found[kind] = measured = None if values is None else Measured.from_json(values)
        speed = "out of memory" if measured is None else f"{measured.speed:.1f} mixtures/s"
        note(f"{kind}: {speed}, after {took:.0f} s")
    return found


def note(text: str) -> None:
    """Print what has been found so far, in case the script is ended from outside."""
    print(text, file=sys.stderr, flush=True)


def measure_loading(device: torch.device, small: bool) -> Loading:
    """Measure loader and training with the preset `music`, on rendered videos."""
    # Steps on a CPU would otherwise compete with the readers for cores.
    torch.set_num_threads(1 if small else steps.THREADS)
    keep_freed_memory()
    params = preset_music(small)
    if small:
        train = params.train.model_copy(update={"batch_size": 4, "micro_batches": 2})
        params = params.model_copy(update={"train": train, "workers": 1})
    with tempfile.TemporaryDirectory() as folder:
        count, seconds = VIDEOS[device.type], VIDEO_SECONDS[device.type]
        videos = make_videos(Path(folder), params, count, seconds)
        return measure_training(videos, params, device)


def make_videos(root: Path, params: Params, count: int, seconds: int) -> list[Video]:
    """Render and extract videos, several at the same time."""

    def make(number: int) -> Video:
        video = root / f"{number}.mp4"
        make_video(video, number, seconds)
        audio, frames = root / "audio" / f"a/{number}.wav", root / "frames" / f"a/{number}.zip"
        for place in (audio, frames):
            place.parent.mkdir(parents=True, exist_ok=True)
        extract_video(video, audio, frames, params.extract)
        return Video(audio, frames, count_frames(frames))

    with ThreadPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
        return list(pool.map(make, range(count)))


def measure_training(videos: list[Video], params: Params, device: torch.device) -> Loading:
    """Measure the loader, the steps, both together, and validation."""
    batch, count = params.train.batch_size, TRAINING_STEPS[device.type]
    reader = MixtureReader(params.mixture, params.extract)
    alone = max(count, 8 * params.worker_count)
    repeats = math.ceil(batch * alone / len(videos))
    mixtures = TrainingMixtures(videos, reader, repeats, batch, params.train.seed)
    group = ProcessGroup(0, 1, device)
    loader = batch * batches_per_second(training_batches(mixtures, range(alone), params, group))

    player = build(params.model, params.spectrogram, params.train.seed).to(device)
    player.to_channels_last()
    optimizer = make_optimizer(player, params.train)

    def step(loaded: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        compute_gradients(player, loaded, params, device, params.train.micro_batches)
        optimizer.step()

    first = steps.clips(params, 0, device)
    step(first)
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        step(first)
    wait(device)
    fixed = count * batch / (time.perf_counter() - began)

    throughput = Throughput(batch)
    for loaded in throughput.timed(training_batches(mixtures, range(count), params, group)):
        step(loaded)
    wait(device)
    training, waiting = throughput.speed, throughput.waiting_fraction

    rule, number = evaluation_rule(params), EVALUATED[device.type]
    began = time.perf_counter()
    for separated in separate_mixtures(player, videos, params, number, 0, rule, device):
        assert isinstance(separated, SeparatedMixture), separated
        separated.score()
    evaluation = number / (time.perf_counter() - began)
    return Loading(params.worker_count, loader, fixed, training, waiting, evaluation)


def report_tests(tests: Mapping[str, tuple[str, float]]) -> None:
    """Print a table of tests."""
    print(f"| {TESTS} | result | s |\n| --- | --- | --- |")
    for name, (said, seconds) in tests.items():
        print_row([name, said, f"{seconds:.0f}"])
    if not tests:
        print("| the tests failed to start, or their time was up | failed | |")


def report_loading(loading: Loading) -> None:
    """Print a table of loader and training."""
    print("\n| training with the preset `music`, bfloat16 on a GPU | mixtures/s |\n| --- | --- |")
    readers = f"{loading.readers} process{'es' * (loading.readers != 1)}"
    print_row([f"loader alone, {readers}", f"{loading.loader:.0f}"])
    print_row(["steps on one batch, without loader", f"{loading.steps:.0f}"])
    print_row(["training, with loader", f"{loading.training:.0f}"])
    print_row(["validation: separation and measures", f"{loading.evaluation:.1f}"])
    slower = max(0.0, 1 - loading.training / loading.steps)
    print(
        f"\nTraining waits for data {loading.waiting:.0%} of its time, "
        f"and is {slower:.0%} slower than its steps."
    )


def report_experiment(
    loading: Loading, found: Mapping[str, Measured | str | None], params: Params
) -> None:
    """Print how long the published experiment takes, by the measured speeds."""
    training, validation = experiment_mixtures(params)
    evaluating = validation / loading.evaluation
    speeds = {"bfloat16, eager, as measured with its loader": loading.training}
    compiled = found.get(COMPILED_FASTEST)
    if isinstance(compiled, Measured):
        name = "bfloat16, compiled: its step or the loader, whichever is slower"
        speeds[name] = min(compiled.speed, loading.loader)
    print(f"\n| {training / 1e6:.2f} million mixtures | training, h | with validation, h |")
    print("| --- | --- | --- |")
    for name, speed in speeds.items():
        seconds = training / speed
        print_row([name, f"{seconds / 3600:.2f}", f"{(seconds + evaluating) / 3600:.2f}"])


def experiment_mixtures(params: Params) -> tuple[int, int]:
    """Return the numbers of mixtures of the published experiment: trained, and evaluated."""
    settings = params.train
    videos = int(MUSIC_VIDEOS * params.index.train_fraction)
    epoch = videos * settings.repeats // settings.batch_size * settings.batch_size
    validations = math.ceil(settings.epochs / settings.evaluate_every)
    evaluated = validations * settings.evaluate_mixtures + params.evaluate.mixtures
    return epoch * settings.epochs, evaluated


if __name__ == "__main__":
    sys.exit(main())
