"""Section on the training: its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sop.report import charts
from sop.report.outputs import read_csv, why_missing
from sop.report.page import Chart, Section

Points = Sequence[tuple[float, float | None]]
"""Training step and value; None or a value that is not finite is a gap."""


def training_section(folder: Path) -> Section:
    """Show the curves that DVCLive wrote below a folder."""
    wanted = (
        ("Loss", "loss", {"training": "train/loss", "validation": "validation/loss"}),
        (
            "Validation SDR, SIR, SAR",
            "dB",
            {name: f"validation/{name.lower()}" for name in ("SDR", "SIR", "SAR")},
        ),
        ("Learning rate of the sound network", "rate", {"rate": "train/learning_rate"}),
    )
    drawn = []
    for title, unit, files in wanted:
        series = {name: _points(folder / f"{file}.tsv") for name, file in files.items()}
        if any(series.values()):
            drawn.append(curve_chart(title, unit, series))
    return Section("Training", drawn, empty=why_missing("train"))


def curve_chart(title: str, unit: str, series: Mapping[str, Points]) -> Chart:
    """Draw series of values over training steps; the caption counts values that are not finite."""
    values = [value for points in series.values() for _, value in points]
    missing = sum(value is None or not np.isfinite(value) for value in values)
    if missing == len(values):
        return Chart(title, None, "No value is finite.")
    caption = f"{missing} of {len(values)} values are not finite and left out." if missing else ""
    return Chart(title, charts.curves(unit, series), caption)


def _points(path: Path) -> Points:
    table = read_csv(path, separator="\t")
    if table is None or len(table.columns) != 2:
        return []
    return [(float(step), float(value)) for step, value in table.to_numpy()]
