"""Charts as Vega-Lite specifications, which the page and `write_png` draw.

`report_page/charts/` contains templates of the specifications. The functions here replace each
`"<name>"` in them by a value. Colours come from `theme`, so that a chart fits any background.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import vl_convert

from sop.runtime.files import replacing

Spec = dict[str, Any]

VEGA_LITE = "6.4"

_TEMPLATES = Path(__file__).parent / "report_page/charts"
_MAX_POINTS = 1000

# Okabe and Ito, Color Universal Design, 2008: distinguishable with colour blindness. Ordered by
# their contrast with a light and with a dark background.
COLOURS: Mapping[str, Mapping[str, str]] = json.loads(
    (_TEMPLATES / "colours.json").read_text(encoding="utf-8")
)


def theme(colours: Mapping[str, str] | None = None) -> Spec:
    """Return Vega-Lite's `config`: fonts, and every colour of the charts.

    Args:
        colours: colours that SVG accepts, by the names in `COLOURS`; variables of CSS by default.
    """
    text = (_TEMPLATES / "theme.json").read_text(encoding="utf-8")
    if colours is not None:
        text = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], text)
    config: Spec = json.loads(text)
    return config


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed in one classic script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)


def licenses() -> str:
    """Return the licenses of `library` and what it contains, which go with each copy of it."""
    return (_TEMPLATES.parent / "vega-licenses.txt").read_text(encoding="utf-8")


def scale(steps: Sequence[tuple[str, float | None, str]]) -> Spec:
    """Draw a bar from 0 dB for each step.

    Args:
        steps: name, mean SDR in dB and kind (`bound` or `model`) of each step.
    """
    values = [
        # Rounded as it is written, so that the picture is the same where sums round differently.
        {"step": name, "sdr": finite(value, 2), "kind": kind}
        for name, value, kind in steps
        if finite(value) is not None
    ]
    description = f"Mean SDR of {len(values)} ways to separate, in dB"
    return _filled("scale", values, description, height=24 * len(values))


def curves(unit: str, series: Mapping[str, Sequence[tuple[float, float | None]]]) -> Spec:
    """Draw lines over training steps. Long lines show means of neighbouring steps.

    Args:
        unit: of the vertical axis.
        series: step and value, by name; a value that is not finite is a gap.
    """
    values = [
        {"step": step, "value": finite(value), "name": name}
        for name, points in series.items()
        for step, value in _thinned(points)
    ]
    few = max(map(len, series.values()), default=0) <= 30
    return _filled(
        "curves",
        values,
        f"{', '.join(series)} over training steps",
        unit=_title(unit),
        points={"size": 25} if few else False,
        legend={} if len(series) > 1 else None,
    )


def categories(means: Mapping[str, tuple[float, int]]) -> Spec:
    """Draw a bar for the mean SDR of each category, the best first, with the number of sources.

    Args:
        means: mean SDR in dB and number of sources, by category.
    """
    ordered = sorted(means.items(), key=lambda item: (-item[1][0], item[0]))
    values = [
        # The number of sources is written at the end of the bar, but not left of 0.
        {"category": name, "sdr": finite(mean), "end": max(mean, 0), "sources": sources}
        for name, (mean, sources) in ordered
    ]
    description = "Mean SDR of each category, in dB"
    return _filled("categories", values, description, height=18 * len(values))


def scatter(points: Sequence[Mapping[str, Any]]) -> Spec:
    """Draw the SDR of each source against the SDR of its mixture, with the line of equal SDR.

    Args:
        points: `mixture`, `category`, `video`, `sdr_mixture` and `sdr` of each source.
    """
    ends = [point[name] for point in points for name in ("sdr", "sdr_mixture")]
    return _filled(
        "scatter",
        points,
        f"SDR of {len(points)} sources against the SDR of their mixtures, in dB",
        low=round(min(ends, default=0), 2),
        high=round(max(ends, default=0), 2),
    )


def histogram(values: Sequence[float]) -> Spec:
    """Draw the number of sources in intervals of SDR in dB, with a line at the median."""
    rows = [{"sdr": number} for number in map(finite, values) if number is not None]
    bins = min(30, max(5, 2 * round(math.sqrt(len(rows)))))
    return _filled("histogram", rows, "Histogram of SDR, in dB, with the median", bins=bins)


def sweep(
    rows: str,
    columns: str,
    cells: Sequence[tuple[float, float | None, float | None]],
    largest: float | None = None,
    excluded: Sequence[bool] = (),
) -> Spec:
    """Draw a heat map of how much each setting of a method changes SDR.

    Args:
        rows: name of the parameter on the vertical axis.
        columns: name of the parameter on the horizontal axis; empty if there is only one.
        cells: value of each parameter and mean change of SDR in dB.
        largest: change at both ends of the colours, in dB, for charts that are compared; the
            largest change in `cells` by default.
        excluded: whether each cell is marked with a cross; none by default.
    """

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:g}"

    def order(values: set[float | None]) -> list[str]:
        return [text(value) for value in sorted(values, key=lambda value: value or 0)]

    row_order = order({row for row, _, _ in cells})
    if largest is None:
        largest = largest_change(change for _, _, change in cells)
    marks = list(excluded) or [False] * len(cells)
    return _filled(
        "sweep",
        [
            {"row": text(row), "column": text(column), "change": finite(change)}
            | ({"excluded": True} if is_excluded else {})
            for (row, column, change), is_excluded in zip(cells, marks, strict=True)
        ],
        f"Change of SDR by {rows}{' and ' if columns else ''}{columns}, in dB",
        height=30 * len(row_order),
        rows=_title(rows),
        columns=_title(columns),
        row_order=row_order,
        column_order=order({column for _, column, _ in cells}),
        domain=[-largest, largest],
        is_strong=f"abs(datum.change) > {0.55 * largest}",
    )


def largest_change(changes: Iterable[float | None]) -> float:
    """Return the largest absolute change; 1 without any, as a scale of colours needs one."""
    return max((abs(finite(change) or 0) for change in changes), default=0) or 1.0


def colour_scale(largest: float) -> Spec:
    """Draw the legend of the colours of `sweep`, which are symmetric about 0.

    Args:
        largest: change at both ends, in dB.
    """
    edges = [finite(edge, 4) or 0.0 for edge in np.linspace(-largest, largest, 65)]
    return _filled(
        "colour_scale",
        [
            {"from": low, "to": high, "change": (low + high) / 2}
            for low, high in itertools.pairwise(edges)
        ],
        f"Colours of changes of SDR from {-largest:.2f} to {largest:.2f} dB",
        domain=[-largest, largest],
    )


def change_boxes(changes: Mapping[str, Sequence[float]]) -> Spec:
    """Draw box plots of how much each method changes SDR in each mixture.

    A box spans the quartiles, with the median; its whiskers reach to the last value within 1.5
    times its length, and values beyond are dots (Tukey, Exploratory Data Analysis, 1977).

    Args:
        changes: change of SDR in dB in each mixture, by method.
    """
    values = [
        {"method": name, "change": number}
        for name, some in changes.items()
        for number in map(finite, some)
        if number is not None
    ]
    return _filled(
        "boxes",
        values,
        f"Box plots of the change of SDR by {', '.join(changes)}, in dB",
        height=28 * len(changes),
        # Without them, methods with outliers would come first.
        methods=list(dict.fromkeys(value["method"] for value in values)),
    )


def runs(points: Sequence[Mapping[str, Any]]) -> Spec:
    """Draw the mean SDR of each run, and a line at the mean of each group.

    Args:
        points: `group`, `run`, `seed` and `sdr` of each run.
    """
    groups = len({point["group"] for point in points})
    description = f"Mean SDR of {len(points)} runs in {groups} groups, in dB"
    return _filled("runs", points, description, height=36 * groups)


def finite(value: float | None, decimals: int = 6) -> float | None:
    """Return a rounded number; None if it is not finite, because JSON has only finite numbers."""
    return None if value is None or not math.isfinite(value) else round(float(value), decimals)


def write_png(spec: Spec, path: Path, width: int = 640) -> None:
    """Write a chart on a white background; equal specifications give equal files.

    Args:
        spec: specification by one of the functions above.
        path: the file, which ends in `.png`.
        width: width between the axes, in points of two pixels.
    """
    fixed = spec | {"width": width, "padding": 12}
    config = theme(COLOURS["light"]) | {"background": "#ffffff"}
    # vl_convert contains this font, so that the picture is the same on every machine.
    config["font"] = "Liberation Sans"
    png = vl_convert.vegalite_to_png(fixed, vl_version=VEGA_LITE, config=config, scale=2)
    with replacing(path) as partial:
        partial.write_bytes(png)


def _filled(
    name: str, values: Sequence[Mapping[str, Any]], description: str, **computed: Any
) -> Spec:
    """Return a chart of `report_page/charts/` with its data and computed values filled in."""
    computed |= {"values": list(values), "description": description}
    template = (_TEMPLATES / f"{name}.json").read_text(encoding="utf-8")
    filled = re.sub(r'"<(\w+)>"', lambda found: json.dumps(computed[found[1]]), template)
    spec: Spec = json.loads(filled)
    return spec


def _title(text: str) -> str | None:
    """Return a title on one line, because Vega inserts it into an expression of one line."""
    return " ".join(text.split()) or None


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Return at most `_MAX_POINTS` points, each the mean of the same number of neighbours."""
    table = pd.DataFrame(points, columns=["step", "value"], dtype=float)
    table = table.replace([np.inf, -np.inf], np.nan)
    each = max(1, math.ceil(len(table) / _MAX_POINTS))
    means = table.groupby(table.index // each).mean()
    return list(means.itertuples(index=False, name=None))
