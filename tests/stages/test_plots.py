"""The project's own templates for `dvc plots`: filled by DVC's renderer, drawn by Vega-Lite."""

import csv
import io
import json
import re

import pytest
import vl_convert
from dvc_render.vega import VegaRenderer

from tests.support.experiment import ROOT

SWEEP = """\
method,setting,size,at,sdr_change,rev
rls,"rls, forgetting 0.999",taps,4,-1.25,workspace
rls,"rls, forgetting 0.999",taps,16,,workspace
renormalise,renormalise,power of the masks,2,1.75,workspace
renormalise,renormalise,power of the masks,2,0.75,HEAD
"""
HELD_OUT = "method,sdr_change,rev\nnone,,HEAD\n" + "".join(
    f"{method},{value},{rev}\n"
    for method in ("rls", "wiener")
    for rev in ("HEAD", "workspace")
    for value in (-1.5, 0.25, 0.5, 2.0)
)


@pytest.mark.parametrize(
    ("template", "table", "x", "y", "expected"),
    [
        ("heat", SWEEP, "at", "setting", ["1.3", "+1.8", "+0.8", "power of the masks", "HEAD"]),
        ("boxes", HELD_OUT, "sdr_change", "method", ["rls", "wiener", "HEAD", "workspace"]),
    ],
)
def test_template_draws_what_dvc_hands_it(template, table, x, y, expected) -> None:
    # As DVC reads a CSV: every value is a string.
    points = list(csv.DictReader(io.StringIO(table)))
    renderer = VegaRenderer(
        points, "plot", template=template, template_dir=str(ROOT / ".dvc/plots"), x=x, y=y
    )
    renderer.properties["revs_with_datapoints"] = ["HEAD", "workspace"]
    drawn = vl_convert.vegalite_to_svg(json.loads(renderer.partial_html()))
    for text in expected:
        assert text in drawn, text
    assert "NaN" not in drawn


def test_digits_can_be_read_on_dark_cells() -> None:
    """The largest gain and the largest loss have the darkest colours."""
    changes = {"-3.30": "white", "-0.20": "black", "0.00": "black", "2.80": "white"}
    rows = [
        {"setting": "rls", "size": "taps", "at": str(at), "sdr_change": change, "rev": "HEAD"}
        for at, change in enumerate(changes)
    ]
    folder = str(ROOT / ".dvc/plots")
    renderer = VegaRenderer(rows, "plot", template="heat", template_dir=folder, x="at", y="setting")
    renderer.properties["revs_with_datapoints"] = ["HEAD"]
    svg = vl_convert.vegalite_to_svg(json.loads(renderer.partial_html()))
    found = re.findall(r'fill="(white|black)">([+\u2212][\d.]+)</text>', svg)
    colours = {text: colour for colour, text in found}
    for change, colour in changes.items():
        assert colours[f"{float(change):+.1f}".replace("-", "\u2212")] == colour
