"""Charts as Vega-Lite specifications: the page draws them, and so do `dvc plots` and `write_png`.

Each function takes plain numbers and returns a specification that contains them. All colours come
from `theme`, so that one specification serves on light and on dark backgrounds.
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

# Okabe and Ito, Color Universal Design, 2008: distinguishable with colour blindness. Ordered by
# their contrast with a light and with a dark background.
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
_MAX_POINTS = 1000
# Room for the text at the end of the longest bar.
_BESIDE_BARS = {"left": 2, "top": 2, "right": 34, "bottom": 2}


class Point(NamedTuple):
    """A source in `scatter`."""

    mixture: int
    category: str
    video: str
    sdr_mixture: float
    sdr: float


def theme(colours: Mapping[str, str]) -> Spec:
    """Return Vega-Lite's `config`: fonts, and every colour of the charts.

    Args:
        colours: colours that SVG accepts, by the names in `COLOURS`.
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
    """Draw a bar from 0 dB for each step.

    Args:
        steps: name, mean SDR in dB and kind, `bound` or `model`, of each.
    """
    values = [
        {"step": name, "place": place, "sdr": _number(value), "kind": kind}
        for place, (name, value, kind) in enumerate(steps)
        if _number(value) is not None
    ]
    # The model stands out from the bounds.
    opacity = {"condition": {"test": "datum.kind === 'model'", "value": 1}, "value": 0.4}
    bar = {"mark": {"type": "bar", "height": 14}, "encoding": {"opacity": opacity}}
    label = {
        "mark": {"type": "text", "align": "left", "dx": {"expr": "datum.sdr < 0 ? -34 : 5"}},
        "encoding": {"text": {"field": "sdr", "format": ".2f"}},
    }
    return _spec(
        f"Mean SDR of {len(values)} ways to separate, in dB",
        values,
        height=24 * len(values),
        encoding={"y": _names("step"), "x": _amount("sdr", "dB")},
        layer=[bar, label],
        padding=_BESIDE_BARS,
    )


def curves(unit: str, series: Mapping[str, Sequence[tuple[float, float | None]]]) -> Spec:
    """Draw lines over training steps; long ones as means of equally many neighbours.

    Args:
        unit: of the vertical axis.
        series: step and value, by name; a value that is not finite is a gap.
    """
    values = [
        {"step": step, "value": value, "name": name}
        for name, points in series.items()
        for step, value in _thinned(points)
    ]
    few = max(map(len, series.values()), default=0) <= 30
    encoding: Spec = {
        "x": _amount("step", "step", axis={"grid": False, "tickCount": 5}),
        "y": _amount("value", unit, scale={"zero": False}),
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
    return _spec(f"{', '.join(series)} over training steps", values, mark=mark, encoding=encoding)


def categories(means: Mapping[str, tuple[float, int]]) -> Spec:
    """Draw a bar for the mean SDR of each category, the best first, with the number of sources.

    Args:
        means: mean SDR in dB and number of sources, by category.
    """
    ordered = sorted(means.items(), key=lambda item: (-item[1][0], item[0]))
    values = [
        {
            "category": name,
            "place": place,
            "sdr": _number(mean),
            # Where the number of sources is written: at the end of the bar, but not left of 0.
            "end": max(_number(mean) or 0, 0),
            "sources": sources,
        }
        for place, (name, (mean, sources)) in enumerate(ordered)
    ]
    tooltip = [
        {"field": "category"},
        {"field": "sdr", "title": "mean SDR, dB", "format": ".2f"},
        {"field": "sources"},
    ]
    count = {
        "mark": {"type": "text", "align": "left", "dx": 4, "opacity": 0.75},
        "encoding": {"text": {"field": "sources"}, "x": _amount("end", "dB")},
    }
    return _spec(
        "Mean SDR of each category, in dB",
        values,
        height=18 * len(values),
        encoding={"y": _names("category"), "x": _amount("sdr", "dB"), "tooltip": tooltip},
        layer=[{"mark": "bar"}, count],
        padding=_BESIDE_BARS,
    )


def scatter(points: Sequence[Point]) -> Spec:
    """Draw the SDR of each source against the SDR of its mixture, with the line of equal SDR."""
    ends = [value for point in points for value in (point.sdr, point.sdr_mixture)]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    dots = {
        # Screen readers would read every dot; the table contains them too.
        "mark": {"type": "circle", "size": 28, "opacity": 0.6, "cursor": "pointer", "aria": False},
        "encoding": {
            "x": _amount("sdr_mixture", "SDR of the mixture, dB"),
            "y": _amount("sdr", "SDR, dB"),
            "tooltip": [
                {"field": "mixture"},
                {"field": "category"},
                {"field": "video"},
                {"field": "sdr", "title": "SDR, dB", "format": ".2f"},
                {"field": "sdr_mixture", "title": "SDR of the mixture, dB", "format": ".2f"},
            ],
        },
    }
    begin = {"field": "from", "type": "quantitative"}
    diagonal = {
        "data": {"values": [{"from": round(low, 2), "to": round(high, 2)}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"x": begin, "y": begin, "x2": {"field": "to"}, "y2": {"field": "to"}},
    }
    return _spec(
        f"SDR of {len(points)} sources against the SDR of their mixtures, in dB",
        [point._asdict() for point in points],
        height=300,
        layer=[diagonal, dots],
    )


def histogram(values: Sequence[float]) -> Spec:
    """Draw the number of sources in intervals of SDR in dB, with a line at the median."""
    finite = [number for number in map(_number, values) if number is not None]
    bins = {"maxbins": min(30, max(5, 2 * round(math.sqrt(len(finite)))))}
    count = {"aggregate": "count", "title": "sources"}
    bars = {
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": _amount("sdr", "SDR, dB", bin=bins, axis={"grid": False, "tickCount": 8}),
            "y": count,
            "tooltip": [_amount("sdr", "SDR, dB", bin=bins), count],
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
        layer=[bars, median],
    )


def sweep(
    rows: str, columns: str, cells: Sequence[tuple[float, float | None, float | None]]
) -> Spec:
    """Draw a heat map of how much each setting of a method changes SDR.

    Args:
        rows: name of the parameter on the vertical axis.
        columns: name of the parameter on the horizontal axis; empty if there is only one.
        cells: value of each parameter and mean change of SDR in dB.
    """
    values = [
        {"row": _setting(row), "column": _setting(column), "change": _number(change)}
        for row, column, change in cells
    ]
    # The colours are symmetric about 0.
    largest = max((abs(_number(change) or 0) for _, _, change in cells), default=0) or 1.0

    def axis(field: str, title: str, settings: Iterable[float | None], **more: Any) -> Spec:
        order = [_setting(value) for value in sorted(set(settings), key=lambda value: value or 0)]
        shown = {"ticks": False, **more}
        return {
            "field": field,
            "type": "ordinal",
            "sort": order,
            "title": _title(title),
            "axis": shown,
        }

    # Blue is better; 0 is white.
    colours = {"scheme": "blueorange", "reverse": True, "domain": [-largest, largest]}
    on_dark = {"test": f"abs(datum.change) > {0.55 * largest}", "value": "#ffffff"}
    label = {
        "transform": [{"filter": "datum.change !== null"}],
        "mark": {"type": "text", "fontSize": 12},
        "encoding": {
            "text": {"field": "change", "format": "+.2f"},
            "color": {"condition": on_dark, "value": "#1c1d20"},
        },
    }
    colour = _amount("change", "dB", scale=colours, legend=None)
    return _spec(
        f"Change of SDR by {rows}{' and ' if columns else ''}{columns}, in dB",
        values,
        height=30 * len({value["row"] for value in values}),
        encoding={
            "y": axis("row", rows, (row for row, _, _ in cells)),
            "x": axis("column", columns, (column for _, column, _ in cells), labelAngle=0),
        },
        layer=[{"mark": "rect", "encoding": {"color": colour}}, label],
    )


def change_boxes(changes: Mapping[str, Sequence[float]]) -> Spec:
    """Draw box plots of how much each method changes SDR in each mixture.

    A box spans the quartiles, with the median; its whiskers reach to the last value within 1.5
    times its length, and values beyond are dots (Tukey, Exploratory Data Analysis, 1977).

    Args:
        changes: change of SDR in dB in each mixture, by method.
    """
    values = [
        {"method": name, "place": place, "change": number}
        for place, (name, some) in enumerate(changes.items())
        for number in map(_number, some)
        if number is not None
    ]
    zero = {
        "data": {"values": [{"zero": 0}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"x": {"field": "zero", "type": "quantitative"}},
    }
    boxes = {
        "mark": {"type": "boxplot", "extent": 1.5, "size": 12},
        "encoding": {
            "y": _names("method"),
            # Keeps the place, by which the methods are ordered.
            "detail": {"field": "place", "type": "ordinal"},
            "x": _amount("change", "change of SDR, dB", axis={"tickCount": 8}),
        },
    }
    return _spec(
        f"Box plots of the change of SDR by {', '.join(changes)}, in dB",
        values,
        height=28 * len(changes),
        layer=[zero, boxes],
    )


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


def _spec(description: str, values: Sequence[Mapping[str, Any]], **drawn: Any) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": _HEIGHT,
        "data": {"values": list(values)},
        **drawn,
    }


def _amount(field: str, title: str, **more: Any) -> Spec:
    """Return the encoding of a quantity."""
    return {"field": field, "type": "quantitative", "title": _title(title), **more}


def _names(field: str) -> Spec:
    """Return the encoding of names on the vertical axis, in the order of `place`."""
    axis = {"labelLimit": 150, "ticks": False, "domain": False, "labelPadding": 6}
    # A list of names as the order would put them into an expression, which fails for some names.
    order = {"field": "place", "op": "min"}
    return {"field": field, "type": "nominal", "sort": order, "title": None, "axis": axis}


def _title(text: str) -> str | None:
    """Return a title on one line: Vega puts it into an expression, which cannot contain two."""
    return " ".join(text.split()) or None


def _setting(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Return at most `_MAX_POINTS` points: means of equally many neighbours."""
    each = math.ceil(len(points) / _MAX_POINTS)
    if each <= 1:
        return [(step, _number(value)) for step, value in points]
    thinned = []
    for start in range(0, len(points), each):
        group = points[start : start + each]
        finite = [value for _, value in group if _number(value) is not None]
        mean = float(np.mean(finite)) if finite else None  # type: ignore[arg-type]
        thinned.append((float(np.mean([step for step, _ in group])), _number(mean)))
    return thinned
