"""Choose the denoising method that removes residual interference, if one of them helps.

Two kinds of methods compete with each other and with no denoising. Adaptive filters
(`sop.denoise.adaptive`) take one separated sound as the target and the other sounds of its mixture
as the references. Masks that sum to one (`sop.denoise.wiener`) separate the mixture again. The
method is chosen on the tuning mixtures and measured on the held-out mixtures; no video is in both.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sop.dataset.seeding import generator
from sop.denoise.candidates import candidates
from sop.denoise.changes import Changes
from sop.denoise.settings import NONE, LmsSettings, MethodSettings
from sop.denoise.trial import Trial
from sop.evaluate.records import read_record, read_videos
from sop.params import Params
from sop.runtime.device import one_thread
from sop.runtime.progress import progress


@dataclass(frozen=True)
class Split:
    """Positions of tuning and held-out mixtures; mixtures with videos of both are in neither."""

    tuning: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, None for no denoising, and the reason."""

    candidate: MethodSettings | None
    reason: str


@dataclass(frozen=True)
class MeasuredTrial:
    """Measures of the candidates on one mixture."""

    number: int
    videos: tuple[str, ...]
    values: NDArray[np.float64]
    """`Trial.measure` without denoising and of each candidate, (candidates + 1, measures, N)."""
    bounded: frozenset[LmsSettings]
    """`Trial.bounded`."""


@dataclass(frozen=True)
class SkippedTrial:
    """A mixture that cannot be measured, and the reason."""

    number: int
    reason: str


@dataclass(frozen=True)
class Denoised:
    """Result of the competition."""

    choice: Choice
    tuning: Changes
    """Changes by all candidates on the tuning mixtures."""
    held_out: Changes
    """Changes by the best candidate of each method and the chosen one on the held-out mixtures."""
    measured: Mapping[int, MeasuredTrial]
    """Held-out mixtures by number."""
    left_out: Mapping[int, str]
    """Reasons of the mixtures that cannot be measured, by number."""
    bounded: frozenset[LmsSettings]
    """LMS candidates whose rate would have diverged on a mixture."""


def denoise(paths: Sequence[Path], params: Params) -> Denoised:
    """Try all candidates on the tuning mixtures, and the best of them on the held-out mixtures.

    Args:
        paths: the records of the stage `evaluate`.
        params: the candidates, and the split of the mixtures.

    Raises:
        UserError: a record is damaged.
    """
    sides = split(
        [read_videos(path) for path in paths], params.denoise.tuning_fraction, params.seed
    )
    left_out: dict[int, str] = {}

    def measure(
        name: str, positions: Sequence[int], tried: Sequence[MethodSettings]
    ) -> list[MeasuredTrial]:
        chosen = [paths[position] for position in positions]
        results = list(progress(_trials(chosen, tried, params), name, len(chosen), unit="mixture"))
        skipped = [result for result in results if isinstance(result, SkippedTrial)]
        left_out.update({result.number: result.reason for result in skipped})
        return [result for result in results if isinstance(result, MeasuredTrial)]

    every = candidates(params.denoise)
    on_tuning = measure("tune", sides.tuning, every)
    tuning = Changes(every, [trial.values for trial in on_tuning], params.seed)
    choice = choose(params.denoise.method, tuning)
    finalists = list(tuning.best_of_each_method().values())
    if choice.candidate is not None and choice.candidate not in finalists:
        finalists.append(choice.candidate)
    on_held_out = measure("hold out", sides.held_out, finalists)
    return Denoised(
        choice,
        tuning,
        Changes(finalists, [trial.values for trial in on_held_out], params.seed),
        {trial.number: trial for trial in on_held_out},
        left_out,
        frozenset().union(*(trial.bounded for trial in (*on_tuning, *on_held_out))),
    )


def split(videos: Sequence[Sequence[str]], fraction: float, seed: int) -> Split:
    """Split mixtures into tuning and held-out mixtures that have no video in common.

    Args:
        videos: names of the videos of each mixture.
        fraction: fraction of the videos for tuning.
        seed: seed of the choice of videos.

    Returns:
        Positions in `videos`.
    """
    names = sorted({name for mixture in videos for name in mixture})
    order = generator(seed, "denoise").permutation(len(names))
    for_tuning = {names[position] for position in order[: round(fraction * len(names))]}
    counts = [sum(name in for_tuning for name in mixture) for mixture in videos]
    return Split(
        tuple(n for n, count in enumerate(counts) if count == len(videos[n])),
        tuple(n for n, count in enumerate(counts) if not count),
    )


def choose(method: str, tuning: Changes) -> Choice:
    """Choose a candidate by its changes on the tuning mixtures.

    Args:
        method: `denoise.method`.
        tuning: the changes by all candidates.
    """
    if method == NONE:
        return Choice(None, "denoise.method is none")
    if method != "auto":
        (forced,) = tuning.best_of_each_method().values()
        return Choice(forced, f"denoise.method is {method}")
    if not tuning.mixtures:
        return Choice(None, "no mixture is left for tuning; evaluate more mixtures or videos")
    best = tuning.best(filter(tuning.improves, tuning.tried))
    if best is None:
        return Choice(None, "no candidate was significantly better on the mixtures for tuning")
    sdr = tuning.interval(best, "sdr")
    assert sdr is not None
    return Choice(
        best,
        f"best of {len(tuning.tried)} on {tuning.mixtures} "
        f"{'mixture' if tuning.mixtures == 1 else 'mixtures'} for tuning: SDR "
        f"{sdr.mean:+.2f} dB ({sdr.low:+.2f} to {sdr.high:+.2f})",
    )


def _trials(
    paths: Sequence[Path], tried: Sequence[MethodSettings], params: Params
) -> Iterator[MeasuredTrial | SkippedTrial]:
    """Try candidates on mixtures, several mixtures in parallel; yields results in order."""

    def measure(path: Path) -> MeasuredTrial | SkippedTrial:
        record = read_record(path)
        trial = Trial(record, params)
        if reason := trial.why_not_measurable():
            return SkippedTrial(record.number, reason)
        values = trial.measure([None, *tried])
        return MeasuredTrial(record.number, record.videos, values, frozenset(trial.bounded))

    # Compiled code releases Python's lock, so that threads run in parallel. One core for each
    # mixture is faster than all cores for each.
    with (
        one_thread(),
        threadpool_limits(1),
        ThreadPoolExecutor(params.worker_count) as pool,
    ):
        yield from pool.map(measure, paths)
