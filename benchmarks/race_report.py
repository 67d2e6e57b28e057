"""Report of a race: Markdown, CSV and PNG, with the intervals of `sop compare --group`."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pygit2
from matplotlib.figure import Figure

from benchmarks.machine import environment
from benchmarks.race_cost import Cost
from sop.evaluate.intervals import Interval
from sop.evaluate.measures import MEASURES
from sop.params import PARAMS_PATH
from sop.report.comparison import MIXTURES_PATH, verdict_of
from sop.report.groups import GroupComparison, compare_groups
from sop.runtime.files import replacing, temporary_folder, write_text

HELD_OUT_PATH = Path("metrics/denoise/held_out.csv")

BEFORE, BEFORE_HELD_OUT, AFTER = "before", "before, held out", "after"
TITLES = {
    BEFORE: "Before denoise, all mixtures",
    BEFORE_HELD_OUT: "Before denoise, the mixtures that denoise is not tuned on",
    AFTER: "After denoise, the same mixtures",
}

SHOWN = {
    "sdr": "SDR",
    "sdr_improvement": "SDR above the mixture",
    "sir": "SIR",
    "sar": "SAR",
    "si_sdr": "SI-SDR",
}
COMPARED_IN_TABLE = ("sdr", "sir")

TIME_TOLERANCE = 0.05
"""Fraction by which the time of a training may differ from that of the others."""


@dataclass(frozen=True)
class Entry:
    """A finished run."""

    design: str
    seed: int
    folder: Path
    """Folder in which it was evaluated."""
    denoised: bool
    seconds: float
    """Wall time of the stage `train`, of all attempts."""
    attempts: int
    peak_mib: int | None
    steps: int
    planned: float
    """Seconds that its steps and validations were to take."""
    cost: Cost
    code: str
    """Short hashes of the code of its stages."""


def write_report(folder: Path, kind: str, entries: Sequence[Entry], about: Sequence[str]) -> Path:
    """Write `<kind>.md`, `<kind>.csv`, `<kind>-cost.csv` and `<kind>.png`.

    Args:
        folder: receives the files.
        kind: beginning of their names.
        entries: the finished runs; those of the first design come first.
        about: sentences on top.

    Returns:
        The Markdown file.

    Raises:
        UserError: a table of measures is missing or damaged.
    """
    parts = compare_parts(entries)
    costs = cost_table(entries)
    write_text(folder / f"{kind}.csv", quality_table(parts).to_csv(index=False))
    write_text(folder / f"{kind}-cost.csv", costs.to_csv(index=False))
    draw(parts, folder / f"{kind}.png")
    text = io.StringIO()
    print("# Race of designs\n", file=text)
    print("\n".join(f"- {line}" for line in about), file=text)
    for part, compared in parts.items():
        print(f"\n## {TITLES[part]}: {compared.mixtures}\n", file=text)
        print("\n".join(quality_lines(compared)), file=text)
    print("\nDecibels: means with 95 % intervals over seeds and videos.", file=text)
    print("\n## Cost\n", file=text)
    print("\n".join(cost_lines(costs)), file=text)
    # Several parts have the same reservations.
    found = [note for compared in parts.values() for note in compared.notes]
    if notes := [*dict.fromkeys([*time_notes(entries), *found])]:
        print("\n## Notes\n", file=text)
        print("\n".join(f"- {note}" for note in notes), file=text)
    print(f"\n{environment()}", file=text)
    path = folder / f"{kind}.md"
    write_text(path, text.getvalue())
    return path


def compare_parts(entries: Sequence[Entry]) -> dict[str, GroupComparison]:
    """Compare the designs before and, if all runs are denoised, after denoise."""
    tables = {BEFORE: [(entry, read_evaluated(entry)) for entry in entries]}
    if all(entry.denoised for entry in entries):
        tables[BEFORE_HELD_OUT] = [(entry, read_held_out(entry, "none")) for entry in entries]
        tables[AFTER] = [(entry, read_held_out(entry, chosen_method(entry))) for entry in entries]
    return {
        part: compare_tables(runs)
        for part, runs in tables.items()
        if all(len(table) for _, table in runs)
    }


def read_evaluated(entry: Entry) -> pd.DataFrame:
    """Return the measures of the stage `evaluate`."""
    return pd.read_csv(entry.folder / MIXTURES_PATH)


def read_held_out(entry: Entry, method: str) -> pd.DataFrame:
    """Return the measures of the stage `denoise` with a method, as `evaluate` writes them."""
    rows = pd.read_csv(entry.folder / HELD_OUT_PATH)
    # The chosen setting comes last if it is not the best one of its method.
    rows = rows[rows["method"] == method].drop_duplicates(["mixture", "source"], keep="last")
    mixed = read_evaluated(entry)[["mixture", "source", "sdr_mixture"]]
    rows = rows.merge(mixed, on=["mixture", "source"])
    rows["sdr_improvement"] = rows["sdr"] - rows["sdr_mixture"]
    return rows[["mixture", "source", "category", "video", *MEASURES]]


def chosen_method(entry: Entry) -> str:
    """Return the method that `denoise` chose for a run."""
    path = entry.folder / "metrics" / "details" / "denoise.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["method"])


def compare_tables(runs: Sequence[tuple[Entry, pd.DataFrame]]) -> GroupComparison:
    """Compare designs as `sop compare --group` does, which reads each run from a commit."""
    named: dict[str, list[str]] = {}
    with temporary_folder() as folder:
        repository = pygit2.init_repository(str(folder))
        for entry, table in runs:
            name = f"{entry.design}_seed{entry.seed}"
            params = (entry.folder / PARAMS_PATH).read_bytes()
            files = {PARAMS_PATH: params, MIXTURES_PATH: table.to_csv(index=False).encode()}
            commit(repository, name, files)
            named.setdefault(entry.design, []).append(name)
        return compare_groups(list(named.items()), folder)


def commit(repository: pygit2.Repository, name: str, files: Mapping[Path, bytes]) -> None:
    """Commit files, without a parent, as a tag."""
    index = pygit2.Index()
    for path, content in files.items():
        blob = repository.create_blob(content)
        entry = pygit2.IndexEntry(path.as_posix(), blob, pygit2.enums.FileMode.BLOB)
        index.add(entry)
    tree = index.write_tree(repository)
    author = pygit2.Signature("race", "race@localhost", 0, 0)
    repository.create_commit(f"refs/tags/{name}", author, author, name, tree, [])


def quality_table(parts: Mapping[str, GroupComparison]) -> pd.DataFrame:
    """Return a row for each part, design and measure."""
    rows = []
    for part, compared in parts.items():
        differences = {found.group: found for found in compared.differences}
        for group in compared.groups:
            for measure in SHOWN:
                if measure not in group.measures:
                    continue
                found = group.measures[measure].interval.interval
                row = {
                    "part": part,
                    "design": group.name,
                    "measure": measure,
                    "runs": len(group.runs),
                    "mixtures": compared.mixtures,
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                }
                if group.name in differences:
                    change = differences[group.name].measures[measure].interval
                    row |= {
                        "difference": change.mean,
                        "difference_low": change.low,
                        "difference_high": change.high,
                        "verdict": verdict_of(change),
                    }
                rows.append(row)
    return pd.DataFrame(rows)


def quality_lines(compared: GroupComparison) -> list[str]:
    """Return a Markdown table: a row for each design."""
    first = compared.groups[0].name
    differences = {found.group: found.measures for found in compared.differences}
    measures = [name for name in SHOWN if name in compared.groups[0].measures]
    shown = [name for name in COMPARED_IN_TABLE if name in measures]
    columns = ["design", "runs", *(SHOWN[name] for name in measures)]
    columns += [f"{SHOWN[name]} minus `{first}`" for name in shown] if differences else []
    lines = [row_of(columns), row_of(["---"] * len(columns))]
    for group in compared.groups:
        cells = [f"`{group.name}`", str(len(group.runs))]
        cells += [interval_text(group.measures[name].interval.interval) for name in measures]
        if differences:
            own = differences.get(group.name)
            cells += [interval_text(own[name].interval, "+") if own else "" for name in shown]
        lines.append(row_of(cells))
    return lines


def cost_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return a row for each design."""
    rows = []
    for design in dict.fromkeys(entry.design for entry in entries):
        own = [entry for entry in entries if entry.design == design]
        cost = own[0].cost
        seconds = [entry.seconds for entry in own]
        methods = [chosen_method(entry) for entry in own if entry.denoised]
        rows.append(
            {
                "design": design,
                "parameters": cost.parameters,
                "gflops_per_step": cost.flops / 1e9,
                "ms_per_step": 1000 * cost.step,
                "cpu_ms_per_step": 1000 * cost.step_cpu,
                "peak_mib": max((entry.peak_mib or 0 for entry in own), default=0),
                "steps": own[0].steps,
                "planned_seconds": own[0].planned,
                "train_seconds": sum(seconds) / len(seconds),
                "train_seconds_min": min(seconds),
                "train_seconds_max": max(seconds),
                "denoise": ", ".join(
                    f"{method} x{methods.count(method)}" for method in dict.fromkeys(methods)
                ),
            }
        )
    return pd.DataFrame(rows)


def cost_lines(costs: pd.DataFrame) -> list[str]:
    """Return the costs as a Markdown table."""
    columns = ["design", "parameters", "10^9 operations per step", "ms per step"]
    columns += ["CPU ms per step", "peak memory, MiB", "steps", "training, s (lowest to highest)"]
    columns += ["denoise chose"]
    lines = [row_of(columns), row_of(["---"] * len(columns))]
    for row in costs.to_dict("records"):
        cells = [f"`{row['design']}`", f"{row['parameters'] / 1e6:.2f} M"]
        cells += [f"{row['gflops_per_step']:.1f}", f"{row['ms_per_step']:.1f}"]
        cells += [f"{row['cpu_ms_per_step']:.1f}", f"{row['peak_mib']}", f"{row['steps']}"]
        low, high = row["train_seconds_min"], row["train_seconds_max"]
        cells += [f"{row['train_seconds']:.0f} ({low:.0f} to {high:.0f})", row["denoise"]]
        lines.append(row_of(cells))
    return lines


def time_notes(entries: Sequence[Entry]) -> list[str]:
    """Say which trainings were not as long as the others, and what else limits the comparison."""
    notes = []
    usual = sorted(entry.seconds for entry in entries)[len(entries) // 2]
    for entry in entries:
        run = f"{entry.design} with seed {entry.seed}"
        if abs(entry.seconds / usual - 1) > TIME_TOLERANCE:
            notes.append(
                f"the training of {run} took {entry.seconds:.0f} s, "
                f"{entry.seconds / usual - 1:+.0%} of the median of {usual:.0f} s"
            )
        if entry.attempts > 1:
            notes.append(
                f"the training of {run} was resumed {entry.attempts - 1} time(s): starts and steps "
                "that were done again count, time before a kill may not"
            )
    if len({entry.code for entry in entries}) > 1:
        notes.append("the runs are of different code: their stages changed meanwhile")
    return notes


def draw(parts: Mapping[str, GroupComparison], path: Path) -> None:
    """Draw SDR of each design, and its difference to that of the first design."""
    names = [group.name for group in next(iter(parts.values())).groups]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(names)), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, (part, compared) in enumerate(parts.items()):
        offset = 0.2 * (number - (len(parts) - 1) / 2)
        values = {group.name: group.measures["sdr"].interval.interval for group in compared.groups}
        changes = {found.group: found.measures["sdr"].interval for found in compared.differences}
        for axis, found in zip(axes, (values, changes), strict=True):
            shown = list(found.values())
            axis.errorbar(
                [interval.mean for interval in shown],
                [names.index(name) + offset for name in found],
                xerr=np.transpose([half_widths(interval) for interval in shown]).reshape(2, -1),
                fmt="o",
                markersize=4,
                capsize=3,
                label=f"{part} denoise" if "," not in part else "before denoise, held out",
            )
    axes[0].set(yticks=range(len(names)), yticklabels=names, xlabel="SDR, dB")
    axes[0].invert_yaxis()
    axes[1].set(xlabel=f"SDR minus that of {names[0]}, dB")
    axes[1].axvline(0, color="grey", linewidth=0.8)
    axes[0].legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def half_widths(interval: Interval) -> tuple[float, float]:
    """Return how far an interval extends below and above its mean; 0 if there is none."""
    if interval.low is None or interval.high is None:
        return 0.0, 0.0
    return interval.mean - interval.low, interval.high - interval.mean


def interval_text(interval: Interval, sign: str = "") -> str:
    """Return a mean and its interval, in dB."""
    mean = f"{interval.mean:{sign}.2f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({interval.low:{sign}.2f} to {interval.high:{sign}.2f})"


def row_of(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
