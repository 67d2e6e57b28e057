"""Section on where the separation fails: by category, by mixture, and the worst one to hear."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sop.report import charts
from sop.report.page import Block, Chart, MixtureFiles, Section, Text
from sop.report.sections.sounds import WORST, sounds_of
from sop.report.wording import counted, decibels

MAX_NAMED = 3
"""Categories that the text names."""


def failure_section(scores: pd.DataFrame, files: Mapping[int, MixtureFiles]) -> Section:
    """Show which categories and mixtures are separated worst.

    Args:
        scores: a row for each source, as `MixtureTable` needs them.
        files: files of the shown mixtures.
    """
    known = scores[np.isfinite(scores["sdr"].astype(float))]
    if not len(known):
        return Section("Failures", [], empty="No mixture could be measured.")
    blocks: list[Block] = [Text(_summary(known), "lead")]
    if worst := sounds_of(scores, files, WORST):
        blocks.append(worst)
    return Section("Failures", [*blocks, *_charts(known)], title="Where it fails")


def _summary(known: pd.DataFrame) -> str:
    means = known.groupby("category")["sdr"].mean().sort_values(kind="stable")
    lowest = [f"{name} {decibels(mean)}" for name, mean in means.head(MAX_NAMED).items()]
    text = f"Lowest mean SDR by category: {', '.join(lowest)}."
    if "sdr_improvement" not in known:
        return text
    worse = int((known["sdr_improvement"] < 0).sum())
    share = f"{worse} of {counted(len(known), 'source')}"
    return f"{text} {share} {'is' if worse == 1 else 'are'} worse than the mixture itself."


def _charts(known: pd.DataFrame) -> list[Chart]:
    means = {
        str(name): (float(values.mean()), len(values))
        for name, values in known.groupby("category", sort=False)["sdr"]
    }
    drawn = [Chart("Mean SDR by category, with the number of sources", charts.categories(means))]
    columns = ["mixture", "category", "video", "sdr_mixture", "sdr"]
    points = known.loc[np.isfinite(known["sdr_mixture"]), columns].to_dict("records")
    if points:
        caption = "Each dot is a source; click it to open its mixture. SDR is equal on the line."
        drawn.append(Chart("SDR against the mixture's SDR", charts.scatter(points), caption))
    return [*drawn, Chart("Distribution of SDR", charts.histogram(known["sdr"].tolist()))]
