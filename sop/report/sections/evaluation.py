"""Sections on the evaluation: result with what motion adds, scale, mixtures, localization."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sop.denoise.settings import MethodSettings
from sop.denoise.trial import Trial
from sop.evaluate.intervals import Interval, mean_interval
from sop.evaluate.measures import MEASURES, measure, summarise
from sop.evaluate.motion import ANY, DIFFERENT, LOW_LEAK_DB, RESTING, SAME
from sop.evaluate.records import read_record, record_paths
from sop.evaluate.results import MIXTURES_FILE
from sop.localize.scenes import KINDS
from sop.model.spectrogram import MaskRule
from sop.params import Params
from sop.report import charts
from sop.report.mixture_files import ideal_masks
from sop.report.outputs import details, read_csv
from sop.report.page import (
    MEASURE_NAMES,
    Axes,
    Block,
    Chart,
    Column,
    Figure,
    MixtureFiles,
    MixtureTable,
    Section,
    Sounds,
    Table,
    Text,
)
from sop.report.wording import counted
from sop.runtime.device import one_thread
from sop.runtime.errors import UserError
from sop.runtime.progress import progress

STRIPS_NOTE = (
    "Only the order of the players is known: their boxes are equal strips of the picture, so their "
    "overlap with regions says nothing."
)

MAX_ON_SCALE = 100
"""Mixtures over which the scale is averaged: more would not change what its chart shows."""


class Evaluation(NamedTuple):
    """What the stage `evaluate` wrote."""

    metrics: Mapping[str, Any]
    scores: pd.DataFrame
    """Measures of each source of each mixture."""
    records: Sequence[Path]


class Step(NamedTuple):
    """A way to separate, between doing nothing and the best that masks can do."""

    name: str
    kind: str
    """`bound` of what is possible, or `model` if it is what this model does."""
    meaning: str
    sdr: float | None
    """Mean in dB."""
    sir: float | None
    """Mean in dB."""
    sar: float | None
    """Mean in dB, without silent estimates."""
    silent: int = 0
    """Number of silent estimates."""


def read_evaluation(root: Path) -> Evaluation | None:
    """Read what the stage `evaluate` wrote; None if any of it is missing or damaged."""
    metrics = details(root, "evaluate")
    scores = read_csv(
        root / "metrics/evaluate" / MIXTURES_FILE,
        "mixture",
        "source",
        "category",
        "video",
        *MEASURES,
    )
    try:
        records = record_paths(root / "data/evaluate")
    except UserError:
        return None
    return None if metrics is None or scores is None else Evaluation(metrics, scores, records)


def result_section(
    metrics: Mapping[str, Any],
    scores: pd.DataFrame | None = None,
    heard: Sounds | None = None,
    protocol: str = "",
) -> Section:
    """Show the means of all measures, what could not be measured, and what motion adds.

    Args:
        metrics: the content of metrics/details/evaluate.json.
        scores: measures of each source of each mixture, for intervals.
        heard: a mixture to listen to.
        protocol: what the numbers are.
    """
    figures = [
        Figure(
            title,
            metrics[name]["mean"],
            metrics[name]["median"],
            "change" if name == "sdr_improvement" else "decibels",
            None if scores is None else _interval_of_mean(scores, name, metrics[name]["mean"]),
        )
        for name, title in MEASURE_NAMES.items()
        if name in metrics
    ]
    mixtures = metrics["mixtures"]
    reasons = Counter(mixtures["reasons"].values())
    silent = metrics.get("silent_estimates", 0)
    means = (
        f"Means over the sources of {counted(mixtures['counted'], 'mixture')}; "
        f"{counted(silent, 'silent estimate')}."
    )
    first: list[Block] = [Text(means, "lead"), figures, *([heard] if heard else [])]
    first += [Text(protocol)] if protocol else []
    motion = _motion_tables(metrics)
    if not reasons:
        measured = Text("All mixtures could be measured.")
        return Section("Result", [*first, measured, *motion])
    left_out = Table(
        [Column("Mixtures", "count"), Column("Reason")],
        [[number, reason] for reason, number in reasons.items()],
    )
    note = f"{counted(reasons.total(), 'mixture')} could not be measured:"
    return Section("Result", [*first, Text(note), left_out, *motion])


def _interval_of_mean(scores: pd.DataFrame, name: str, mean: float | None) -> Interval | None:
    """Return the 95 % interval of the mean of a measure over all sources.

    Its width is that of the mean over mixtures, which differs only where sources have no value.
    """
    if name not in scores or mean is None:
        return None
    known = scores[np.isfinite(scores[name].astype(float))]
    by_mixture = known.groupby("mixture")
    if not len(by_mixture):
        return None
    of_mixture = by_mixture[name].mean()
    videos = [tuple(names) for _, names in by_mixture["video"]]
    found = mean_interval(of_mixture.to_numpy(float), videos)
    if found.low is None or found.high is None:
        return None
    half = (found.high - found.low) / 2
    return Interval(mean, mean - half, mean + half)


def scale_steps(
    evaluation: Evaluation,
    held_out: pd.DataFrame | None,
    settings: MethodSettings | None,
    params: Params,
) -> tuple[list[Step], int]:
    """Measure the mixtures themselves, the model, and ideal masks, on the same mixtures.

    Args:
        evaluation: whose mixtures are measured.
        held_out: table of the mixtures that did not choose the denoising; only those are measured.
        settings: settings of the denoising; None without denoising.
        params: parameters of the run.

    Returns:
        The steps, and the number of mixtures that they are means over; none if there is no mixture.
        The steps are named with these mixtures, as the means of the section `Result` are over all.
    """
    wanted = set(evaluation.scores["mixture"])
    if held_out is not None and len(held_out):
        wanted &= set(held_out["mixture"])
    records = [path for path in evaluation.records if int(path.stem) in wanted][:MAX_ON_SCALE]
    if not records:
        return [], 0
    steps = [
        ("Mixture", "bound", "the mixture itself as the estimate of each source"),
        ("Model", "model", "the separated sounds"),
        *([("Model, denoised", "model", str(settings))] if settings else []),
        ("Ideal binary masks", "bound", "masks computed from the true sources"),
        ("Ideal ratio masks", "bound", "masks computed from the true sources"),
    ]

    def measured(path: Path) -> NDArray[np.float64]:
        trial = Trial(read_record(path), params)
        ideal = ideal_masks(trial.record, params)
        sets = [
            np.broadcast_to(trial.truth.sum(axis=0), trial.truth.shape),
            trial.before,
            *([trial.after(settings)] if settings else []),
            trial.record.masked(ideal["binary"], params, MaskRule(threshold=0.5)),
            trial.record.masked(ideal["ratio"], params),
        ]
        found = measure(trial.truth, np.stack(sets), trial.record.videos)
        return np.stack([found.sdr, found.sir, found.sar, found.silent], axis=1)

    with one_thread(), threadpool_limits(1), ThreadPoolExecutor(params.worker_count) as pool:
        shown = progress(pool.map(measured, records), "scale", len(records), unit="mixture")
        # (steps, measures, sources of all mixtures)
        values = np.concatenate(list(shown), axis=-1)
    # The mixture has no artifacts: its SAR is rounding error.
    values[0, 2] = np.nan
    held_out_only = "held-out " if held_out is not None and len(held_out) else ""
    on = counted(len(records), f"{held_out_only}mixture")
    made = []
    for (name, kind, meaning), (*ratios, silent) in zip(steps, values, strict=True):
        means = summarise(dict(zip(("sdr", "sir", "sar"), ratios, strict=True)))
        mean = {measure_name: statistics["mean"] for measure_name, statistics in means.items()}
        made.append(Step(f"{name} ({on})", kind, meaning, **mean, silent=int(silent.sum())))
    return made, len(records)


def scale_section(steps: Sequence[Step], count: int, is_held_out: bool) -> Section:
    """Show how far the model is from both ends.

    Args:
        steps: from the lowest to the highest.
        count: number of mixtures that they are means over.
        is_held_out: whether these did not take part in the choice of the denoising.
    """
    choice = ", which did not take part in the choice of denoising" if is_held_out else ""
    values = [(step.name, step.sdr, step.kind) for step in steps]
    measured = any(sdr is not None and np.isfinite(sdr) for _, sdr, _ in values)
    names = [Column(MEASURE_NAMES[name], "decibels") for name in ("sdr", "sir", "sar")]
    table = Table(
        [
            Column("Estimates"),
            *names,
            Column("Silent estimates", "count"),
            Column("Meaning", "prose"),
        ],
        [[step.name, step.sdr, step.sir, step.sar, step.silent, step.meaning] for step in steps],
        emphasized=[n for n, step in enumerate(steps) if step.kind == "model"],
        note=f"Means in dB over {counted(count, 'mixture')}{choice}.",
    )
    drawn = [Chart("Mean SDR", charts.scale(values), wide=True)] if measured else []
    return Section(
        "Scale",
        [*drawn, table] if steps else [],
        title="From the mixture itself to the best possible masks",
        empty="No mixture could be measured.",
    )


def mixture_section(
    scores: pd.DataFrame, files: Mapping[int, MixtureFiles], axes: Axes | None = None
) -> Section:
    """Show every source of every mixture.

    Args:
        scores: a row for each source, as `MixtureTable` needs them.
        files: files of the shown mixtures.
        axes: of their spectrograms and masks.
    """
    return Section(
        "Mixtures",
        [MixtureTable(scores, files, axes)] if len(scores) else [],
        title="Listen to the mixtures",
        empty="No mixture could be measured.",
    )


def localization_section(found: Mapping[str, Any], has_strips: bool = False) -> Section:
    """Show how well sounds were located in videos whose truth is known.

    Args:
        found: the content of metrics/details/localization.json.
        has_strips: whether only the order of the players is known, so that their boxes are equal
            strips of the picture.
    """
    scenes = found["scenes"]
    kinds = [kind for kind in KINDS if scenes.get(kind)]
    columns = [Column(f"{kind} ({scenes[kind]})", "percent") for kind in kinds]
    rows = [
        [label, *(found[key].get(kind) for kind in kinds)]
        for key, label in (
            ("regions_right", "Number of regions is correct"),
            ("pointing", "A region points at every player"),
            ("pointing_by_sound", "The region with the player's sound points at every player"),
            ("who_is_heard", "The loudest place is on the player that is heard"),
        )
        if key in found
    ]
    overlap = found["overlap"]
    pairs = {
        title: found[key]
        for key, title in (
            ("duets", "duets"),
            ("same_duets", "duets of one instrument"),
            ("talker_pairs", "pairs of talkers"),
            ("trios", "trios"),
            ("quartets", "quartets"),
            ("quintets", "quintets"),
        )
        if key in found
    }
    tables = [
        Table([Column("Scenes (number)"), *columns], rows, "Regions found without labels"),
        Table(
            [Column("Intersection over union"), Column("Players", "percent")],
            [[f"At least {share}", overlap.get(f"above_{share}")] for share in ("0.3", "0.5")],
            "Overlap of the boxes of region and player",
        ),
        *(
            Table(
                [Column("Mean"), Column("dB", "decibels")],
                [[title, sounds[name]] for name, title in MEASURE_NAMES.items() if name in sounds],
                f"Sounds of regions in {what}",
            )
            for what, sounds in pairs.items()
        ),
    ]
    boxes = found.get("boxes", {})
    note = [Text(STRIPS_NOTE)] if has_strips and sum(scenes.values()) else []
    return Section(
        "Localization",
        [*(tables if sum(scenes.values()) else []), *note, *_box_tables(boxes)],
        empty="Localization is measured only on videos whose truth is known.",
    )


def _box_tables(boxes: Mapping[str, Any]) -> list[Table]:
    """Show localization in frames of real videos with boxes; often none."""
    measured = {key: boxes[key] for key in ("solo", "duet") if key in boxes}
    if not measured:
        return []
    pointing = [one["pointing"] for one in measured.values()]
    rows: list[list[Any]] = [["A region points at every box", *pointing]]
    for key, name in (("overlap", "Boxes of region and instrument"), ("ciou", "Maps (CIoU)")):
        for share in ("0.3", "0.5"):
            values = [one[key][f"above_{share}"] for one in measured.values()]
            rows.append([f"{name} overlap by {share} or more", *values])
    rows.append(
        ["Area under the curve of CIoU", *(one["ciou"]["auc"] for one in measured.values())]
    )
    columns = [Column(f"{key} ({one['frames']})", "percent") for key, one in measured.items()]
    title = "Instruments with boxes in frames of real videos"
    return [Table([Column("Videos (frames)"), *columns], rows, title)]


def _motion_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Show measures of mixtures in which motion matters, with late frames beside; often none."""
    control = metrics.get("shifted")
    if control is None:
        return []
    late = f"frames {control['seconds']:g} s late"
    names = {DIFFERENT: "Different categories", ANY: "Any categories", SAME: "One category"}
    plain, *others = [key for key in names if key in control]
    found = {plain: metrics, **{key: metrics[key] for key in others}}
    different = "Appearance tells different categories apart, so late frames should change little. "
    separated = Table(
        [
            Column("Sources of a mixture"),
            Column("SDR improvement", "change"),
            Column(f"With {late}", "change"),
            Column("Difference", "change"),
            Column("Mixtures", "count"),
            Column("With late frames", "count"),
        ],
        [
            [
                names[key],
                _interval(values["sdr_improvement"]),
                _interval(control[key]["sdr_improvement"]),
                _interval(control[key]["change"]),
                values["mixtures"]["counted"],
                control[key]["mixtures"]["counted"],
            ]
            for key, values in found.items()
        ],
        "What motion adds",
        "Means in dB with 95 % intervals; the difference is that of the mixtures that are measured "
        f"both ways. {different if plain == DIFFERENT else ''}Only motion tells sources of one "
        "category apart: what late frames take away is due to motion, what they leave is not.",
    )
    if "silent_leak" not in metrics:
        return [separated]
    kinds = {
        DIFFERENT: "Beside other categories",
        ANY: "Beside any categories",
        SAME: "Beside its own category",
        RESTING: "At rest in its video",
    }
    below = f"Below \N{MINUS SIGN}{-LOW_LEAK_DB:g} dB"
    leaks = [(name, metrics["silent_leak"].get(key), key) for key, name in kinds.items()]
    silent = Table(
        [
            Column("Silent source"),
            Column("Median", "change"),
            Column(below, "percent"),
            Column(f"Median with {late}", "change"),
            Column(f"{below} with late frames", "percent"),
            Column("Mixtures", "count"),
        ],
        [
            [
                name,
                _interval(leak, "median"),
                leak["below_20_db"],
                _interval(after, "median"),
                after and after["below_20_db"],
                leak["mixtures"]["counted"],
            ]
            for name, leak, key in leaks
            if leak is not None
            for after in [control["silent_leak"].get(key)]
        ],
        "Sources that are seen but not heard",
        "Energy of the estimate of the silent source relative to the mixture, in dB with 95 % "
        "intervals: the lower, the less of the other sounds it gets. A source that plays unheard "
        "matches no sound, with late frames or without.",
    )
    return [separated, silent]


def _interval(found: Mapping[str, Any] | None, name: str = "mean") -> Interval | None:
    if found is None or found[name] is None:
        return None
    return Interval(found[name], found["low"], found["high"])
