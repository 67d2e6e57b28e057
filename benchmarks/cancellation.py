"""Adaptive filters: their speed against plain loops, and their noise reduction.

Run: python -m benchmarks.cancellation [--picture FILE [--records DIR]]

With --picture it also filters the sounds that the stage `evaluate` separated, each with the others
as references, and draws both cases: filters remove a recorded noise, but not residual interference.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import lfilter
from threadpoolctl import threadpool_limits

from benchmarks.machine import environment
from sop.denoise.adaptive import Lms, Nlms, Rls
from sop.denoise.settings import FilterSettings, LmsSettings, NlmsSettings, RlsSettings
from sop.evaluate.measures import bss_eval
from sop.evaluate.records import read_record, record_paths
from sop.model.spectrogram import stft
from sop.params import Params, load_params
from sop.runtime.files import replacing

Values = NDArray[np.float64]

PAIRS = 3
TAPS = 128
LMS_SAMPLES, RLS_SAMPLES = 131_072, 16_384
SPEED_TAPS = (4, 16, 64, 128)
SAMPLE_RATE = 11025  # Hz
LONG_TAPS, LONG_RATE = 4096, 48_000

# The classical case: 20 s of music and noise, the noise through an unknown path. In theory the
# residual noise is about 1/1000 of the music: taps * rate * power of the reference for LMS,
# rate / (2 - rate) for NLMS, taps * (1 - forgetting) / (1 + forgetting) for RLS.
SECONDS, PATH_TAPS = 20, 32
SETTINGS = {
    "lms": LmsSettings(PATH_TAPS, 1e-3 / PATH_TAPS),
    "nlms": NlmsSettings(PATH_TAPS, 2e-3),
    "rls": RlsSettings(PATH_TAPS, 0.9999),
}

# Filters for separated sounds, with the other sounds of the mixture as references.
MASKED = [RlsSettings(taps, forgetting) for taps in (4, 16, 64) for forgetting in (0.99, 0.999)]
DYNAMIC_RANGE_DB = 60.0
SHOWN_SECONDS = (8.0, 11.0)


class Panel(NamedTuple):
    """One spectrogram of the picture."""

    title: str
    sound: Values


class Row(NamedTuple):
    """One row of the picture: a title and its spectrograms."""

    title: str
    panels: list[Panel]


def main() -> None:
    """Print the tables, and draw the picture if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--records", type=Path, default=Path("data/evaluate"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print_speeds()
        print_throughput()
        recorded = print_recorded()
        if arguments.picture is not None:
            params = load_params()
            draw(arguments.picture, [recorded, print_masked(arguments.records, params)], params)
    print(f"\n{environment()}")


def print_speeds() -> None:
    """Print a table of times against plain loops."""
    target, noise = sounds(LMS_SAMPLES)
    lists = target.tolist(), noise.tolist()
    rate = 1e-4
    short = target[:RLS_SAMPLES], noise[:RLS_SAMPLES]
    rows: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        f"LMS, {LMS_SAMPLES} samples, lists and floats, all weights kept": (
            lambda: plain_lms(*lists, TAPS, rate),
            lambda: Lms(1, TAPS, rate).clean(target, noise),
        ),
        f"LMS, {LMS_SAMPLES} samples, NumPy, last weights kept": (
            lambda: numpy_lms(target, noise, TAPS, rate),
            lambda: Lms(1, TAPS, rate).clean(target, noise),
        ),
        f"RLS, {RLS_SAMPLES} samples, textbook in NumPy": (
            lambda: numpy_rls(*short, TAPS, 0.999),
            lambda: Rls(1, TAPS, 0.999).clean(*short),
        ),
    }
    print(f"| {TAPS} taps, median of {PAIRS} | plain, s | ours, s | ratio | largest difference |")
    print("| --- | --- | --- | --- | --- |")
    for name, (plain, ours) in rows.items():
        ours()  # compiled, or read from numba's cache
        times, differences = [], []
        for _ in range(PAIRS):
            slow, expected = timed(plain)
            fast, error = timed(ours)
            times.append((slow, fast))
            differences.append(np.abs(np.asarray(expected) - error).max())
        slow, fast = np.median(times, axis=0)
        ratio = np.median([slow / fast for slow, fast in times])
        print(f"| {name} | {slow:.2f} | {fast:.3f} | {ratio:.0f} | {max(differences):.1e} |")


def print_throughput() -> None:
    """Print a table of samples per second, also as multiples of the sample rate."""
    print("\n| best of 3 | samples/s | times real time |")
    print("| --- | --- | --- |")
    for taps in SPEED_TAPS:
        target, noise = sounds(131_072 if taps < 64 else 32_768)
        speed = max(
            len(target) / timed(lambda t=target, n=noise, m=taps: Rls(1, m, 0.999).clean(t, n))[0]
            for _ in range(3)
        )
        print(f"| RLS, {taps} taps, 11025 Hz | {speed:.3g} | {speed / SAMPLE_RATE:.0f} |")
    target, noise = sounds(2 * LONG_RATE)
    speed = max(
        len(target) / timed(lambda: Nlms(1, LONG_TAPS, 0.5).clean(target, noise))[0]
        for _ in range(3)
    )
    print(f"| NLMS, {LONG_TAPS} taps, 48 kHz | {speed:.3g} | {speed / LONG_RATE:.1f} |")


def print_recorded() -> Row:
    """Print a table of the classical case, and return its row of the picture."""
    samples = SECONDS * SAMPLE_RATE
    truth = music(samples)
    noise = np.random.default_rng(1).standard_normal(samples)
    path = np.random.default_rng(2).standard_normal(PATH_TAPS) * np.exp(-np.arange(PATH_TAPS) / 8)
    heard = lfilter(path, [1], noise)
    heard *= np.sqrt(np.sum(truth**2) / np.sum(heard**2))
    noisy = truth + heard
    settled = slice(samples // 2, None)
    print(
        f"\n| music and noise alike, settled, {PATH_TAPS} taps | noise reduction, dB | SDR, dB |\n"
        f"| --- | --- | --- |\n| before | 0.0 | {sdr(truth[settled], noisy[settled]):.1f} |"
    )
    scores, errors, reductions = {}, {}, {}
    for name, chosen in SETTINGS.items():
        errors[name] = chosen.make(1).clean(noisy, noise)
        left = (errors[name] - truth)[settled]
        reductions[name] = 10 * np.log10(np.sum(heard[settled] ** 2) / np.sum(left**2))
        scores[name] = sdr(truth[settled], errors[name][settled])
        print(f"| {described(chosen)} | {reductions[name]:.1f} | {scores[name]:.1f} |")
    shown = slice(*(round(second * SAMPLE_RATE) for second in SHOWN_SECONDS))
    before = sdr(truth[settled], noisy[settled])
    return Row(
        "The noise has a recording of its own: RLS takes "
        f"{reductions['rls']:.0f} dB of it out of the music",
        [
            Panel(f"target: music + noise, SDR {before:.1f} dB", noisy[shown]),
            Panel("reference: the noise, recorded apart", noise[shown] * np.std(heard)),
            Panel(f"after RLS, SDR {scores['rls']:.1f} dB", errors["rls"][shown]),
            Panel("the true music", truth[shown]),
        ],
    )


def print_masked(folder: Path, params: Params) -> Row:
    """Print a table of separated sounds filtered by the others, and return a row of the picture."""
    found = []
    before: list[float] = []
    after: dict[FilterSettings, list[float]] = {chosen: [] for chosen in MASKED}
    silent = 0
    for path in record_paths(folder):
        record = read_record(path)
        estimates = record.estimates(params).astype(np.float64)
        truth = record.sources[:, : estimates.shape[1]].astype(np.float64)
        if not (estimates.any(axis=1).all() and truth.any(axis=1).all()):
            silent += 1
            continue
        sets = [estimates]
        sets += [filtered(estimates, chosen) for chosen in MASKED]
        scores = bss_eval(truth, np.stack(sets)).sdr
        for source in range(len(truth)):
            found.append((path, source))
            before.append(float(scores[0, source]))
            for chosen, score in zip(MASKED, scores[1:, source], strict=True):
                after[chosen].append(float(score))
    print(
        f"\n| {len(before)} separated sources, each filtered by the others | mean SDR, dB "
        f"| median | better than before |\n| --- | --- | --- | --- |"
        f"\n| before | {np.mean(before):.2f} | {np.median(before):.2f} | |"
    )
    for chosen, scores_after in after.items():
        better = np.mean(np.array(scores_after) > before)
        print(
            f"| {described(chosen)} | {np.mean(scores_after):.2f} | {np.median(scores_after):.2f} "
            f"| {100 * better:.0f}% |"
        )
    if silent:
        print(f"\n{silent} mixtures with a silent estimate are left out.")
    best = max(after, key=lambda chosen: np.mean(after[chosen]))
    middle = int(np.argsort(before)[len(before) // 2])
    path, source = found[middle]
    record = read_record(path)
    estimates = record.estimates(params).astype(np.float64)
    names = [category.replace("_", " ") for category in record.categories]
    others = " + ".join(name for number, name in enumerate(names) if number != source)
    truth = record.sources[source, : estimates.shape[1]]
    others_sum = np.delete(estimates, source, axis=0).sum(axis=0)
    return Row(
        f"Masked out of one mixture: mean SDR of {len(before)} sounds goes from "
        f"{np.mean(before):.1f} to {np.mean(after[best]):.1f} dB; the one of median SDR:",
        [
            Panel(
                f"target: separated {names[source]}, SDR {before[middle]:.1f} dB", estimates[source]
            ),
            Panel(f"reference: separated {others}", others_sum),
            Panel(
                f"after RLS, SDR {after[best][middle]:.1f} dB", filtered(estimates, best)[source]
            ),
            Panel(f"the true {names[source]}", truth.astype(np.float64)),
        ],
    )


def filtered(estimates: Values, chosen: FilterSettings) -> Values:
    """Filter each of the sounds (N, L) with all others as references."""
    return np.stack(
        [
            chosen.make(len(estimates) - 1).clean(one, np.delete(estimates, number, axis=0))
            for number, one in enumerate(estimates)
        ]
    )


def described(chosen: FilterSettings) -> str:
    """Return settings as the name of a row."""
    ((name, value),) = [item for item in chosen.values.items() if item[0] != "taps"]
    return f"{chosen.method.upper()}, {chosen.taps} taps, {name} {value:.4g}"


def sdr(truth: Values, estimate: Values) -> float:
    """Return the SDR of one source, dB."""
    return float(bss_eval(truth[None], estimate[None]).sdr[0])


def sounds(samples: int) -> tuple[Values, Values]:
    """Return a target that contains a reference through a path, and the reference."""
    rng = np.random.default_rng(0)
    noise = lfilter([0.1], [1, -0.9], rng.standard_normal(samples))
    return lfilter(rng.standard_normal(20), [1], noise) + 0.1 * rng.standard_normal(samples), noise


def music(samples: int) -> Values:
    """Return a melody of plucked notes over longer notes."""
    rng = np.random.default_rng(0)
    at = np.arange(samples) / SAMPLE_RATE
    sound = np.zeros(samples)
    for step, decay, lowest in ((0.25, 6.0, 262), (1.0, 1.5, 110)):
        for onset in np.arange(0, samples / SAMPLE_RATE, step):
            since = np.clip(at - onset, 0, None)
            envelope = np.exp(-decay * since) * np.clip(since / 0.01, 0, 1)
            hertz = lowest * 2 ** (rng.choice([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
            for harmonic in range(1, int(4500 / hertz)):
                sound += envelope * np.sin(2 * np.pi * harmonic * hertz * at) / harmonic**1.2
    return 0.25 * sound / np.abs(sound).max()


def plain_lms(target: list[float], noise: list[float], taps: int, rate: float) -> list[float]:
    """LMS in pure Python, with the weights of all samples in a list."""
    weights = [0.0] * taps
    history = [weights]
    error = list(target)
    for n in range(taps - 1, len(target)):
        heard = 0.0
        for i in range(taps):
            heard += weights[i] * noise[n - i]
        error[n] = target[n] - heard
        following = [0.0] * taps
        for i in range(taps):
            following[i] = weights[i] + 2 * rate * error[n] * noise[n - i]
        weights = following
        history.append(weights)
    return error


def numpy_lms(target: Values, noise: Values, taps: int, rate: float) -> Values:
    """LMS with NumPy vectors, sample by sample."""
    weights = np.zeros(taps)
    error = target.copy()
    backwards = noise[::-1].copy()
    for n in range(taps - 1, len(target)):
        newest = backwards[len(noise) - 1 - n : len(noise) - 1 - n + taps]
        error[n] = target[n] - weights @ newest
        weights += 2 * rate * error[n] * newest
    return error


def numpy_rls(target: Values, noise: Values, taps: int, forgetting: float) -> Values:
    """RLS by the textbook recursion."""
    weights = np.zeros(taps)
    covariance = np.eye(taps) / 1e-6
    error = target.copy()
    for n in range(taps - 1, len(target)):
        newest = noise[n - taps + 1 : n + 1][::-1]
        along = covariance @ newest
        gain = along / (forgetting + newest @ along)
        error[n] = target[n] - weights @ newest
        weights = weights + gain * error[n]
        covariance = (covariance - np.outer(gain, newest @ covariance)) / forgetting
    return error


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `work` takes, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def draw(path: Path, rows: Sequence[Row], params: Params) -> None:
    """Write the rows of spectrograms as PNG."""
    figure = Figure(figsize=(13, 3.4 * len(rows)), dpi=80, layout="constrained")
    for part, row in zip(figure.subfigures(len(rows), 1), rows, strict=True):
        part.suptitle(row.title, fontsize=13, fontweight="bold")
        levels = [level(panel.sound, params) for panel in row.panels]
        loudest = max(float(one.max()) for one in levels)
        grid = part.subplots(1, len(row.panels), sharey=True)
        for axes, panel, one in zip(grid, row.panels, levels, strict=True):
            axes.imshow(
                one,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=loudest - DYNAMIC_RANGE_DB,
                vmax=loudest,
                extent=(0, len(panel.sound) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000),
            )
            axes.locator_params(axis="x", nbins=4)
            axes.set_title(panel.title, fontsize=11)
            axes.set_xlabel("s")
        grid[0].set_ylabel("kHz")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def level(sound: Values, params: Params) -> NDArray[np.float32]:
    """Return the spectrogram of a sound in dB."""
    magnitude = stft(torch.from_numpy(sound.astype(np.float32)), params.spectrogram).abs().numpy()
    decibels: NDArray[np.float32] = 20 * np.log10(np.maximum(magnitude, 1e-6))
    return decibels


if __name__ == "__main__":
    main()
