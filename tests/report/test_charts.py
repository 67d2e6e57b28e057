import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import vl_convert
from PIL import Image

from sop.report import charts
from sop.report.charts import COLOURS, Spec, theme, write_png

HOSTILE = "</script>\"'[a.b] \\ \u2028 \u4e2d"
NAN = float("nan")


def labels(spec: Spec) -> str:
    """Return the texts and the accessible names of the marks of a chart, one on a line."""
    svg = vl_convert.vegalite_to_svg(spec | {"width": 400}, vl_version=charts.VEGA_LITE)
    found = re.findall(r'aria-label="([^"]*)"|<text[^>]*>([^<]*)</text>', svg)
    return "\n".join(name or text for name, text in found)


def every_chart() -> dict[str, Spec]:
    random = np.random.default_rng(0)
    names = ("mixture", "category", "video", "sdr_mixture", "sdr")
    rows = [(k, HOSTILE, f"video {k}", *random.normal(5, 4, 2)) for k in range(40)]
    points = [dict(zip(names, row, strict=True)) for row in rows]
    grid = [(taps, rate, random.normal()) for taps in (4, 16, 64) for rate in (1e-3, 1e-2)]
    return {
        "scale": charts.scale([("mixture", -0.3, "bound"), (HOSTILE, 7.1, "model")]),
        "curves": charts.curves("dB", {"SDR": [(1, 2.0), (2, 3.0)], HOSTILE: [(1, 1.0), (2, NAN)]}),
        "loss": charts.curves("loss", {"loss": [(k, 1 / (1 + k)) for k in range(5000)]}),
        "categories": charts.categories({HOSTILE: (3.0, 5), "tuba": (-1.0, 3)}),
        "scatter": charts.scatter(points),
        "histogram": charts.histogram([point["sdr"] for point in points]),
        "titles": charts.curves(HOSTILE, {"SDR": [(1, 2.0), (2, 3.0)]}),
        "sweep": charts.sweep("taps", HOSTILE, grid),
        "one knob": charts.sweep("power", "", [(1.0, None, 0.1), (2.0, None, None)]),
        "excluded": charts.sweep("taps", "rate", grid, 3.0, [True] * len(grid)),
        "colour scale": charts.colour_scale(2.5),
        "boxes": charts.change_boxes({"lms": list(random.normal(size=30)), HOSTILE: [0.1]}),
    }


def nothing() -> dict[str, Spec]:
    return {
        "scale": charts.scale([("model", None, "model")]),
        "curves": charts.curves("dB", {"SDR": [], "SIR": [(1, NAN)]}),
        "categories": charts.categories({}),
        "scatter": charts.scatter([]),
        "histogram": charts.histogram([2.0, 2.0]),
        "sweep": charts.sweep("taps", "rate", [(4, 0.1, None)]),
        "boxes": charts.change_boxes({"lms": []}),
    }


@pytest.mark.parametrize("name", every_chart())
def test_drawing_is_reproducible(name: str, tmp_path: Path) -> None:
    spec = every_chart()[name]
    write_png(spec, tmp_path / "a.png")
    write_png(spec, tmp_path / "b.png")
    drawn = (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == drawn
    picture = np.array(Image.open(io.BytesIO(drawn)).convert("L"))
    assert picture.shape[1] > 640
    assert picture[0, 0] == 255
    # More than a few labels are on it.
    assert np.mean(picture < 200) > 0.003


@pytest.mark.parametrize("name", nothing())
def test_chart_of_almost_nothing(name: str, tmp_path: Path) -> None:
    spec = nothing()[name]
    write_png(spec, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("spec", [*every_chart().values(), *nothing().values()])
def test_chart_is_json_without_colours(spec: Spec) -> None:
    text = json.dumps(spec, allow_nan=False)
    assert spec["data"]["values"] is not None
    assert '"url"' not in text
    # Except for the labels on a heat map, whose background is the same in every theme.
    assert "#" not in text.replace("#ffffff", "").replace("#1c1d20", "")
    assert spec["height"] >= 0
    assert spec["description"]


def test_long_curve() -> None:
    values = charts.curves("loss", {"loss": [(k, k % 2) for k in range(4000)]})["data"]["values"]
    assert len(values) == 1000
    assert values[0] == {"step": 1.5, "value": 0.5, "name": "loss"}


def test_gaps_in_a_curve() -> None:
    values = charts.curves("loss", {"loss": [(0, 1.0), (1, NAN), (2, float("inf"))]})["data"][
        "values"
    ]
    assert [value["value"] for value in values] == [1.0, None, None]


def test_histogram(tmp_path: Path) -> None:
    """Every source is counted once; the median is labelled."""
    some = list(np.random.default_rng(0).normal(size=300))
    drawn = labels(charts.histogram([*some, NAN]))
    counts = [int(count) for count in re.findall(r"; sources: (\d+)", drawn)]
    assert sum(counts) == 300
    assert len(counts) > 5
    assert f"median {np.median(some):.2f}".replace("-", "\u2212") in drawn


def test_median_of_a_histogram_is_written_above_the_bars() -> None:
    """A label between the bars would be unreadable, and cut at the right."""
    mark = charts.histogram([1.0, 2.0, 2.5])["layer"][1]["layer"][1]
    assert mark["encoding"]["y"] == {"value": 0}
    assert mark["mark"]["baseline"] == "bottom"


@pytest.mark.parametrize("low", [-3.0, 7.1])
def test_axis_of_the_runs_has_few_labels(low: float) -> None:
    """Also on a wide chart, and for runs that are close together."""
    points = [
        {"group": group, "run": f"{group}-{k}", "seed": str(k), "sdr": low + 0.1 * k}
        for group in "ab"
        for k in range(4)
    ]
    spec = charts.runs(points)
    svg = vl_convert.vegalite_to_svg(spec | {"width": 900}, vl_version=charts.VEGA_LITE)
    ticks = re.findall(r"<text[^>]*>([\u2212\d.]+)</text>", svg)
    assert 3 <= len(ticks) <= 12


def test_order_of_categories() -> None:
    spec = charts.categories({"a": (1.0, 2), "b": (3.0, 4), "c": (2.0, 1)})
    assert [value["category"] for value in spec["data"]["values"]] == ["b", "c", "a"]
    assert "\nb\nc\na\n" in labels(spec)


def test_boxes() -> None:
    """A box spans the quartiles; values far from it are dots."""
    drawn = labels(charts.change_boxes({"a": [0, 1, 2, 3, 4, 100], "b": [1.0], "c": []}))
    box = "Q3 of {0}: 3.75; Median of {0}: 2.5; Q1 of {0}: 1.25; Min of {0}: 0"
    assert box.format("change of SDR, dB") in drawn
    assert "change of SDR, dB: 100; method: a\n" in drawn
    assert "2 values: a, b\n" in drawn
    assert "place" not in drawn


def test_order_of_settings() -> None:
    spec = charts.sweep("taps", "rate", [(64, 0.1, 1.0), (4, 0.1, 1.0), (16, 0.01, 1.0)])
    assert spec["encoding"]["y"]["sort"] == ["4", "16", "64"]
    assert spec["encoding"]["x"]["sort"] == ["0.01", "0.1"]


def test_excluded_settings_are_marked() -> None:
    cells = [(4, 0.1, 1.0), (16, 0.1, -2.0)]
    drawn = labels(charts.sweep("taps", "rate", cells, 3.0, [False, True]))
    assert "+1.00\n" in drawn + "\n" and "+1.00 \u2715" not in drawn
    assert "\u22122.00 \u2715" in drawn


def test_charts_that_are_compared_share_their_colours() -> None:
    domains = [
        charts.sweep("taps", "rate", [(4, 0.1, change)], 3.0)["layer"][0]["encoding"]["color"]
        for change in (0.1, -3.0)
    ]
    legend = charts.colour_scale(3.0)["encoding"]["color"]
    assert [one["scale"] for one in domains] == [legend["scale"]] * 2
    assert legend["scale"]["domain"] == [-3.0, 3.0]


def test_colours_of_both_themes() -> None:
    assert list(COLOURS["light"]) == list(COLOURS["dark"])
    named = json.dumps(theme())
    assert "#" not in named
    assert all(f"var(--{name})" in named for name in COLOURS["light"])
    assert "var(" not in json.dumps(theme(COLOURS["dark"]))


def test_picture_of_the_scale_does_not_depend_on_invisible_digits(tmp_path: Path) -> None:
    for number, noise in enumerate((0, 4e-6)):
        steps = [("Mixture", 0.3212 + noise, "bound"), ("Model", 8.0803 - noise, "model")]
        charts.write_png(charts.scale(steps), tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
