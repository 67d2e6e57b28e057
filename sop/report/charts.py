"""Charts as Vega-Lite specifications: the page draws them, and so do `dvc plots` and `write_png`.

Each function takes plain numbers and holds them in its specification. Colours are the theme's
(`theme`), so that one specification serves on light and on dark ground.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vl_convert

from sop.runtime.files import replacing

Spec = dict[str, Any]

VEGA_LITE = "6.4"

# Okabe and Ito, Color Universal Design, 2008: told apart by colour-blind eyes too. In the order in
# which they stand out from a light and from a dark ground.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DARK = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00")
COLOURS: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1c1d20", "quiet": "#5a5d63", "line": "#d9d9d4"}
    | {f"series-{k}": colour for k, colour in enumerate(_LIGHT)},
    "dark": {"ink": "#e9e8e4", "quiet": "#a3a5aa", "line": "#34373d"}
    | {f"series-{k}": colour for k, colour in enumerate(_DARK)},
}
_FONT = "system-ui, sans-serif"
_HEIGHT = 220
_POINTS = 1000
# Room for what is written beside the longest bar.
_BESIDE_BARS = {"padding": {"left": 2, "top": 2, "right": 34, "bottom": 2}}


class Point(NamedTuple):
    """A source in `scatter`."""

    mixture: int
    category: str
    video: str
    sdr_mixture: float
    sdr: float


def theme(colours: Mapping[str, str]) -> Spec:
    """Vega-Lite's `config`: fonts, and every colour that charts have.

    Args:
        colours: by the names that `COLOURS` has for a ground; whatever SVG takes for a colour.
    """
    return {
        "background": None,
        "font": _FONT,
        "padding": 2,
        "view": {"stroke": None},
        "axis": {
            "labelColor": colours["quiet"],
            "titleColor": colours["quiet"],
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "labelFlush": False,
            "gridColor": colours["line"],
            "domainColor": colours["line"],
            "tickColor": colours["line"],
        },
        "legend": {
            "labelColor": colours["ink"],
            "titleColor": colours["quiet"],
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "orient": "top",
            "symbolType": "stroke",
            "symbolStrokeWidth": 2.5,
        },
        "mark": {"color": colours["series-0"]},
        "text": {"color": colours["ink"], "fontSize": 11},
        "rule": {"color": colours["quiet"]},
        "boxplot": {
            "box": {"opacity": 0.55},
            "median": {"color": colours["ink"]},
            "outliers": {"size": 12},
        },
        "range": {"category": [colours[name] for name in colours if name.startswith("series-")]},
    }


def scale(steps: Sequence[tuple[str, float | None, str]]) -> Spec:
    """Bars from 0 dB: what each step reaches.

    Args:
        steps: name, mean SDR in dB and kind, `bound` or `model`, of each.
    """
    values = [
        {"step": name, "place": place, "sdr": _number(value), "kind": kind}
        for place, (name, value, kind) in enumerate(steps)
        if _number(value) is not None
    ]
    shared = {
        "y": _names("step"),
        "x": {"field": "sdr", "type": "quantitative", "title": "dB"},
    }
    bar = {
        "mark": {"type": "bar", "height": 14},
        # What this model does stands out from what is possible.
        "encoding": {
            "opacity": {
                "condition": {"test": "datum.kind === 'model'", "value": 1},
                "value": 0.4,
            }
        },
    }
    label = {
        "mark": {"type": "text", "align": "left", "dx": {"expr": "datum.sdr < 0 ? -34 : 5"}},
        "encoding": {"text": {"field": "sdr", "format": ".2f"}},
    }
    return _spec(
        f"Mean SDR of {len(values)} ways to separate, in dB",
        values,
        {"height": 24 * len(values), "encoding": shared, "layer": [bar, label]} | _BESIDE_BARS,
    )


def curves(
    unit: str,
    series: Mapping[str, Sequence[tuple[float, float | None]]],
    logarithmic: bool = False,
) -> Spec:
    """Lines over the steps of the training.

    Long ones are drawn as means of equally many neighbours.

    Args:
        unit: of the vertical axis.
        series: step and value, by name; what is no finite number is a gap.
        logarithmic: whether the vertical axis is.
    """
    values = [
        {"step": step, "value": value, "name": name}
        for name, points in series.items()
        for step, value in _thinned(points)
    ]
    few = max(map(len, series.values()), default=0) <= 30
    encoding: Spec = {
        "x": {
            "field": "step",
            "type": "quantitative",
            "title": "step",
            "axis": {"grid": False, "tickCount": 5},
        },
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": _title(unit),
            "scale": {"zero": False, "type": "log" if logarithmic else "linear"},
        },
        "tooltip": [
            {"field": "name", "title": "curve"},
            {"field": "step", "title": "step"},
            {"field": "value", "title": _title(unit), "format": ".4~g"},
        ],
    }
    if len(series) > 1:
        names = {"field": "name", "type": "nominal", "sort": None, "title": None}
        encoding |= {"color": names, "strokeDash": names}
    mark = {"type": "line", "strokeWidth": 1.5, "point": {"size": 25} if few else False}
    return _spec(
        f"{', '.join(series)} over training steps", values, {"mark": mark, "encoding": encoding}
    )


def categories(means: Mapping[str, tuple[float, int]]) -> Spec:
    """Bars of the mean SDR of each category, the best first, with the number of its sources.

    Args:
        means: mean SDR in dB and number of sources, by category.
    """
    ordered = sorted(means.items(), key=lambda item: (-item[1][0], item[0]))
    values = [
        {
            "category": name,
            "place": place,
            "sdr": _number(mean),
            # The count stands beside the bar, on the other side of 0 if that is negative.
            "end": max(_number(mean) or 0, 0),
            "sources": sources,
        }
        for place, (name, (mean, sources)) in enumerate(ordered)
    ]
    shared = {
        "y": _names("category"),
        "x": {"field": "sdr", "type": "quantitative", "title": "dB"},
        "tooltip": [
            {"field": "category"},
            {"field": "sdr", "title": "mean SDR, dB", "format": ".2f"},
            {"field": "sources"},
        ],
    }
    count = {
        "mark": {"type": "text", "align": "left", "dx": 4, "opacity": 0.75},
        "encoding": {
            "text": {"field": "sources"},
            "x": {"field": "end", "type": "quantitative", "title": "dB"},
        },
    }
    return _spec(
        "Mean SDR of each category, in dB",
        values,
        {"height": 18 * len(values), "encoding": shared, "layer": [{"mark": "bar"}, count]}
        | _BESIDE_BARS,
    )


def scatter(points: Sequence[Point]) -> Spec:
    """SDR of each source over what the mixture itself scores; on the diagonal nothing is gained."""
    ends = [value for point in points for value in (point.sdr, point.sdr_mixture)]
    least, most = min(ends, default=0.0), max(ends, default=0.0)
    # Their names would be read out one by one; the table has them too.
    dots = {
        "mark": {"type": "circle", "size": 28, "opacity": 0.6, "cursor": "pointer", "aria": False},
        "encoding": {
            "x": {
                "field": "sdr_mixture",
                "type": "quantitative",
                "title": "SDR of the mixture, dB",
            },
            "y": {"field": "sdr", "type": "quantitative", "title": "SDR, dB"},
            "tooltip": [
                {"field": "mixture"},
                {"field": "category"},
                {"field": "video"},
                {"field": "sdr", "title": "SDR, dB", "format": ".2f"},
                {"field": "sdr_mixture", "title": "of the mixture, dB", "format": ".2f"},
            ],
        },
    }
    diagonal = {
        "data": {"values": [{"from": round(least, 2), "to": round(most, 2)}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {
            "x": {"field": "from", "type": "quantitative"},
            "y": {"field": "from", "type": "quantitative"},
            "x2": {"field": "to"},
            "y2": {"field": "to"},
        },
    }
    return _spec(
        f"SDR of {len(points)} sources over the SDR of their mixtures, in dB",
        [point._asdict() for point in points],
        {"height": 300, "layer": [diagonal, dots]},
    )


def histogram(values: Sequence[float]) -> Spec:
    """Numbers of sources in intervals of SDR in dB, with a line at the median."""
    finite = [number for number in map(_number, values) if number is not None]
    sdr = {"field": "sdr", "type": "quantitative"}
    bins = {"maxbins": min(30, max(5, 2 * round(math.sqrt(len(finite)))))}
    axis = {"grid": False, "tickCount": 8}
    bars = {
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": sdr | {"bin": bins, "title": "SDR, dB", "axis": axis},
            "y": {"aggregate": "count", "title": "sources"},
            "tooltip": [
                sdr | {"bin": bins, "title": "SDR, dB"},
                {"aggregate": "count", "title": "sources"},
            ],
        },
    }
    median = {
        "transform": [
            {"aggregate": [{"op": "median", "field": "sdr", "as": "median"}]},
            {"calculate": "'median ' + format(datum.median, '.2f')", "as": "label"},
        ],
        "encoding": {"x": {"field": "median", "type": "quantitative"}},
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [4, 3]}},
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "baseline": "top"},
                "encoding": {"text": {"field": "label"}, "y": {"value": 0}},
            },
        ],
    }
    return _spec(
        "Histogram of SDR, in dB, with the median",
        [{"sdr": value} for value in finite],
        {"layer": [bars, median]},
    )


def sweep(
    rows: str, columns: str, cells: Sequence[tuple[float, float | None, float | None]]
) -> Spec:
    """A heat map of how much each setting of a method changes SDR.

    Args:
        rows: name of the knob that goes down.
        columns: name of the knob that goes right; empty if there is one knob.
        cells: value of each knob and mean change of SDR in dB.
    """
    values = [
        {
            "row": _setting(row),
            "column": _setting(column),
            "change": _number(change),
        }
        for row, column, change in cells
    ]
    # Of equal weight on both sides of 0.
    greatest = max((abs(_number(change) or 0) for _, _, change in cells), default=0) or 1.0
    shared = {
        "y": {
            "field": "row",
            "type": "ordinal",
            "sort": _in_order(row for row, _, _ in cells),
            "title": _title(rows),
            "axis": {"ticks": False},
        },
        "x": {
            "field": "column",
            "type": "ordinal",
            "sort": _in_order(column for _, column, _ in cells),
            "title": _title(columns),
            "axis": {"labelAngle": 0, "ticks": False},
        },
    }
    colour = {
        "field": "change",
        "type": "quantitative",
        "title": "dB",
        # Blue is better; 0 is white.
        "scale": {"scheme": "blueorange", "reverse": True, "domain": [-greatest, greatest]},
        "legend": None,
    }
    label = {
        "transform": [{"filter": "datum.change !== null"}],
        "mark": {"type": "text", "fontSize": 12},
        "encoding": {
            "text": {"field": "change", "format": "+.2f"},
            "color": {
                "condition": {
                    "test": f"abs(datum.change) > {0.55 * greatest}",
                    "value": "#ffffff",
                },
                "value": "#1c1d20",
            },
        },
    }
    layers = [{"mark": "rect", "encoding": {"color": colour}}, label]
    return _spec(
        f"Change of SDR by {rows}{' and ' if columns else ''}{columns}, in dB",
        values,
        {
            "height": 30 * len({value["row"] for value in values}),
            "encoding": shared,
            "layer": layers,
        },
    )


def change_boxes(changes: Mapping[str, Sequence[float]]) -> Spec:
    """Box plots of how much each method changes SDR in each mixture.

    A box spans the quartiles, with the median; its whiskers reach to the last value within 1.5
    times its length, and values beyond are dots (Tukey, Exploratory Data Analysis, 1977).

    Args:
        changes: change of SDR in dB in each mixture, by method.
    """
    values = [
        {"method": name, "change": number}
        for name, some in changes.items()
        for number in map(_number, some)
        if number is not None
    ]
    zero = {
        "data": {"values": [{"zero": 0}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"x": {"field": "zero", "type": "quantitative"}},
    }
    title = "change of SDR, dB"
    boxes = {
        "mark": {"type": "boxplot", "extent": 1.5, "size": 12},
        "encoding": {
            "y": _names("method") | {"sort": None},
            "x": {
                "field": "change",
                "type": "quantitative",
                "title": title,
                "axis": {"tickCount": 8},
            },
        },
    }
    return _spec(
        f"Box plots of the change of SDR by {', '.join(changes)}, in dB",
        values,
        {"height": 28 * len(changes), "layer": [zero, boxes]},
    )


def write_png(spec: Spec, path: Path, width: int = 640) -> None:
    """Draw a chart, on white; the same specification makes the same file.

    Args:
        spec: of a function above.
        path: ends in `.png`.
        width: of what lies between the axes, in points; there are two pixels to a point.
    """
    fixed = spec | {"width": width, "padding": 12}
    config = theme(COLOURS["light"]) | {"background": "#ffffff"}
    # A font that is everywhere the same: vl_convert brings it.
    config["font"] = "Liberation Sans"
    png = vl_convert.vegalite_to_png(fixed, vl_version=VEGA_LITE, config=config, scale=2)
    with replacing(path) as partial:
        partial.write_bytes(png)


def _spec(description: str, values: Sequence[Mapping[str, Any]], drawn: Spec) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": _HEIGHT,
        "data": {"values": list(values)},
        **drawn,
    }


def _names(field: str) -> Spec:
    """Names down the side in the order of `place`, cut where they would leave no room."""
    axis = {"labelLimit": 150, "ticks": False, "domain": False, "labelPadding": 6}
    # An order that is told by the names themselves would make them part of an expression, which
    # not every name can be.
    order = {"field": "place", "op": "min"}
    return {"field": field, "type": "nominal", "sort": order, "title": None, "axis": axis}


def _title(text: str) -> str | None:
    """A title on one line: it becomes a string in an expression, which cannot hold two."""
    return " ".join(text.split()) or None


def _setting(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _in_order(settings: Iterable[float | None]) -> list[str]:
    return [_setting(value) for value in sorted(set(settings), key=lambda value: value or 0)]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most so many that a line of them can be seen: means of neighbours."""
    each = math.ceil(len(points) / _POINTS)
    if each <= 1:
        return [(step, _number(value)) for step, value in points]
    thinned = []
    for start in range(0, len(points), each):
        group = points[start : start + each]
        finite = [value for _, value in group if _number(value) is not None]
        mean = float(np.mean(finite)) if finite else None  # type: ignore[arg-type]
        thinned.append((float(np.mean([step for step, _ in group])), _number(mean)))
    return thinned
