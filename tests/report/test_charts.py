import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sop.report import charts
from sop.report.charts import COLOURS, Point, Spec, theme, write_png

HOSTILE = "</script>\"'[a.b] \\ \u2028 \u4e2d"
NAN = float("nan")


def every_chart() -> dict[str, Spec]:
    random = np.random.default_rng(0)
    points = [Point(k, HOSTILE, f"video {k}", *random.normal(5, 4, 2)) for k in range(40)]
    grid = [(taps, rate, random.normal()) for taps in (4, 16, 64) for rate in (1e-3, 1e-2)]
    return {
        "scale": charts.scale([("mixture", -0.3, "bound"), (HOSTILE, 7.1, "model")]),
        "curves": charts.curves("dB", {"SDR": [(1, 2.0), (2, 3.0)], HOSTILE: [(1, 1.0), (2, NAN)]}),
        "loss": charts.curves("loss", {"loss": [(k, 1 / (1 + k)) for k in range(5000)]}, True),
        "categories": charts.categories({HOSTILE: (3.0, 5), "tuba": (-1.0, 3)}),
        "scatter": charts.scatter(points),
        "histogram": charts.histogram([point.sdr for point in points]),
        "titles": charts.curves(HOSTILE, {"SDR": [(1, 2.0), (2, 3.0)]}),
        "sweep": charts.sweep("taps", HOSTILE, grid),
        "one knob": charts.sweep("power", "", [(1.0, None, 0.1), (2.0, None, None)]),
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
def test_chart_is_drawn_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    spec = every_chart()[name]
    write_png(spec, tmp_path / "a.png")
    write_png(spec, tmp_path / "b.png")
    drawn = (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == drawn
    picture = np.array(Image.open(io.BytesIO(drawn)).convert("L"))
    assert picture.shape[1] > 640
    assert picture[0, 0] == 255
    # There is more than a few labels on it.
    assert np.mean(picture < 200) > 0.003


@pytest.mark.parametrize("name", nothing())
def test_chart_of_next_to_nothing_is_drawn(name: str, tmp_path: Path) -> None:
    spec = nothing()[name]
    write_png(spec, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("spec", [*every_chart().values(), *nothing().values()])
def test_chart_is_json_with_its_data_and_without_colours_of_its_own(spec: Spec) -> None:
    text = json.dumps(spec, allow_nan=False)
    assert spec["data"]["values"] is not None
    assert '"url"' not in text
    # But for the labels on a heat map, whose ground is the same in every theme.
    assert "#" not in text.replace("#ffffff", "").replace("#1c1d20", "")
    assert spec["height"] >= 0
    assert spec["description"]


def test_long_curve_is_drawn_as_means_of_neighbours() -> None:
    values = charts.curves("loss", {"loss": [(k, k % 2) for k in range(4000)]})["data"]["values"]
    assert len(values) == 1000
    assert values[0] == {"step": 1.5, "value": 0.5, "name": "loss"}


def test_what_is_not_finite_is_a_gap() -> None:
    values = charts.curves("loss", {"loss": [(0, 1.0), (1, NAN), (2, float("inf"))]})["data"][
        "values"
    ]
    assert [value["value"] for value in values] == [1.0, None, None]


def test_histogram_counts_every_source_once() -> None:
    some = list(np.random.default_rng(0).normal(size=300))
    bars = charts.histogram(some)["data"]["values"]
    assert sum(bar["sources"] for bar in bars) == 300
    assert bars[0]["from"] == pytest.approx(min(some), abs=1e-3)
    assert bars[-1]["to"] == pytest.approx(max(some), abs=1e-3)


def test_best_category_comes_first() -> None:
    spec = charts.categories({"a": (1.0, 2), "b": (3.0, 4), "c": (2.0, 1)})
    assert [value["category"] for value in spec["data"]["values"]] == ["b", "c", "a"]
    assert [value["place"] for value in spec["data"]["values"]] == [0, 1, 2]


def test_box_holds_the_middle_half_and_dots_what_is_far_from_it() -> None:
    spec = charts.change_boxes({"a": [0, 1, 2, 3, 4, 100], "b": [1.0]})
    box = spec["data"]["values"][0]
    assert box == {
        "method": "a",
        "place": 0,
        "least": 0,
        "low": 1.25,
        "median": 2.5,
        "high": 3.75,
        "most": 4,
    }
    assert [dot["change"] for dot in spec["layer"][-1]["data"]["values"]] == [100]


def test_settings_stand_in_the_order_of_their_numbers() -> None:
    spec = charts.sweep("taps", "rate", [(64, 0.1, 1.0), (4, 0.1, 1.0), (16, 0.01, 1.0)])
    assert spec["encoding"]["y"]["sort"] == ["4", "16", "64"]
    assert spec["encoding"]["x"]["sort"] == ["0.01", "0.1"]


def test_grounds_have_the_same_names_of_colours() -> None:
    assert list(COLOURS["light"]) == list(COLOURS["dark"])
    named = json.dumps(theme({name: f"var(--{name})" for name in COLOURS["light"]}))
    assert "#" not in named
    assert all(f"var(--{name})" in named for name in COLOURS["light"])
