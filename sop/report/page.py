"""The report: one page with what a run of the pipeline made, without a server.

What it shows is handed over as the types below; the files it plays and shows lie in its folder
already. `report_page/` holds its template, style and script; `sop.report.charts` its charts.

Everything that comes from data is shown as text, whatever characters it holds.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import jinja2
import numpy as np
import vl_convert
from markupsafe import Markup

from sop.denoise.bootstrap import Interval
from sop.player.embedded import digest, script_json
from sop.report import charts
from sop.runtime.files import write_text

T = TypeVar("T")

# Measures of a source and what they are called; the report knows these.
MEASURES = {
    "sdr": "SDR",
    "sir": "SIR",
    "sar": "SAR",
    "si_sdr": "SI-SDR",
    "sdr_mixture": "Mixture SDR",
    "sdr_improvement": "SDR gain",
    "sdr_denoised": "Denoised SDR",
}


@dataclass(frozen=True)
class Absent:
    """Stands for a section that has nothing to show, and says why."""

    reason: str
    """A sentence, such as `Training failed: ...`."""


@dataclass(frozen=True)
class Summary:
    """Of one measure over the sources of all counted mixtures, dB."""

    mean: float | None
    median: float | None


@dataclass(frozen=True)
class Headline:
    """What came out."""

    measures: Mapping[str, Summary]
    """By the keys of `MEASURES`; those that are not there are left out."""
    counted: int
    """Mixtures."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Mixtures that could not be measured, by reason."""


@dataclass(frozen=True)
class Step:
    """One rung from doing nothing to the best that a mask can do."""

    name: str
    """Such as `Ideal binary masks`."""
    measures: Mapping[str, float | None]
    """Means, dB; keys of `MEASURES`, `sdr` among them."""
    kind: Literal["bound", "model"] = "bound"
    """Whether it is a bound of what is possible, or what this model does."""
    note: str = ""
    """What it means, in a few words."""


@dataclass(frozen=True)
class Scale:
    """How far the model is from both ends: steps from the lowest to the highest."""

    steps: Sequence[Step]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Something over the steps of the training."""

    title: str
    unit: str
    """Of the vertical axis: `dB`, `loss`."""
    series: Mapping[str, Sequence[tuple[float, float | None]]]
    """Step and value, by name; a value that is None or not finite is a gap."""
    logarithmic: bool = False
    """Whether the vertical axis is."""


@dataclass(frozen=True)
class SourceFiles:
    """What can be heard and seen of one source: paths relative to the page's folder.

    Spectrograms and masks are bare pictures without axes: time from left to right over just the
    clip, the lowest frequency at the bottom. The page stretches them to its columns.
    """

    true: str | None = None
    """Sound."""
    separated: str | None = None
    """Sound."""
    denoised: str | None = None
    """Sound."""
    true_spectrogram: str | None = None
    separated_spectrogram: str | None = None
    denoised_spectrogram: str | None = None
    predicted_mask: str | None = None
    true_mask: str | None = None
    heat: str | None = None
    """Where the model hears it, over a frame; shown in its own proportions."""
    video: str | None = None
    """With its true sound; H.264 and AAC in MP4, or WebM."""
    frame: str | None = None
    """Of the video, shown until it is played."""


@dataclass(frozen=True)
class MixtureFiles:
    """What can be heard and seen of a mixture: paths relative to the page's folder."""

    sound: str | None = None
    spectrogram: str | None = None
    weighting: str | None = None
    """How much each bin counts in the loss."""
    player: str | None = None
    """A page of `sop.player.player`, such as `players/003/index.html`."""


@dataclass(frozen=True)
class Source:
    """One of the videos of a mixture."""

    category: str
    video: str
    """Its name."""
    measures: Mapping[str, float | None]
    """dB; keys of `MEASURES`. What is missing is None, or not there."""
    files: SourceFiles = field(default_factory=SourceFiles)


@dataclass(frozen=True)
class Mixture:
    """One evaluated mixture."""

    number: int
    sources: Sequence[Source]
    files: MixtureFiles = field(default_factory=MixtureFiles)

    @property
    def shown(self) -> bool:
        """Whether there is anything to hear or to see of it."""
        return any(_paths(self))


@dataclass(frozen=True)
class DenoiseMethod:
    """One method at its best setting, on the mixtures held out."""

    name: str
    setting: str
    """Such as `taps 64, forgetting 0.999`; empty if it has none."""
    after: Mapping[str, float | None]
    """Means, dB; keys of `MEASURES` such as `sdr`."""
    change: Mapping[str, Interval | None]
    """Against doing nothing, dB; the same keys."""
    changes: Sequence[float] = ()
    """Of SDR, mixture by mixture, dB."""
    chosen: bool = False


@dataclass(frozen=True)
class Sweep:
    """All settings of one method: the change of SDR on the mixtures for tuning."""

    method: str
    rows: str
    """Name of the knob that goes down: `taps`."""
    columns: str
    """Name of the knob that goes right: `rate`; empty if the method has one knob."""
    cells: Sequence[tuple[float, float | None, float | None]]
    """Value of the rows' knob, of the columns' knob, and mean change of SDR in dB."""


@dataclass(frozen=True)
class Denoise:
    """What is done about what is left of the other sources."""

    chosen: str
    """Such as `rls, taps 64, forgetting 0.999`, or `none`."""
    reason: str
    mixtures: int
    """Held out: the numbers are of these."""
    before: Mapping[str, float | None]
    """Means, dB; keys of `MEASURES`, in the order in which they are shown."""
    methods: Sequence[DenoiseMethod]
    sweeps: Sequence[Sweep] = ()
    footnote: str = ""


@dataclass(frozen=True)
class Difference:
    """Of one measure, here and there, over the mixtures that both have."""

    measure: str
    """As it is shown: `SDR`."""
    here: float | None
    there: float | None
    difference: Interval | None
    """Here less there, pair by pair; None: they cannot be paired."""


@dataclass(frozen=True)
class Comparison:
    """With another revision."""

    revision: str
    """The other one."""
    pairs: int
    """Mixtures that both have."""
    differences: Sequence[Difference]
    verdict: str
    """In words: `SDR is surely better, by 0.4 dB or more.`"""
    note: str = ""


Format = Literal["text", "count", "number", "decibels", "change", "share", "seconds", "bytes"]


@dataclass(frozen=True)
class Column:
    """Of a table, and how its numbers are written; what is not a number is written as it is."""

    name: str
    format: Format = "text"
    """`share`: 0 to 1, written as per cent; `change`: with its sign."""


@dataclass(frozen=True)
class Table:
    """Plain rows: localization, counts, times."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float | None]]
    """Each as long as `columns`; the first one names its row."""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Parameter:
    """One key of params.yaml."""

    key: str
    """With dots: `train.epochs`."""
    value: str
    """As YAML; empty: it is gone."""
    before: str | None = None
    """What it was, if that differs; empty: it was not there."""
    meaning: str = ""


@dataclass(frozen=True)
class Parameters:
    """All of params.yaml."""

    items: Sequence[Parameter]
    against: str = "git HEAD"
    """What `Parameter.before` is of."""


@dataclass(frozen=True)
class PageContent:
    """All that the page shows.

    A section that is None is left out altogether; one that is `Absent` says why it is empty.
    """

    title: str
    revision: str = ""
    """Branch, commit, whether it is changed, and when; one line."""
    warnings: Sequence[str] = ()
    headline: Headline | Absent | None = None
    scale: Scale | Absent | None = None
    comparison: Comparison | Absent | None = None
    curves: Sequence[Curve] | Absent | None = None
    mixtures: Sequence[Mixture] | Absent | None = None
    """With the charts that follow from them."""
    denoise: Denoise | Absent | None = None
    localization: Sequence[Table] | Absent | None = None
    parameters: Parameters | Absent | None = None
    data: Sequence[Table] | Absent | None = None
    timing: Sequence[Table] | Absent | None = None


@dataclass(frozen=True)
class Chart:
    """A chart in the page."""

    title: str
    spec: charts.Spec | None
    """None: there is only its caption."""
    wide: bool = False
    caption: str = ""


PAGE = "index.html"
LIBRARY = "vega.js"

_TEMPLATES = Path(__file__).parent / "report_page"
_SCRIPTS = ("numbers.js", "charts.js", "rows.js", "mixture.js", "parameters.js", "page.js")
_MINUS = "\N{MINUS SIGN}"


def write_page(folder: Path, content: PageContent) -> Path:
    """Write the report.

    Args:
        folder: holds every file that the content names; gets `index.html`, and `vega.js` if there
            is a chart. What else is in it stays.
        content: what is shown.

    Returns:
        The page: a file that a browser opens without a server or a network.

    Raises:
        ValueError: a path leads out of the folder or to no file, or a row does not fit its table.
    """
    _check(folder, content)
    drawn = _charts(content)
    if any(chart.spec is not None for some in drawn.values() for chart in some):
        write_text(folder / LIBRARY, _library())
    page = folder / PAGE
    write_text(page, _page(content, drawn))
    return page


def _check(folder: Path, content: PageContent) -> None:
    for mixture in _shown(content.mixtures) or ():
        for path in _paths(mixture):
            parts = PurePosixPath(path).parts
            if not parts or path.startswith("/") or ".." in parts or "\\" in path:
                raise ValueError(f"mixture {mixture.number}: {path!r} is not inside the folder")
            if not (folder / path).is_file():
                raise ValueError(f"mixture {mixture.number}: {folder / path} is not there")
    for tables in (content.localization, content.data, content.timing):
        for table in _shown(tables) or ():
            for row in table.rows:
                if len(row) != len(table.columns):
                    raise ValueError(f"{table.title}: {row} has not {len(table.columns)} cells")


def _shown(section: T | Absent | None) -> T | None:
    return None if isinstance(section, Absent) else section


def _paths(mixture: Mixture) -> Iterator[str]:
    every: list[MixtureFiles | SourceFiles] = [mixture.files]
    every += [source.files for source in mixture.sources]
    for files in every:
        yield from (path for path in _values(files).values() if path)


def _values(files: MixtureFiles | SourceFiles) -> dict[str, str | None]:
    return {each.name: getattr(files, each.name) for each in fields(files)}


def _charts(content: PageContent) -> dict[str, list[Chart]]:
    """The charts of each section."""
    drawn: dict[str, list[Chart]] = defaultdict(list)
    if scale := _shown(content.scale):
        values = [(step.name, step.measures.get("sdr"), step.kind) for step in scale.steps]
        if any(_finite(value) is not None for _, value, _ in values):
            drawn["scale"].append(Chart("Mean SDR", charts.scale(values), wide=True))
    for curve in _shown(content.curves) or ():
        drawn["training"].append(_curve_chart(curve))
    if mixtures := _shown(content.mixtures):
        drawn["mixtures"] = _mixture_charts(mixtures)
    if denoise := _shown(content.denoise):
        changes = {one.name: one.changes for one in denoise.methods if len(one.changes)}
        if changes:
            spec = charts.change_boxes(changes)
            caption = "In each of the mixtures held out"
            drawn["denoise"].append(Chart("Change of SDR", spec, wide=True, caption=caption))
        for sweep in denoise.sweeps:
            if any(_finite(change) is not None for _, _, change in sweep.cells):
                spec = charts.sweep(sweep.rows, sweep.columns, sweep.cells)
                caption = "Change of SDR on the mixtures for tuning, dB"
                drawn["denoise"].append(Chart(sweep.method, spec, caption=caption))
    return {section: some for section, some in drawn.items() if some}


def _curve_chart(curve: Curve) -> Chart:
    values = [value for points in curve.series.values() for _, value in points]
    missing = sum(_finite(value) is None for value in values)
    if missing == len(values):
        return Chart(curve.title, None, caption="It has no finite value.")
    spec = charts.curves(curve.unit, curve.series, curve.logarithmic)
    caption = f"{missing} of {len(values)} values are not finite; they are gaps." if missing else ""
    return Chart(curve.title, spec, caption=caption)


def _mixture_charts(mixtures: Sequence[Mixture]) -> list[Chart]:
    categories: dict[str, list[float]] = defaultdict(list)
    points = []
    for mixture in mixtures:
        for source in mixture.sources:
            sdr = _finite(source.measures.get("sdr"))
            if sdr is None:
                continue
            categories[source.category].append(sdr)
            unseparated = _finite(source.measures.get("sdr_mixture"))
            if unseparated is not None:
                point = charts.Point(
                    mixture.number, source.category, source.video, unseparated, sdr
                )
                points.append(point)
    if not categories:
        return []
    means = {name: (float(np.mean(values)), len(values)) for name, values in categories.items()}
    drawn = [Chart("Mean SDR by category, with the number of sources", charts.categories(means))]
    if points:
        caption = "A dot is a source; a click opens its mixture. On the line nothing was gained."
        spec = charts.scatter(points)
        drawn.append(Chart("SDR over that of the mixture itself", spec, caption=caption))
    every = [value for values in categories.values() for value in values]
    drawn.append(Chart("Distribution of SDR", charts.histogram(every)))
    return drawn


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one classic script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", charts.VEGA_LITE)


def _page(content: PageContent, drawn: Mapping[str, Sequence[Chart]]) -> str:
    style = _template("style.css") + _chart_colours()
    script = "\n".join(_template(name) for name in _SCRIPTS)
    # Nothing but this script, this style and files; no connection to anywhere. From a file 'self'
    # is nothing, and file: is every file; the page names none but those of this folder.
    policy = (
        "default-src 'none'; "
        f"script-src '{digest(script)}' 'self' file:; style-src '{digest(style)}'; "
        "media-src 'self' file:; img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["written"] = _written
    environment.tests["absent"] = lambda section: isinstance(section, Absent)
    every = [chart for some in drawn.values() for chart in some]
    numbers = itertools.count()
    measured = _measured(content)
    return environment.get_template("page.html").render(
        page=content,
        drawn={name: [(next(numbers), chart) for chart in some] for name, some in drawn.items()},
        names=MEASURES,
        on_scale=_on_scale(content),
        measured=measured,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        contents=Markup(script_json(_contents(content, measured, every))),
    )


def _chart_colours() -> str:
    """A style that gives charts their colours, so that they follow the ground, and paper, by it."""
    light, dark = (
        ":root {" + "".join(f"--{name}: {colour};" for name, colour in colours.items()) + "}"
        for colours in (charts.COLOURS["light"], charts.COLOURS["dark"])
    )
    return f"{light} @media (prefers-color-scheme: dark) {{{dark}}}"


def _measured(content: PageContent) -> list[str]:
    """The measures that any source has."""
    sources = [source for one in _shown(content.mixtures) or () for source in one.sources]
    return [
        measure
        for measure in MEASURES
        if any(_finite(source.measures.get(measure)) is not None for source in sources)
    ]


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _on_scale(content: PageContent) -> list[str]:
    """The measures that any step of the scale has."""
    scale = _shown(content.scale)
    steps = scale.steps if scale else ()
    return [measure for measure in MEASURES if any(measure in step.measures for step in steps)]


def _contents(
    content: PageContent, measured: Sequence[str], drawn: Sequence[Chart]
) -> dict[str, Any]:
    """What the script reads."""
    return {
        "measures": [[measure, MEASURES[measure]] for measure in measured],
        "library": LIBRARY,
        "theme": charts.theme({name: f"var(--{name})" for name in charts.COLOURS["light"]}),
        "charts": [chart.spec for chart in drawn],
        "mixtures": [
            {
                "number": mixture.number,
                "shown": mixture.shown,
                "files": _addresses(mixture.files),
                "sources": [
                    {
                        "category": source.category,
                        "video": source.video,
                        "measures": [_finite(source.measures.get(name)) for name in measured],
                        "files": _addresses(source.files),
                    }
                    for source in mixture.sources
                ],
            }
            for mixture in _shown(content.mixtures) or ()
        ],
    }


def _addresses(files: MixtureFiles | SourceFiles) -> dict[str, str]:
    # With "./" no name can be taken for the scheme of another address.
    return {name: "./" + quote(path) for name, path in _values(files).items() if path}


def _finite(value: float | None) -> float | None:
    """JSON knows no other numbers; what is not finite is shown as missing."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def _written(value: str | float | None, format: Format = "text") -> str:
    """A cell as text; a dash where there is none."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    match format:
        case "count":
            text = f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        case "decibels":
            text = f"{value:.2f}"
        case "change":
            text = f"{value:+.2f}"
        case "share":
            text = f"{100 * value:.0f} %"
        case "seconds":
            text = f"{value:.1f}"
        case "bytes":
            text = f"{value / 2**20:.1f} MiB"
        case _:
            text = f"{value:g}"
    return text.replace("-", _MINUS)
