"""Take out of each separated sound what is left of the others, if anything does it.

Methods of two kinds compete, and doing nothing does too. Adaptive filters (`sop.denoise.adaptive`)
take one separated sound as the target and the others of its mixture as the references. Masks that
know of one another (`sop.denoise.wiener`) share the mixture out anew. Which one is taken is decided
on some of the evaluated mixtures, and what it is worth is told by others, with no video on both
sides.

Shapes: N sources, L samples, F x M frequency bins x spectrogram frames.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sop.dataset.seeding import generator
from sop.denoise.adaptive import FilterName, FilterSetting, largest_lms_rate
from sop.denoise.bootstrap import Interval, mean_interval
from sop.denoise.wiener import em_wiener, renormalised
from sop.evaluate.measures import bss_eval, si_sdr, why_not_measurable
from sop.evaluate.records import Record, read_record, read_videos
from sop.model.spectrogram import istft
from sop.params import DenoiseParams, Params
from sop.runtime.device import one_thread
from sop.runtime.progress import progress

Sounds = NDArray[np.float32]
Method = Literal["lms", "nlms", "rls", "renormalise", "wiener"]

METHODS: tuple[Method, ...] = get_args(Method)
NONE = "none"
MEASURES = ("sdr", "sir", "sar", "si_sdr", "mse", "snr")

# What the notebook that this follows called SNR: mean over standard deviation of the waveform. It
# tells nothing about noise, and is kept for comparison alone.
NOTEBOOK_SNR = "mean_over_std"
_MEASURED = (*MEASURES, NOTEBOOK_SNR)

# What a method may cost in SIR and still be taken, dB.
SIR_COST_DB = 0.1

# A rate of LMS that would diverge is brought down to this part of the largest that would not.
STABLE_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """One method in one setting; the settings that it does not have are None."""

    method: Method
    taps: int | None = None
    rate: float | None = None
    """The rate of LMS and NLMS, the forgetting of RLS."""
    power: float | None = None
    frames: int | None = None
    iterations: int | None = None

    @property
    def setting(self) -> dict[str, float]:
        """The settings that it has, by name."""
        names = ("taps", "rate", "power", "frames", "iterations")
        named = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.method == "rls":
            named["forgetting"] = named.pop("rate")
        return named

    def __str__(self) -> str:
        """Such as `rls, taps 64, forgetting 0.999`."""
        return ", ".join([self.method, *(f"{k} {v:g}" for k, v in self.setting.items())])


def candidates(params: DenoiseParams) -> list[Candidate]:
    """All that compete, method by method."""
    rates: tuple[tuple[FilterName, list[float]], ...] = (
        ("lms", params.lms_rates),
        ("nlms", params.nlms_rates),
        ("rls", params.rls_forgetting),
    )
    filters = [
        Candidate(name, taps=taps, rate=rate)
        for name, choices in rates
        for taps, rate in product(params.taps, choices)
    ]
    powers = [Candidate("renormalise", power=power) for power in params.mask_powers]
    wiener = [
        Candidate("wiener", power=power, frames=frames, iterations=iterations)
        for power, frames, iterations in product(
            params.mask_powers, params.wiener_frames, params.wiener_iterations
        )
    ]
    every: list[Candidate] = [*filters, *powers, *wiener]
    if params.method in (NONE, "auto"):
        return every
    return [candidate for candidate in every if candidate.method == params.method]


@dataclass(frozen=True)
class Trial:
    """A separated mixture, on which candidates are tried."""

    record: Record
    params: Params
    bounded: set[Candidate] = field(default_factory=set)
    """Those whose rate would have diverged here, and was brought down."""

    @cached_property
    def before(self) -> Sounds:
        """The separated sounds as they are, (N, L)."""
        return self.record.estimates(self.params)

    @cached_property
    def truth(self) -> Sounds:
        """(N, L)."""
        return self.record.truth(self.params)

    def why_not_measurable(self) -> str | None:
        """Why it says nothing; None if it does."""
        for signals, whose in ((self.truth, ""), (self.before, "'s estimate")):
            for name, signal in zip(self.record.videos, signals, strict=True):
                if reason := why_not_measurable(signal):
                    return f"{name}{whose}: {reason}"
        return None

    def after(self, candidate: Candidate | None) -> Sounds:
        """The sounds that a candidate makes, (N, L); None leaves them as they are.

        A mixture of one source stays as it is, and so does a sound of which nothing would be left.
        """
        if candidate is None or len(self.before) < 2:
            return self.before
        if candidate.method in ("renormalise", "wiener"):
            sounds = self._shared_out(candidate)
        else:
            sounds = np.stack([self._filtered(candidate, one) for one in range(len(self.before))])
        gone = [why_not_measurable(sound) is not None for sound in sounds]
        return np.where(np.array(gone)[:, None], self.before, sounds)

    def measure(self, tried: Sequence[Candidate | None]) -> NDArray[np.float64]:
        """What each candidate makes, measured: (candidates, `MEASURES` and `NOTEBOOK_SNR`, N)."""
        sounds = np.stack([self.after(candidate) for candidate in tried]).astype(np.float64)
        truth = self.truth.astype(np.float64)
        bss = bss_eval(truth, sounds)
        errors = np.mean((sounds - truth) ** 2, axis=-1)
        snr = 10 * np.log10(np.mean(truth**2, axis=-1) / np.maximum(errors, 1e-20))
        notebook = sounds.mean(axis=-1) / sounds.std(axis=-1)
        values = [bss.sdr, bss.sir, bss.sar, si_sdr(truth, sounds), errors, snr, notebook]
        return np.stack(values, axis=1)

    def _filtered(self, candidate: Candidate, target: int) -> Sounds:
        others = np.delete(self.before, target, axis=0)
        taps, rate = candidate.taps, candidate.rate
        assert taps is not None and rate is not None
        if candidate.method == "lms":
            stable = STABLE_SHARE * largest_lms_rate(others, taps)
            if rate > stable:
                self.bounded.add(candidate)
                rate = stable
        name: FilterName = candidate.method  # type: ignore[assignment]
        adaptive = FilterSetting(name, taps, rate).make(len(others))
        return adaptive.clean(self.before[target], others).astype(np.float32)

    def _shared_out(self, candidate: Candidate) -> Sounds:
        spectrum = self._spectrum
        assert candidate.power is not None
        shares = renormalised(self._masks, candidate.power)
        if candidate.method == "wiener":
            assert candidate.frames is not None and candidate.iterations is not None
            power = spectrum.abs().square().numpy()
            shares = em_wiener(shares, power, candidate.frames, candidate.iterations)
        parts = torch.from_numpy(shares.astype(np.float32)) * spectrum
        sounds: Sounds = istft(parts, self.params.spectrogram).numpy()
        return sounds

    @cached_property
    def _spectrum(self) -> torch.Tensor:
        return self.record.spectrum(self.params)

    @cached_property
    def _masks(self) -> Sounds:
        masks: Sounds = self.record.linear_masks(self.params).numpy()
        return masks


@dataclass(frozen=True)
class Split:
    """Which evaluated mixtures are for what; those with videos of both sides are for neither."""

    tuning: tuple[int, ...]
    held_out: tuple[int, ...]


def split(videos: Sequence[Sequence[str]], share: float, seed: int) -> Split:
    """Split mixtures such that no video is on both sides.

    Args:
        videos: names of each mixture's.
        share: of the videos that are for tuning.
        seed: of their choice.

    Returns:
        Positions in `videos`.
    """
    names = sorted({name for mixture in videos for name in mixture})
    order = generator(seed, "denoise").permutation(len(names))
    for_tuning = {names[position] for position in order[: round(share * len(names))]}
    of_tuning = [sum(name in for_tuning for name in mixture) for mixture in videos]
    return Split(
        tuple(n for n, count in enumerate(of_tuning) if count == len(videos[n])),
        tuple(n for n, count in enumerate(of_tuning) if not count),
    )


class Changes:
    """What candidates change, mixture by mixture, against doing nothing.

    Args:
        tried: the candidates.
        values: `Trial.measure` of each mixture, doing nothing first: (candidates + 1, measures, N).
        seed: of the intervals.
    """

    def __init__(
        self, tried: Sequence[Candidate], values: Sequence[NDArray[np.float64]], seed: int
    ) -> None:
        self.tried = list(tried)
        self.seed = seed
        # The sources of a mixture are not independent of each other: the mixture is the unit.
        means = [value.mean(axis=-1) for value in values]
        self._means = np.array(means).reshape(-1, len(tried) + 1, len(_MEASURED))
        self._cache: dict[tuple[int, str], Interval] = {}

    @property
    def mixtures(self) -> int:
        """How many were measured."""
        return len(self._means)

    def mean(self, measure: str, candidate: Candidate | None) -> float | None:
        """Mean of a measure over the mixtures; None if there is no mixture."""
        position = 0 if candidate is None else 1 + self.tried.index(candidate)
        column = self._means[:, position, _MEASURED.index(measure)]
        return float(column.mean()) if len(column) else None

    def of(self, candidate: Candidate, measure: str) -> NDArray[np.float64]:
        """By how much a measure changes in each mixture."""
        which = _MEASURED.index(measure)
        position = 1 + self.tried.index(candidate)
        change: NDArray[np.float64] = self._means[:, position, which] - self._means[:, 0, which]
        return change

    def interval(self, candidate: Candidate, measure: str) -> Interval | None:
        """Mean change with its 95 % interval; None if there is no mixture."""
        key = (self.tried.index(candidate), measure)
        if key not in self._cache:
            values = self.of(candidate, measure)
            if not len(values):
                return None
            self._cache[key] = mean_interval(values, self.seed)
        return self._cache[key]

    def wins(self, candidate: Candidate) -> bool:
        """Whether it is surely better in SDR, and surely next to no worse in SIR."""
        sdr, sir = self.interval(candidate, "sdr"), self.interval(candidate, "sir")
        return sdr is not None and sir is not None and sdr.low > 0 and sir.low >= -SIR_COST_DB

    def best(self, among: Iterable[Candidate]) -> Candidate | None:
        """That of largest mean SDR change; None if there is none."""
        return max(among, key=lambda one: self._average(one, "sdr"), default=None)

    def best_of_each(self) -> dict[Method, Candidate]:
        """The best setting of each method: of those that cost no SIR, if there are any."""
        found = {}
        for method in METHODS:
            mine = [candidate for candidate in self.tried if candidate.method == method]
            harmless = [one for one in mine if self._average(one, "sir") >= -SIR_COST_DB]
            best = self.best(harmless or mine)
            if best is not None:
                found[method] = best
        return found

    def _average(self, candidate: Candidate, measure: str) -> float:
        """Mean change; without mixtures nothing changes anything."""
        values = self.of(candidate, measure)
        return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True)
class Choice:
    """What is taken, and why."""

    candidate: Candidate | None
    reason: str


def choose(method: str, tuning: Changes) -> Choice:
    """What to take, by the mixtures for tuning.

    Args:
        method: `denoise.method`.
        tuning: what the candidates change.
    """
    if method == NONE:
        return Choice(None, "denoise.method is none")
    if method != "auto":
        (forced,) = tuning.best_of_each().values()
        return Choice(forced, f"denoise.method is {method}")
    if not tuning.mixtures:
        return Choice(None, "no mixture is left for tuning; evaluate more mixtures or videos")
    best = tuning.best(filter(tuning.wins, tuning.tried))
    if best is None:
        return Choice(None, "nothing was surely better on the mixtures for tuning")
    sdr = tuning.interval(best, "sdr")
    assert sdr is not None
    return Choice(
        best,
        f"best of {len(tuning.tried)} on {tuning.mixtures} mixtures for tuning: SDR "
        f"{sdr.mean:+.2f} dB ({sdr.low:+.2f} to {sdr.high:+.2f})",
    )


@dataclass(frozen=True)
class Measured:
    """One mixture on which candidates were tried."""

    number: int
    videos: tuple[str, ...]
    values: NDArray[np.float64]
    """`Trial.measure` of doing nothing and of each candidate, (candidates + 1, measures, N)."""
    bounded: frozenset[Candidate]


@dataclass(frozen=True)
class NotMeasured:
    """One mixture that says nothing, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class Denoised:
    """What was tried, what is taken, and what it is worth."""

    choice: Choice
    tuning: Changes
    """All candidates on the mixtures for tuning."""
    held_out: Changes
    """The best of each method, and what is taken, on the others."""
    measured: Mapping[int, Measured]
    """The held-out mixtures, by number."""
    left_out: Mapping[int, str]
    """Those that cannot be measured, by number, and why."""
    bounded: frozenset[Candidate]
    """LMS with rates that would have diverged somewhere."""


def denoise(paths: Sequence[Path], params: Params) -> Denoised:
    """Try all that competes on the mixtures for tuning, and the best on those held out.

    Args:
        paths: the records of `evaluate`.
        params: what competes, and how mixtures are split.

    Raises:
        UserError: a record is damaged.
    """
    sides = split(
        [read_videos(path) for path in paths], params.denoise.tuning_fraction, params.seed
    )
    left_out: dict[int, str] = {}

    def tried(what: str, positions: Sequence[int], some: Sequence[Candidate]) -> list[Measured]:
        chosen = [paths[position] for position in positions]
        results = list(progress(_measured(chosen, some, params), what, len(chosen), unit="mixture"))
        left_out.update({one.number: one.reason for one in results if isinstance(one, NotMeasured)})
        return [one for one in results if isinstance(one, Measured)]

    every = candidates(params.denoise)
    for_tuning = tried("tune", sides.tuning, every)
    tuning = Changes(every, [one.values for one in for_tuning], params.seed)
    choice = choose(params.denoise.method, tuning)
    finalists = list(tuning.best_of_each().values())
    if choice.candidate is not None and choice.candidate not in finalists:
        finalists.append(choice.candidate)
    others = tried("hold out", sides.held_out, finalists)
    return Denoised(
        choice,
        tuning,
        Changes(finalists, [one.values for one in others], params.seed),
        {one.number: one for one in others},
        left_out,
        frozenset().union(*(one.bounded for one in (*for_tuning, *others))),
    )


def _measured(
    paths: Sequence[Path], tried: Sequence[Candidate], params: Params
) -> Iterator[Measured | NotMeasured]:
    """Try candidates on mixtures, several at a time; results come in order."""

    def measure(path: Path) -> Measured | NotMeasured:
        trial = Trial(read_record(path), params)
        if reason := trial.why_not_measurable():
            return NotMeasured(trial.record.number, reason)
        values = trial.measure([None, *tried])
        record = trial.record
        return Measured(record.number, record.videos, values, frozenset(trial.bounded))

    # What is compiled lets the others compute too; each on one core is faster than all on each.
    with (
        one_thread(),
        threadpool_limits(1),
        ThreadPoolExecutor(params.worker_count) as pool,
    ):
        yield from pool.map(measure, paths)


def summary(denoised: Denoised) -> dict[str, Any]:
    """What metrics/denoise.json holds; all but the counts is of the held-out mixtures."""
    choice, tuning, held_out = denoised.choice, denoised.tuning, denoised.held_out
    left_out = denoised.left_out
    taken = choice.candidate

    def changes(candidate: Candidate | None) -> dict[str, Any]:
        if candidate is None:
            return {
                name: Interval(0.0, 0.0, 0.0).as_dict() if held_out.mixtures else None
                for name in MEASURES
            }
        found = {name: held_out.interval(candidate, name) for name in MEASURES}
        return {name: value.as_dict() if value else None for name, value in found.items()}

    return {
        "method": taken.method if taken else NONE,
        "setting": taken.setting if taken else {},
        "reason": choice.reason,
        "mixtures": {
            "tuning": tuning.mixtures,
            "held_out": held_out.mixtures,
            "left_out": len(left_out),
            "reasons": {str(number): reason for number, reason in sorted(left_out.items())},
        },
        "before": {name: held_out.mean(name, None) for name in MEASURES},
        "after": {name: held_out.mean(name, taken) for name in MEASURES},
        "change": changes(taken),
        "methods": {
            method: {"setting": best.setting, "change": changes(best)}
            for method, best in tuning.best_of_each().items()
        },
        "footnote": {
            "about": "what the notebook called SNR: mean over standard deviation of the waveform",
            NOTEBOOK_SNR: {
                "before": held_out.mean(NOTEBOOK_SNR, None),
                "after": held_out.mean(NOTEBOOK_SNR, taken),
            },
        },
        "lms_rates_bounded": sorted(map(str, denoised.bounded)),
    }
