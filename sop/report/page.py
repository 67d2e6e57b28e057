"""The report: one page on a run of the pipeline, which a browser opens from its file.

The page is a list of sections, and a section a list of blocks: texts, tables, charts. Sections are
made in `sop.report.sections`; this module checks them and renders them through the templates, style
and scripts of `report_page/`. All text is escaped.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex

from sop.evaluate.intervals import Interval
from sop.player.embedded import SHARED_STYLE, WHOLE_SCRIPT, digest, script_json
from sop.report import charts
from sop.report.terms import TERMS
from sop.runtime.files import write_text

MEASURE_NAMES = {
    "sdr": "SDR",
    "sir": "SIR",
    "sar": "SAR",
    "si_sdr": "SI-SDR",
    "sdr_mixture": "Mixture SDR",
    "sdr_improvement": "SDR improvement",
    "sdr_denoised": "Denoised SDR",
}
"""Measures of a source, in dB, and their names on the page."""

_FORMATS = {
    "count": (1, "{:,.0f}"),
    "decibels": (1, "{:.2f}"),
    "change": (1, "{:+.2f}"),
    "percent": (100, "{:.0f} %"),
    "seconds": (1, "{:.1f}"),
    "bytes": (2**-20, "{:.1f} MiB"),
}
COLOUR_MAPS = ("magma", "viridis", "inferno")
"""Maps of colours in the pictures of mixtures: spectrograms, masks, heat maps."""

PAGE = "index.html"
CHART_LIBRARY = "vega.js"

Cell = str | float | Interval | None
Format = Literal[
    "text", "prose", "count", "number", "decibels", "change", "percent", "seconds", "bytes"
]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    format: Format = "text"
    """How numbers are written: `change` with a sign, `percent` of a fraction from 0 to 1. `prose`
    is text of several words."""


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    """Cells of each row; the first one names the row."""
    title: str = ""
    note: str = ""
    emphasized: Collection[int] = ()
    """Positions of the rows that stand out."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {row} does not have {len(self.columns)} cells")


class Text(NamedTuple):
    """A paragraph."""

    text: str
    style: Literal["lead", "note"] = "note"


class Figure(NamedTuple):
    """A measure in large digits."""

    name: str
    mean: float | None
    """In dB."""
    median: float | None
    """In dB."""
    format: Format
    interval: Interval | None = None
    """Of the mean."""


class Sounds(NamedTuple):
    """Sounds of one mixture that are played on the page itself."""

    title: str
    number: int
    """Number of the mixture."""
    sounds: Sequence[tuple[str, str]]
    """Name of each sound, and its path relative to the page's folder."""
    note: str = ""


class Link(NamedTuple):
    """A paragraph with a link to another page of the same folder, or to a section of this one."""

    text: str
    address: str
    name: str


class Chart(NamedTuple):
    """A chart with its heading."""

    title: str
    spec: charts.Spec | None
    """Vega-Lite specification; None if there is nothing to draw and the caption says why."""
    caption: str = ""
    wide: bool = False


class MixtureFiles(NamedTuple):
    """Files of one mixture, by what they show: paths relative to the page's folder.

    Spectrograms and masks are pictures without axes: time from left to right, the lowest frequency
    at the bottom. The page stretches them to its columns.
    """

    mixture: Mapping[str, str]
    """`sound`, `spectrogram`, `weighting` (of the loss) and `player` (a page)."""
    sources: Sequence[Mapping[str, str]]
    """Of each source, the sounds `true`, `separated` and `denoised`; the pictures
    `true_spectrogram`, `separated_spectrogram`, `denoised_spectrogram`, `predicted_mask`,
    `true_mask`, `heat` (where the model locates the sound) and `frame`; and `video`."""


class Axes(NamedTuple):
    """Axes of the spectrograms and masks, and their colours."""

    seconds: Sequence[tuple[float, str]]
    """Place of each label, as a share of the width from the left, and its text."""
    hertz: Sequence[tuple[float, str]]
    """Place of each label, as a share of the height from the bottom, and its text."""
    edges: tuple[float, float]
    """Seconds at the left and at the right edge of a picture."""
    decibels: float
    """Range of a spectrogram below the loudest bin of the mixture, in dB."""


@dataclass(frozen=True)
class MixtureTable:
    """All sources of all mixtures, to be searched, sorted and opened."""

    scores: pd.DataFrame
    """A row for each source: `mixture`, `category`, `video`, and measures of `MEASURE_NAMES`;
    `silent` is 1 for a silent estimate."""
    files: Mapping[int, MixtureFiles] = field(default_factory=dict)
    """Files of the mixtures that have any, by number."""
    axes: Axes | None = None
    """Of the pictures."""

    @property
    def measures(self) -> list[str]:
        """Measures of which at least one source has a value."""
        scores = self.scores
        return [
            name for name in MEASURE_NAMES if name in scores and np.isfinite(scores[name]).any()
        ]


class Parameter(NamedTuple):
    """A key of params.yaml."""

    key: str
    """Dotted, as in `train.epochs`."""
    value: str
    """As YAML; empty if it was removed."""
    before: str | None = None
    """Its value in the other revision if that differs; empty if it was not set there."""
    meaning: str = ""


class ParameterTable(NamedTuple):
    """All parameters, to be searched."""

    items: Sequence[Parameter]
    against: str
    """The revision of `Parameter.before`."""


Block = Text | Link | Table | Chart | Sequence[Figure] | Sounds | MixtureTable | ParameterTable


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an entry in the navigation."""

    name: str
    """Name in the navigation; in lower case, its address."""
    blocks: Sequence[Block]
    """What it shows; empty if there is nothing to show."""
    title: str = ""
    """Heading; the name by default."""
    empty: str = "Nothing to show."
    """Sentence that is shown if the section has no blocks."""


@dataclass(frozen=True)
class PageContent:
    """Everything that the page shows."""

    title: str
    sections: Sequence[Section]
    origin: str = ""
    """When, where and from which revision the page was made."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Other pages of the same folder: name of the file, and what the link to it says."""
    warnings: Sequence[str] = ()


_TEMPLATES = Path(__file__).parent / "report_page"
_SCRIPTS = (
    "numbers.js",
    "tips.js",
    "charts.js",
    "rows.js",
    "mixture.js",
    "parameters.js",
    "scroll.js",
    "page.js",
)


def write_page(folder: Path, content: PageContent, name: str = PAGE) -> Path:
    """Write a page.

    Args:
        folder: contains every file that the content names; gets the page, and `vega.js` if there
            is a chart. Other files in it are left alone.
        content: what is shown.
        name: of the page.

    Returns:
        The page, which a browser opens without a server or a network.
    """
    blocks = [block for section in content.sections for block in section.blocks]
    drawn = [block.spec for block in blocks if isinstance(block, Chart) and block.spec is not None]
    if drawn:
        write_text(folder / CHART_LIBRARY, f"/*\n{charts.licenses()}*/\n{charts.library()}")
    mixtures = next((block for block in blocks if isinstance(block, MixtureTable)), None)
    measures = mixtures.measures if mixtures else []
    read_by_script = {
        "measures": [[name, MEASURE_NAMES[name]] for name in measures],
        "library": CHART_LIBRARY,
        "theme": charts.theme(),
        "charts": drawn,
        "terms": TERMS,
        "axes": mixtures.axes._asdict() if mixtures and mixtures.axes else None,
        "mixtures": list(_mixtures(mixtures, measures)) if mixtures else [],
    }
    style = SHARED_STYLE + _template("style.css") + _chart_colours() + _colour_maps()
    script = "\n".join(_template(name) for name in _SCRIPTS)
    # Only these scripts, this style and files are allowed, and no connections. Of a page that is
    # opened from a file, 'self' matches nothing and file: every file.
    policy = (
        "default-src 'none'; "
        f"script-src '{digest(WHOLE_SCRIPT)}' '{digest(script)}' 'self' file:; "
        f"style-src '{digest(style)}'; "
        "media-src 'self' file:; img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"written": _written, "grouped": _grouped, "address": _address}
    text = environment.get_template("page.html").render(
        page=content,
        names=MEASURE_NAMES,
        terms=TERMS,
        measures=measures,
        policy=policy,
        style=Markup(style),
        whole=Markup(WHOLE_SCRIPT),
        script=Markup(script),
        contents=Markup(script_json(read_by_script)),
    )
    page = folder / name
    write_text(page, text)
    return page


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _chart_colours() -> str:
    """Return a style with the colours of the charts on light and on dark backgrounds."""
    light, dark = (
        ":root {" + "".join(f"--{name}: {colour};" for name, colour in colours.items()) + "}"
        for colours in (charts.COLOURS["light"], charts.COLOURS["dark"])
    )
    return f"{light} @media (prefers-color-scheme: dark) {{{dark}}}"


def _colour_maps() -> str:
    """Return a style of the legends of pictures: a class for each map of colours in them."""
    maps = []
    for name in COLOUR_MAPS:
        stops = ", ".join(to_hex(colour) for colour in colormaps[name](np.linspace(0, 1, 9)))
        maps.append(f".{name} {{background: linear-gradient(to right, {stops})}}")
    return " ".join(maps)


def _grouped(blocks: Sequence[Block]) -> Iterator[tuple[str, Iterator[Block]]]:
    """Group neighbouring blocks of the same type, under the name of that type."""
    return itertools.groupby(blocks, key=lambda block: type(block).__name__)


def _mixtures(table: MixtureTable, measures: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, rows in table.scores.groupby("mixture"):
        files = table.files.get(int(number), MixtureFiles({}, [{}] * len(rows)))
        yield {
            "number": int(number),
            "shown": any((files.mixture, *files.sources)),
            "files": _addresses(files.mixture),
            "sources": [
                {
                    "category": row["category"],
                    "video": row["video"],
                    "silent": row.get("silent") == 1,
                    "measures": [charts.finite(row[name], 4) for name in measures],
                    "files": _addresses(own),
                }
                for row, own in zip(rows.to_dict("records"), files.sources, strict=True)
            ],
        }


def _addresses(files: Mapping[str, str]) -> dict[str, str]:
    return {name: _address(path) for name, path in files.items()}


def _address(path: str) -> str:
    # With "./" no name can be taken for the scheme of another address.
    return "./" + quote(path)


def _written(cell: Cell, format: Format = "text") -> str:
    """Return a cell as text; a dash where there is no value."""
    if isinstance(cell, Interval) and cell.low is None:
        return Markup('{} <span class="interval">[too few]</span>').format(
            _written(cell.mean, format)
        )
    if isinstance(cell, Interval):
        mean, low, high = (_written(value, format) for value in cell)
        return Markup('{} <span class="interval">[{}, {}]</span>').format(mean, low, high)
    if isinstance(cell, str):
        return cell
    if cell is None or not math.isfinite(cell):
        return "\N{EN DASH}"
    factor, pattern = _FORMATS.get(format, (1, "{:g}"))
    text = pattern.format(factor * cell).replace(",", "\N{NARROW NO-BREAK SPACE}")
    return text.replace("-", "\N{MINUS SIGN}")
