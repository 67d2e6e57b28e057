"""Section on the training: its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sop.report import charts
from sop.report.outputs import read_csv, why_missing
from sop.report.page import Chart, Section
from sop.report.wording import counted

Points = Sequence[tuple[float, float | None]]
"""Training step and value; None or a value that is not finite is a gap."""


def training_section(folder: Path, mixtures: int) -> Section:
    """Show the curves that DVCLive wrote below a folder.

    Args:
        folder: of the tables.
        mixtures: number of mixtures of each validation.
    """
    validated = f"Each validation uses {counted(mixtures, 'mixture')}, the same each time."
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
            note = validated if any("validation" in file for file in files.values()) else ""
            drawn.append(curve_chart(title, unit, series, note))
    return Section("Training", drawn, empty=why_missing("train"))


def curve_chart(title: str, unit: str, series: Mapping[str, Points], note: str = "") -> Chart:
    """Draw series of values over training steps; the caption counts values that are not finite.

    Args:
        title: of the chart.
        unit: of the values.
        series: step and value, by name.
        note: first part of the caption.
    """
    values = [value for points in series.values() for _, value in points]
    missing = sum(value is None or not np.isfinite(value) for value in values)
    if missing == len(values):
        return Chart(title, None, "No value is finite.")
    gaps = f"{missing} of {len(values)} values are not finite and left out." if missing else ""
    return Chart(title, charts.curves(unit, series), " ".join(filter(None, (note, gaps))))


def _points(path: Path) -> Points:
    table = read_csv(path, separator="\t")
    if table is None or len(table.columns) != 2:
        return []
    return [(float(step), float(value)) for step, value in table.to_numpy()]
