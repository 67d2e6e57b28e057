"""A mixture that is typical, or the worst, to be heard on the page itself."""

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from sop.report.page import MixtureFiles, Sounds
from sop.report.wording import decibels

Which = Literal["median", "worst"]
MEDIAN: Which = "median"
WORST: Which = "worst"


def sounds_of(
    scores: pd.DataFrame, files: Mapping[int, MixtureFiles], which: Which
) -> Sounds | None:
    """Return the sounds of one of the shown mixtures; None if none of them has sounds.

    Args:
        scores: a row for each source, as `MixtureTable` needs them.
        files: files of the shown mixtures.
        which: the mixture with the median of the mean SDR, or with the lowest.
    """
    audible = [
        number
        for number, (own, sources) in files.items()
        if "sound" in own and all("separated" in source for source in sources)
    ]
    means = scores[scores["mixture"].isin(audible)].groupby("mixture")["sdr"].mean().dropna()
    ranked = means.sort_values(kind="stable").index
    if not len(ranked):
        return None
    number = int(ranked[len(ranked) // 2 if which == MEDIAN else 0])
    own, sources = files[number]
    rows = scores[scores["mixture"] == number]
    names = [str(name) for name in rows["category"]]
    sounds = [("Mixture", own["sound"])]
    for name, source in zip(names, sources, strict=True):
        sounds.append((f"{name}, separated", source["separated"]))
        if "true" in source:
            sounds.append((f"{name}, true", source["true"]))
    levels = [f"{name} {decibels(sdr)}" for name, sdr in zip(names, rows["sdr"], strict=True)]
    is_median = "the median" if which == MEDIAN else "the lowest SDR"
    return Sounds(
        f"{'Hear a typical mixture' if which == MEDIAN else 'Hear the worst'}: {' + '.join(names)}",
        number,
        sounds,
        f"SDR: {', '.join(levels)}; {is_median} of {len(ranked)} mixtures with sounds.",
    )
