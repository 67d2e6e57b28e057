"""The page in a real browser; pages are shared by the tests that do not change them."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from sop.evaluate.intervals import Interval
from sop.report.comparison import Comparison, Difference
from sop.report.page import (
    MEASURE_NAMES,
    Axes,
    Chart,
    Column,
    Figure,
    MixtureFiles,
    MixtureTable,
    PageContent,
    Parameter,
    ParameterTable,
    Section,
    Table,
    Text,
    write_page,
)
from sop.report.revisions import Revision
from sop.report.sections.changes import comparison_blocks
from sop.report.sections.denoise import SHOWN_MEASURES, denoise_section
from sop.report.sections.evaluation import (
    Step,
    localization_section,
    mixture_section,
    result_section,
    scale_section,
)
from sop.report.sections.failures import failure_section
from sop.report.sections.sounds import MEDIAN, sounds_of
from sop.report.sections.training import curve_chart
from sop.report.terms import TERMS

# A browser starts, and pages with charts are drawn.
pytestmark = pytest.mark.slow

SECONDS = 1.5
VIDEO_SECONDS = 3.0
RATE = 11025
SHOWN = 3
CATEGORIES = ("accordion", "acoustic_guitar", "cello", "flute", "tuba", "xylophone")
TRIED = {"lms": -0.1, "nlms": 0.02, "rls": 0.05, "renormalise": 0.1, "wiener": 0.21}
HOSTILE = '</script><script>document.title="taken"</script>"\'&<b>\u2028 \u00e9\u4e2d'
HEAD = "commit 1b5ed50 (branch main)"
WRITTEN = "2026-11-27 10:12 UTC"
HOSTILE_FILES = {
    7: MixtureFiles({"sound": 'javascript:a"'}, [{"separated": HOSTILE, "true": "t.flac"}] * 2)
}
SOUND_FILES = ("true", "separated", "denoised")
AXES = Axes([(0.1, "0 s"), (0.6, "0.5 s")], [(0.25, "100 Hz"), (0.5, "1 kHz")], (-0.1, 1.4), 60.0)
PICTURE_FILES = (
    *(f"{kind}_spectrogram" for kind in SOUND_FILES),
    *("predicted_mask", "true_mask", "heat", "frame"),
)


def shown_files(folder: Path, number: int, video: Path) -> MixtureFiles:
    """Small real files of a mixture, all that there can be; names that addresses must escape."""
    place = folder / f"{number:03d} #1 é%"
    place.mkdir(parents=True)
    made = {"png": place / "a.png", "flac": place / "a.flac", "mp4": video}
    random = np.random.default_rng(number)
    picture = random.integers(0, 255, (64, 96)).astype(np.uint8)
    Image.fromarray(picture).save(made["png"])
    time = np.arange(int(RATE * SECONDS)) / RATE
    soundfile.write(made["flac"], 0.2 * np.sin(2 * np.pi * 440 * time), RATE)
    (place / "index.html").write_text("<title>A player</title>")

    def named(name: str, kind: str) -> str:
        copy = place / f"{name}.{kind}"
        shutil.copyfile(made[kind], copy)
        return copy.relative_to(folder).as_posix()

    kinds = {name: "flac" for name in SOUND_FILES} | {"video": "mp4"}
    kinds |= {name: "png" for name in PICTURE_FILES}
    of_mixture = {
        "sound": named("mixture", "flac"),
        "spectrogram": named("mixture", "png"),
        "weighting": named("weighting", "png"),
        "player": (place / "index.html").relative_to(folder).as_posix(),
    }
    of_sources = [{name: named(f"{k}-{name}", kinds[name]) for name in kinds} for k in range(2)]
    for name in ("a.png", "a.flac"):
        (place / name).unlink()
    return MixtureFiles(of_mixture, of_sources)


def made_up_scores(count: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        for category in random.choice(len(CATEGORIES), 2, replace=False):
            mixed = float(random.normal(0, 4))
            gain = float(random.gamma(4, 1.7) + category - 3)
            name = CATEGORIES[category]
            rows.append(
                {
                    "mixture": number,
                    "category": name,
                    "video": f"{name}/{name}_{random.integers(80):03d}",
                    "sdr": mixed + gain,
                    "sir": mixed + gain + float(random.gamma(3)),
                    "sar": mixed + gain + float(random.gamma(6)),
                    "si_sdr": mixed + gain - 2.5,
                    "sdr_mixture": mixed,
                    "sdr_improvement": gain,
                    "sdr_denoised": np.nan if number % 5 else mixed + gain + 0.1,
                }
            )
    return pd.DataFrame(rows)


def made_up_parameters() -> ParameterTable:
    items = [Parameter(f"train.key_{k}", f"{k / 7:.3g}", None, "a meaning") for k in range(90)]
    items[3] = Parameter("train.epochs", "5", "3", "how often")
    items[5] = Parameter("train.new", "[1, 2]", "", "steps")
    items[7] = Parameter("train.gone", "", "null")
    return ParameterTable(items, HEAD)


def made_up_comparison() -> Comparison:
    measures = {
        "sdr": Difference(256, 40, 6.4, 7.1, Interval(0.7, 0.41, 0.98), 0.7),
        "sir": Difference(256, 40, 10.1, 10.0, Interval(-0.1, -0.5, 0.3), 0.4),
    }
    a, b = Revision("HEAD", "1b5ed50" + "0" * 33), Revision("workspace", None)
    notes = ["sar is left out: no value"]
    return Comparison(a, b, 256, (256, 256), measures, {}, (None, 3), [], notes)


def denoise_metrics(reason: str = "best of 40 on 60 mixtures for tuning") -> dict[str, Any]:
    def interval(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.06, "high": mean + 0.07}

    methods = {
        name: {
            "setting": {"power": 2.0, "frames": 3, "iterations": 5} if name == "wiener" else {},
            "change": {measure: interval(change) for measure in SHOWN_MEASURES},
        }
        for name, change in TRIED.items()
    }
    return {
        "method": "wiener",
        "setting": methods["wiener"]["setting"],
        "reason": reason,
        "mixtures": {"held_out": 150},
        "before": dict.fromkeys(SHOWN_MEASURES, 7.1),
        "methods": methods,
        "footnote": {"about": "a measure", "mean_over_std": {"before": 0.01, "after": None}},
    }


def denoise_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(1)
    grid = [(t, r) for t in (4, 16, 64, 128) for r in (1e-3, 1e-2, 1)]
    names = ("method", "taps", "rate", "forgetting", "power", "frames", "iterations", "sdr_change")
    sweep = [("lms", taps, rate, *[np.nan] * 4, random.normal()) for taps, rate in grid]
    sweep += [("rls", taps, np.nan, rate, *[np.nan] * 3, random.normal()) for taps, rate in grid]
    powers = [("renormalise", *[np.nan] * 3, power, np.nan, np.nan) for power in (1.0, 2.0)]
    sweep += [(*row, change) for row, change in zip(powers, (0.1, np.nan), strict=True)]
    held_out = [
        {"mixture": number, "method": name, "sdr_change": random.normal(mean, 0.4)}
        for name, mean in TRIED.items()
        for number in range(150)
    ]
    return pd.DataFrame(sweep, columns=names), pd.DataFrame(held_out)


def full(scores: pd.DataFrame, files: dict[int, MixtureFiles]) -> PageContent:
    """Every section with something in it."""
    random = np.random.default_rng(1)
    steps = np.arange(1400)
    loss = 0.3 * np.exp(-steps / 400) + 0.15 + random.normal(0, 0.01, len(steps))
    epochs = range(280, 1401, 280)
    quality = {
        name: [(epoch, high * (1 - 0.8 ** (k + 1))) for k, epoch in enumerate(epochs)]
        for name, high in (("SDR", 9), ("SIR", 12), ("SAR", 16))
    }
    values = {
        "sdr": (7.1, 6.92),
        "sir": (10.0, 9.38),
        "sdr_mixture": (-0.34, 0.36),
        "sdr_improvement": (6.76, 5.6),
    }
    reasons = ["a source is silent", "an estimate is silent", "a source is silent"]
    metrics = {name: {"mean": mean, "median": median} for name, (mean, median) in values.items()}
    mixtures = {"counted": 256, "reasons": dict(enumerate(reasons))}
    ladder = [
        Step("Mixture", "bound", "nothing done", 0.34, 0.35, np.nan),
        Step("Model", "model", "this one", 7.1, 10.0, 13.69),
        Step("Ideal binary masks", "bound", "", 13.2, 22.9, 14.0),
        Step("Ideal ratio masks", "bound", "the best", 14.4, 20.5, 15.6),
    ]
    number = Column("number", "count")
    kinds = ("silent", "solo", "distractor", "duet")
    localization = {
        "scenes": dict.fromkeys(kinds, 30),
        "regions_right": dict.fromkeys(kinds, 0.37),
        "pointing": {"solo": 1.0, "distractor": 0.9, "duet": 0.8},
        "pointing_by_sound": {"solo": 1.0},
        "overlap": {"above_0.3": 0.7, "above_0.5": 0.39},
        "duets": {"sdr": 6.07, "sdr_improvement": -1.0},
    }
    return PageContent(
        title="longer-training",
        origin=f"Written on {WRITTEN} on host A, from {HEAD}.",
        warnings=["Only 24 of 30 videos of tuba could be had.", "The page of mixture 7 is old."],
        sections=[
            result_section(
                metrics | {"mixtures": mixtures},
                scores,
                sounds_of(scores, files, MEDIAN),
                "Protocol: this one.",
            ),
            scale_section(ladder, 100, is_held_out=True),
            Section("Comparison", comparison_blocks(made_up_comparison(), HEAD, WRITTEN)),
            Section(
                "Training",
                [
                    curve_chart(
                        "Loss", "loss", {"training": list(zip(steps.tolist(), loss, strict=True))}
                    ),
                    curve_chart("Validation SDR, SIR, SAR", "dB", quality),
                ],
            ),
            mixture_section(scores, files, AXES),
            failure_section(scores, files),
            denoise_section(denoise_metrics(), *denoise_tables()),
            localization_section(localization),
            Section("Parameters", [made_up_parameters()]),
            Section(
                "Data",
                [
                    Table([Column("videos"), number], [["found", 4300]], "Videos"),
                    Table([Column("reason"), number], [["silent", 3]]),
                ],
            ),
            Section(
                "Timing",
                [
                    Table(
                        [Column("stage"), Column("seconds", "seconds"), Column("size", "bytes")],
                        [["train", 312.25, 3e7], ["evaluate", 90.5, 1.2e8]],
                    )
                ],
            ),
        ],
    )


def opened(
    browser: Any, folder: Path, content: PageContent, charts: bool = True, **options: Any
) -> Any:
    """Write a page and open it from its file."""
    written = write_page(folder, content)
    options = {"viewport": {"width": 1200, "height": 900}} | options
    page = browser.new_context(**options).new_page()
    page.mistakes, page.requested, page.folder = [], [], folder
    page.on("console", lambda said: page.mistakes.append(said.text))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(written.as_uri())
    if charts:
        page.evaluate("report.charts")
    return page


def closed(page: Any) -> None:
    """Close a page; nothing may have gone wrong or left the folder."""
    assert page.mistakes == []
    inside = (page.folder.as_uri() + "/", "data:")
    assert [url for url in page.requested if not url.startswith(inside)] == []
    page.context.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    pages = []

    def open_one(content: PageContent, **options: Any) -> Any:
        pages.append(opened(browser, tmp_path / "a report", content, **options))
        return pages[-1]

    yield open_one
    for page in pages:
        closed(page)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return made_up_scores(256)


@pytest.fixture(scope="module")
def full_page(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, scores: pd.DataFrame, video: Path
) -> Iterator[Any]:
    """A page with everything, 256 mixtures."""
    folder = tmp_path_factory.mktemp("page") / "a report"
    files = {number: shown_files(folder, number, video) for number in range(SHOWN)}
    page = opened(browser, folder, full(scores, files))
    page.locator("#rows").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    page.loaded_first = loaded(page)
    page.files = files
    yield page
    closed(page)


@pytest.fixture
def whole(full_page: Any) -> Any:
    """The page with everything, as it is when it opens."""
    restore(full_page, 512)
    return full_page


@pytest.fixture(scope="module")
def table_page(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, scores: pd.DataFrame, video: Path
) -> Iterator[Any]:
    """A page without charts: 60 mixtures and the parameters."""
    folder = tmp_path_factory.mktemp("page") / "a report"
    files = {number: shown_files(folder, number, video) for number in range(SHOWN)}
    some = scores[scores["mixture"] < 60]
    sections = [
        Section("Mixtures", [MixtureTable(some, files)]),
        Section("Parameters", [made_up_parameters()]),
    ]
    page = opened(browser, folder, PageContent("tables", sections))
    page.scores = some
    yield page
    closed(page)


@pytest.fixture
def tables(table_page: Any) -> Any:
    """The page without charts, as it is when it opens."""
    restore(table_page, 120)
    return table_page


def restore(page: Any, rows: int) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    page.emulate_media(media="screen", color_scheme="light")
    page.evaluate("document.querySelector('dialog').close()")
    page.get_by_role("button", name="Show all").click()
    wait_until(page, f"document.querySelectorAll('#rows tbody tr').length === {rows}")
    page.evaluate("document.querySelector('#find-parameter').reset()")
    page.evaluate("document.querySelector('#find-parameter').dispatchEvent(new Event('input'))")
    if page.locator("#rows th").first.get_attribute("aria-sort") != "ascending":
        page.locator("#rows thead button").first.click()


def cells(page: Any, column: int) -> list[str]:
    """Texts of a column of the table of mixtures, from top to bottom."""
    rows = "[...document.querySelectorAll('#rows tbody tr')]"
    found: list[str] = page.evaluate(f"{rows}.map(row => row.cells[{column}].textContent)")
    return found


def numbers(page: Any, column: int) -> list[float | None]:
    texts = [text.removeprefix("\u266a").strip() for text in cells(page, column)]
    return [None if text == "\u2013" else float(text.replace("\u2212", "-")) for text in texts]


def counted(page: Any) -> str:
    text: str = page.locator("#count").inner_text()
    return text


def wait_until(page: Any, condition: str) -> None:
    # As a function: the page forbids the evaluation of text.
    page.wait_for_function(f"() => {condition}", timeout=20000)


def loaded(page: Any) -> set[str]:
    """Files that were requested since `page.requested` was emptied."""
    return {
        unquote(url).removeprefix(unquote(page.folder.as_uri()) + "/") for url in page.requested
    }


def dialog_title(page: Any) -> str:
    wait_until(page, "document.querySelector('dialog').open")
    text: str = page.locator("#mixture-title").inner_text()
    return text


# What is written


def test_files_of_a_page(tmp_path: Path, scores: pd.DataFrame) -> None:
    """The page and the library of its charts, the same each time."""
    pages = [write_page(tmp_path / name, full(scores, {})) for name in ("a", "b")]
    assert pages[0] == tmp_path / "a" / "index.html"
    for page in pages:
        assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "vega.js"]
    for name in ("index.html", "vega.js"):
        first, second = ((page.parent / name).read_bytes() for page in pages)
        assert first == second


def test_page_without_charts_is_one_file(tmp_path: Path) -> None:
    write_page(tmp_path, PageContent("nothing yet", [Section("Result", [], empty="Nothing ran.")]))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("end", ["<main", "</script>\n</body>", 'id="contents">{'])
def test_damaged_page_says_so(browser: Any, tmp_path: Path, end: str) -> None:
    content = PageContent("damaged", [Section("Result", [], empty="Nothing ran.")])
    written = write_page(tmp_path, content)
    text = written.read_text("utf-8")
    written.write_text(text[: text.index(end)], "utf-8")
    page = browser.new_page()
    page.goto(written.as_uri())
    page.get_by_text("This page is damaged: a part of the file is missing").wait_for(timeout=5000)
    page.close()


def test_row_that_does_not_fit_its_table() -> None:
    with pytest.raises(ValueError, match=r"Counts: .* does not have 2 cells"):
        Table([Column("a"), Column("b")], [["only one"]], "Counts")


# How it opens


def test_time_to_open(whole: Any) -> None:
    assert whole.locator("#rows tbody tr").count() == 512
    # Milliseconds, with room for other work on the same machine.
    assert whole.evaluate("report.usable") < 3000
    seen = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    asked = "performance.getEntriesByType('resource').find(e => e.name.endsWith('vega.js'))"
    assert whole.evaluate(seen) < 3000
    assert whole.evaluate(f"({asked})?.startTime ?? Infinity") > whole.evaluate("report.usable")


def test_page_fits_its_window(whole: Any) -> None:
    drawn = whole.locator("[data-chart] svg")
    assert drawn.count() == whole.locator("[data-chart]").count() == 11
    svgs = "[...document.querySelectorAll('[data-chart] svg')].map(e => e.getBoundingClientRect())"
    for width, scheme in ((400, "light"), (800, "dark"), (1400, "light"), (400, "dark")):
        whole.emulate_media(color_scheme=scheme)
        whole.set_viewport_size({"width": width, "height": 900})
        # Charts follow the width of the window.
        wait_until(whole, f"{svgs}.every(box => box.right <= {width})")
        assert whole.evaluate("document.documentElement.scrollWidth") <= width
        whole.evaluate("report.open(0)")
        dialog_title(whole)
        assert whole.evaluate("document.querySelector('dialog').scrollWidth") <= width
        whole.locator("dialog #close").click()


def test_colours_of_charts(whole: Any) -> None:
    paths = "[...document.querySelectorAll('#failures svg .mark-rect path')]"
    fills = f"new Set({paths}.map(path => getComputedStyle(path).fill))"
    assert whole.evaluate(f"[...{fills}]") == ["rgb(0, 114, 178)"]
    whole.emulate_media(color_scheme="dark")
    assert whole.evaluate(f"[...{fills}]") == ["rgb(86, 180, 233)"]
    texts = "document.querySelector('#failures svg .mark-text text')"
    assert whole.evaluate(f"getComputedStyle({texts}).fill") == "rgb(163, 165, 170)"


def test_page_without_its_library(open_page: Any) -> None:
    some = made_up_scores(5)
    content = PageContent("charts", [mixture_section(some, {}), failure_section(some, {})])
    page = open_page(content)
    (page.folder / "vega.js").unlink()
    page.reload()
    page.evaluate("report.charts")
    missing = page.get_by_text("The chart library vega.js is missing")
    assert missing.count() == page.locator("[data-chart]").count() == 3
    assert page.locator("#rows tbody tr").count() == 10
    assert any("ERR_FILE_NOT_FOUND" in mistake for mistake in page.mistakes)
    page.mistakes.clear()


def test_print(whole: Any) -> None:
    # A4 without margins of 1 cm, in CSS pixels.
    whole.set_viewport_size({"width": 718, "height": 1047})
    whole.emulate_media(media="print")
    for name in ("rows", "parameter-rows"):
        box = f"document.getElementById('{name}').parentElement"
        assert whole.evaluate(f"{box}.scrollHeight <= {box}.clientHeight + 1")
        assert whole.evaluate(f"{box}.scrollWidth <= {box}.clientWidth + 1")
    assert not whole.locator("nav").is_visible()


def test_page_without_javascript(open_page: Any) -> None:
    content = full(made_up_scores(5), {})
    page = open_page(content, charts=False, java_script_enabled=False)
    for text in ("+6.76", "Ideal ratio masks", "this report are better", "train.epochs"):
        assert page.get_by_text(text).first.is_visible()
    assert page.locator("noscript p").is_visible()


# What it shows


def test_numbers(whole: Any) -> None:
    result = whole.locator("#result").inner_text()
    for text in ("7.10 dB", "median 6.92", "\u22120.34 dB", "+6.76 dB"):
        assert text in result
    assert "Means over the sources of 256 mixtures; 0 silent estimates." in result
    assert "3 mixtures could not be measured" in result
    assert "2\ta source is silent" in result
    assert "Only 24 of 30 videos" in whole.locator("#warnings").inner_text()
    located = whole.locator("#localization").inner_text()
    assert "Number of regions is correct\t37 %\t37 %\t37 %\t37 %" in located
    assert "SDR improvement\t\u22121.00" in located
    assert "train\t312.2\t28.6 MiB" in whole.locator("#timing").inner_text()
    assert "found\t4\u202f300" in whole.locator("#data").inner_text()
    denoise = whole.locator("#denoise").inner_text()
    assert "Chosen: wiener, power 2, frames 3, iterations 5; best of 40" in denoise
    assert "wiener (chosen)\tpower 2, frames 3, iterations 5\t7.31\t+0.21 [+0.15" in denoise
    assert "over 150 held-out mixtures" in denoise
    assert whole.locator("#denoise .emphasized").count() == 1


def test_comparison_names_its_revision_and_time(whole: Any) -> None:
    text = whole.locator("#comparison").inner_text()
    when = f"Compared with {HEAD}, when this report was written on {WRITTEN}"
    assert f"{when}: the results of this report are better." in text
    assert re.search(r"This report\s+1b5ed50", text)
    assert "SDR\t7.10\t6.40\t+0.70 [+0.41, +0.98]" in text
    silent = "Silent estimates: 3 in this report, unknown in 1b5ed50."
    assert (
        f"Paired over the 256 mixtures in both. {silent} Note: sar is left out: no value." in text
    )
    assert f"Written on {WRITTEN} on host A, from {HEAD}." in whole.locator("header").inner_text()


def test_glossary(whole: Any) -> None:
    terms = whole.locator("#glossary dt").all_inner_texts()
    assert {"Mask", "Region", "Component", "SDR", "SIR", "SAR", "SI-SDR"} <= set(terms)
    assert whole.locator("nav a[href='#glossary']").count() == 1


def test_empty_sections(open_page: Any) -> None:
    content = PageContent(
        "empty",
        [
            Section("Result", [], empty="Training failed: the loss was not finite."),
            mixture_section(made_up_scores(5)[:0], {}),
            failure_section(made_up_scores(5)[:0], {}),
            scale_section([], 0, is_held_out=False),
            Section("Parameters", [ParameterTable([Parameter("seed", "1")], HEAD)]),
            Section("Data", [Table([Column("a")], [], "Nothing")]),
        ],
    )
    page = open_page(content)
    said = page.locator("main").inner_text()
    for text in (
        "Training failed: the loss was not finite.",
        "No mixture could be measured.",
        "None differs from commit 1b5ed50",
        "No rows.",
    ):
        assert text in said
    assert page.locator("#timing").count() == 0
    links = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert links == [
        "#result",
        "#mixtures",
        "#failures",
        "#scale",
        "#parameters",
        "#data",
        "#glossary",
    ]
    assert page.locator("section h2").count() == len(links)


def test_numbers_that_are_not_finite(open_page: Any) -> None:
    nan, infinite = float("nan"), float("inf")
    row = {"mixture": 0, "category": "tuba", "video": "a", "sdr_mixture": nan}
    scores = pd.DataFrame([row | {"sdr": nan, "sir": 2.0, "sar": infinite}])
    points = [(0, 1.0), (1, nan), (2, infinite), (3, None)]
    sweep, held_out = denoise_tables()
    sweep["sdr_change"], held_out["sdr_change"] = nan, nan
    content = PageContent(
        "diverged",
        [
            Section("Result", [[Figure("SDR", nan, None, "decibels")]]),
            scale_section([Step("Model", "model", "", nan, None, nan)], 1, is_held_out=False),
            Section(
                "Training",
                [
                    curve_chart("Loss", "loss", {"loss": points}),
                    curve_chart("Validation loss", "loss", {"loss": [(0, nan)]}),
                ],
            ),
            mixture_section(scores, {}),
            failure_section(scores, {}),
            denoise_section(denoise_metrics(), sweep, held_out),
        ],
    )
    page = open_page(content)
    said = page.locator("main").inner_text()
    assert "3 of 4 values are not finite and left out." in said
    assert "No value is finite." in said
    assert "\u2013 dB" in said
    assert page.locator("[data-chart]").count() == page.locator("[data-chart] svg").count() == 1
    assert page.locator("#rows thead th").all_inner_texts()[3:] == ["SIR"]
    assert counted(page) == "1 of 1 sources, in 1 of 1 mixture"


def test_hostile_names_are_text(open_page: Any) -> None:
    row = {"mixture": 7, "category": HOSTILE, "video": HOSTILE, "sdr": 1.0, "sdr_mixture": np.nan}
    sweep, held_out = denoise_tables()
    series = {HOSTILE: [(1, 1.0), (2, None)], "b": [(1, 2.0)]}
    table = Table([Column(HOSTILE)], [[HOSTILE]], HOSTILE, HOSTILE)
    page = open_page(
        PageContent(
            HOSTILE,
            [
                Section("Result", [[Figure(HOSTILE, 1.0, 1.0, "change")]], title=HOSTILE),
                scale_section([Step(HOSTILE, "model", HOSTILE, 1.0, None, None)], 1, False),
                Section("Comparison", comparison_blocks(made_up_comparison(), HOSTILE, HOSTILE)),
                Section("Training", [curve_chart(HOSTILE, HOSTILE, series)]),
                mixture_section(pd.DataFrame([row, row]), {}),
                failure_section(pd.DataFrame([row, row]), HOSTILE_FILES),
                denoise_section(denoise_metrics(HOSTILE), sweep, held_out),
                Section("Localization", [table, Text(HOSTILE), Chart(HOSTILE, None, HOSTILE)]),
                Section(
                    "Parameters",
                    [ParameterTable([Parameter(HOSTILE, HOSTILE, HOSTILE, HOSTILE)], HOSTILE)],
                ),
                Section("Data", [], empty=HOSTILE),
            ],
            origin=HOSTILE,
            warnings=[HOSTILE],
        )
    )
    assert page.locator("title").text_content() == HOSTILE
    assert page.locator("body b").count() == 0
    assert page.locator("script").count() == 4
    assert cells(page, 1) == cells(page, 2) == [HOSTILE, HOSTILE]
    addresses = page.eval_on_selector_all(".sounds audio", "all => all.map(audio => audio.src)")
    assert len(addresses) == 5
    assert all(address.startswith(page.folder.as_uri() + "/") for address in addresses)
    assert page.locator(".sounds figcaption").nth(1).text_content() == f"{HOSTILE}, separated"
    page.evaluate("report.open(7)")
    dialog_title(page)
    assert page.locator("dialog h3").first.text_content() == HOSTILE
    assert page.locator("[data-chart] svg").count() == page.locator("[data-chart]").count()
    page.locator("dialog #close").click()
    page.locator("#filters").get_by_label("Category").select_option(label=HOSTILE)
    assert counted(page) == "2 of 2 sources, in 1 of 1 mixture"


# The table of mixtures


def test_sorting(tables: Any) -> None:
    """The first click on a column sorts up, the second one down; missing values come last."""
    headings = tables.locator("#rows thead th")
    assert headings.count() == 3 + len(MEASURE_NAMES)
    tables.get_by_role("button", name="Best first").click()
    for column in range(headings.count()):
        for direction in ("ascending", "descending"):
            headings.nth(column).locator("button").click()
            sorts = [heading.get_attribute("aria-sort") for heading in headings.all()]
            expected: list[str | None] = [None] * len(sorts)
            expected[column] = direction
            # Sorted by SDR, the best first, a click on SDR sorts up.
            assert sorts == expected
            down = direction == "descending"
            if column in (1, 2):
                texts = cells(tables, column)
                assert texts == sorted(texts, reverse=down)
                continue
            values = numbers(tables, column)
            existing = [value for value in values if value is not None]
            assert existing == sorted(existing, reverse=down)
            assert values[: len(existing)] == existing
            assert (len(existing) < len(values)) == (column == 9)


def test_worst_and_best_first(tables: Any) -> None:
    for name, sdr in (("Worst", tables.scores["sdr"].min()), ("Best", tables.scores["sdr"].max())):
        tables.get_by_role("button", name=f"{name} first").click()
        assert numbers(tables, 3)[0] == pytest.approx(sdr, abs=0.006)


def test_filters(tables: Any) -> None:
    rows = tables.scores.to_dict("records")
    others = {number: set(some["category"]) for number, some in tables.scores.groupby("mixture")}

    def expect(wanted: Callable[[dict[str, Any]], bool]) -> None:
        expected = [(row["mixture"], row["video"]) for row in rows if wanted(row)]
        assert 0 < len(expected) < len(rows)
        names = zip(numbers(tables, 0), cells(tables, 2), strict=True)
        assert [(int(number or 0), video) for number, video in names] == expected
        assert counted(tables).startswith(f"{len(expected)} of 120 sources")
        tables.get_by_role("button", name="Show all").click()
        wait_until(tables, "document.querySelectorAll('#rows tbody tr').length === 120")

    filters = tables.get_by_role("search", name="Mixtures")
    filters.get_by_label("Category").select_option(label="tuba")
    expect(lambda row: row["category"] == "tuba")

    filters.get_by_label("mixed with").select_option(label="tuba")
    expect(lambda row: row["category"] != "tuba" and "tuba" in others[row["mixture"]])

    filters.get_by_label("Category").select_option(label="tuba")
    filters.get_by_label("mixed with").select_option(label="cello")
    expect(lambda row: others[row["mixture"]] == {"tuba", "cello"})

    filters.get_by_label("from").fill("3")
    filters.get_by_label("to", exact=True).fill("8.5")
    expect(lambda row: 3 <= row["sdr"] <= 8.5)

    filters.get_by_label("Measure").select_option(label="Denoised SDR")
    filters.get_by_label("from").fill("-100")
    expect(lambda row: not np.isnan(row["sdr_denoised"]))

    filters.get_by_label("Find").fill("TUBA 7")
    expect(lambda row: "tuba" in row["video"] and "7" in f"{row['mixture']} {row['video']}")

    filters.get_by_label("Only with sounds").check()
    expect(lambda row: row["mixture"] < SHOWN)

    filters.get_by_label("Find").fill("no such thing")
    assert counted(tables) == "0 of 120 sources, in 0 of 60 mixtures"


# One mixture


def test_files_are_loaded_when_their_mixture_opens(whole: Any) -> None:
    assert whole.loaded_first == {"index.html", "vega.js"}
    whole.requested.clear()
    whole.get_by_role("button", name="Open mixture 1, with sounds").first.click()
    images = "[...document.querySelectorAll('dialog img')]"
    of_mixture, of_sources = whole.files[1]
    paths = {path for files in (of_mixture, *of_sources) for path in files.values()}
    ends = (".png", ".flac", ".mp4")
    pictures, sounds, videos = ({path for path in paths if path.endswith(end)} for end in ends)
    # Two of the pictures stand for the videos until these are played.
    assert (len(pictures), len(sounds), len(videos)) == (16, 7, 2)
    ready = f"{images}.length === 14 && {images}.every(i => i.complete && i.naturalWidth)"
    wait_until(whole, ready)
    whole.wait_for_timeout(300)
    assert loaded(whole) == pictures
    for kind, files, seconds in (("audio", sounds, SECONDS), ("video", videos, VIDEO_SECONDS)):
        found = whole.locator(f"dialog {kind}")
        assert found.count() == len(files)
        for k in range(found.count()):
            found.nth(k).evaluate(
                """media => new Promise((resolve, reject) => {
                  media.addEventListener("loadedmetadata", resolve);
                  media.addEventListener("error", () => reject(media.error.message));
                  media.preload = "metadata";
                })"""
            )
            duration = found.nth(k).evaluate("media => media.duration")
            assert duration == pytest.approx(seconds, abs=0.05)
    sources = whole.evaluate(
        "[...document.querySelectorAll('dialog [src], dialog [poster]')]"
        ".flatMap(e => [e.src, e.poster]).filter(Boolean)"
    )
    prefix = unquote(whole.folder.as_uri()) + "/"
    assert {unquote(url).removeprefix(prefix) for url in sources} == pictures | sounds | videos
    assert loaded(whole) <= pictures | sounds | videos
    whole.locator("dialog #close").click()
    assert whole.locator("dialog audio, dialog video, img").count() == 0


def test_playing(tables: Any) -> None:
    """One sound plays at a time, and moves a line over its spectrogram."""
    tables.evaluate("report.open(0)")
    tables.locator("dialog .box").first.click()
    first = "document.querySelectorAll('dialog audio')[0]"
    second = "document.querySelectorAll('dialog audio')[1]"
    wait_until(tables, f"{first}.currentTime > 0.4 * {SECONDS}")
    wait_until(tables, "parseFloat(document.querySelector('.playhead').style.left) > 40")
    tables.evaluate(f"{second}.play()")
    wait_until(tables, f"{first}.paused && !{second}.paused")


def test_link_to_the_pixel_player(tables: Any) -> None:
    tables.evaluate("report.open(2)")
    tables.get_by_role("link", name="Pixel player").click()
    assert tables.title() == "A player"
    tables.go_back()
    assert dialog_title(tables).startswith("Mixture 2: ")


def test_address_of_a_mixture(tables: Any) -> None:
    """The address opens a mixture, and the way back closes it."""
    tables.evaluate("location.hash = 'mixture-4'")
    assert dialog_title(tables).startswith("Mixture 4: ")
    assert "No sounds or pictures" in tables.locator("dialog").inner_text()
    tables.get_by_role("button", name="Next").click()
    wait_until(tables, "location.hash === '#mixture-5'")
    assert dialog_title(tables).startswith("Mixture 5: ")
    tables.go_back()
    wait_until(tables, "!document.querySelector('dialog').open")
    tables.evaluate("location.hash = 'mixture-999'")
    assert not tables.locator("dialog").is_visible()


def test_order_of_previous_and_next(tables: Any) -> None:
    tables.get_by_role("search", name="Mixtures").get_by_label("Find").fill("cello 1")
    tables.get_by_role("button", name="Worst first").click()
    order = list(dict.fromkeys(map(int, (number or 0 for number in numbers(tables, 0)))))
    assert len(order) > 3
    tables.locator("#rows tbody button").first.click()
    for number in order:
        assert dialog_title(tables).startswith(f"Mixture {number}: ")
        tables.keyboard.press("ArrowRight")
    assert tables.get_by_role("button", name="Next").is_disabled()
    tables.keyboard.press("ArrowLeft")
    wait_until(tables, f"location.hash === '#mixture-{order[-2]}'")


def test_dot_of_the_scatter_plot(whole: Any) -> None:
    """It shows its name and opens its mixture."""
    dot = whole.locator("#failures svg .mark-symbol path").last
    dot.scroll_into_view_if_needed()
    dot.hover()
    wait_until(whole, "!document.getElementById('tip').hidden")
    tip = whole.locator("#tip").inner_text()
    assert "mixture" in tip and "video" in tip
    dot.click()
    dialog_title(whole)


def test_tooltip_of_a_box(whole: Any) -> None:
    """It shows the method, and numbers of at most two decimals."""
    box = whole.locator("#denoise svg [aria-label*='Median of change']").first
    box.scroll_into_view_if_needed()
    box.hover()
    wait_until(whole, "!document.getElementById('tip').hidden")
    tip = whole.locator("#tip").inner_text()
    assert "method" in tip and "Median of change of SDR, dB" in tip
    assert "place" not in tip
    assert not re.search(r"\d\.\d{3}", tip)


# What it explains


def test_first_screen_has_something_to_hear(whole: Any) -> None:
    for width, height in ((390, 844), (1400, 900)):
        whole.set_viewport_size({"width": width, "height": height})
        whole.evaluate("scrollTo(0, 0)")
        boxes = [one.bounding_box() for one in whole.locator("#result .sounds audio").all()]
        assert len(boxes) == 5
        assert sum(box["y"] + box["height"] <= height for box in boxes) >= 2
    # Nothing is loaded before it is played.
    assert whole.locator("audio:not([preload=none])").count() == 0
    assert "Protocol: this one." in whole.locator("#result").inner_text()


def test_meaning_of_a_name(whole: Any) -> None:
    """It is shown under the mouse, with the focus and on a tap, also in the dialog."""
    tip = whole.locator("#tip")
    name = whole.locator("#result .term", has_text="SIR")
    name.hover()
    assert tip.inner_text() == TERMS["SIR"]
    whole.mouse.move(0, 0)
    assert tip.is_hidden()
    name.focus()
    assert tip.inner_text() == TERMS["SIR"]
    whole.keyboard.press("Escape")
    assert tip.is_hidden()
    whole.locator("#rows thead button", has_text="SAR").dispatch_event("click")
    assert tip.inner_text() == TERMS["SAR"]
    whole.locator("h1").dispatch_event("click")
    assert tip.is_hidden()
    whole.evaluate("report.open(0)")
    dialog_title(whole)
    whole.locator("dialog .term", has_text="SI-SDR").first.dispatch_event("click")
    assert whole.locator("dialog #tip").inner_text() == TERMS["SI-SDR"]
    assert whole.locator("#denoise thead .term").first.inner_text() == "SDR"


def test_tables_that_scroll_say_so(whole: Any) -> None:
    place = whole.locator(".scroll", has=whole.locator("#rows"))
    more = whole.locator(".scroll:has(#rows) + .more")
    wait_until(whole, "document.querySelector('.scroll:has(#rows) + .more').hidden")
    whole.set_viewport_size({"width": 390, "height": 844})
    more.wait_for()
    assert more.inner_text() == "more columns \u2192"
    assert "more-right" in (place.get_attribute("class") or "")
    place.evaluate("place => place.scrollTo(place.scrollWidth, 0)")
    wait_until(whole, "document.querySelector('.scroll:has(#rows)').matches('.more-left')")
    assert "more-right" not in (place.get_attribute("class") or "")
    assert more.inner_text() == "\u2190 more columns"
    place.evaluate("place => place.scrollTo(0, 0)")


def test_axes_and_colours_of_pictures(whole: Any) -> None:
    whole.evaluate("report.open(0)")
    dialog_title(whole)
    figures = whole.locator("dialog figure", has=whole.locator(".axes"))
    # The mixture and the weights; of two sources three sounds and two masks.
    assert figures.count() == 12
    for k in range(12):
        figure = figures.nth(k)
        assert figure.locator(".hertz span").all_inner_texts() == ["100 Hz", "1 kHz"]
        assert figure.locator(".seconds span").all_inner_texts() == ["0 s", "0.5 s"]
    keys = whole.locator("dialog .keyed > span").all_inner_texts()
    assert sum("\u221260 dB" in key for key in keys) == 7
    maps = whole.eval_on_selector_all(
        "dialog .colours", "all => all.map(one => getComputedStyle(one).backgroundImage)"
    )
    assert len(maps) == 14 and all("linear-gradient" in one for one in maps)
    box = figures.first.locator(".box").bounding_box()
    label = figures.first.locator(".seconds span").nth(1).bounding_box()
    assert label["x"] == pytest.approx(box["x"] + 0.6 * box["width"], abs=1.5)
    hertz = figures.first.locator(".hertz span").nth(1).bounding_box()
    assert hertz["y"] + hertz["height"] == pytest.approx(box["y"] + box["height"] / 2, abs=1.5)


# With the keyboard


def test_keyboard(tables: Any) -> None:
    tables.evaluate("document.activeElement.blur(); document.querySelector('.skip').focus()")
    assert tables.locator(".skip").bounding_box()["x"] >= 0
    tables.keyboard.press("Enter")
    wait_until(tables, "document.activeElement.id === 'main'")
    tables.locator("#rows thead button").nth(3).focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tables.evaluate(outline) != "none"
    tables.keyboard.press("Enter")
    assert tables.locator("#rows thead th").nth(3).get_attribute("aria-sort") == "ascending"
    tables.keyboard.press(" ")
    assert tables.locator("#rows thead th").nth(3).get_attribute("aria-sort") == "descending"
    opener = tables.locator("#rows tbody button").nth(2)
    opener.focus()
    number = opener.inner_text()
    tables.keyboard.press("Enter")
    wait_until(tables, "document.activeElement.id === 'mixture-title'")
    assert dialog_title(tables).startswith(f"Mixture {number}: ")
    tables.keyboard.press("Escape")
    wait_until(tables, "!document.querySelector('dialog').open")
    assert tables.evaluate("document.activeElement.value") == number


def test_whatever_scrolls_can_be_focused(whole: Any) -> None:
    assert whole.locator(".scroll:not([tabindex='0'])").count() == 0
    assert whole.evaluate("document.querySelectorAll('a, button, input')[0].className") == "skip"


def test_search_in_parameters(tables: Any) -> None:
    rows = tables.locator("#parameter-rows tbody tr:visible")
    assert rows.count() == 90
    find = tables.get_by_role("search", name="Parameters").get_by_label("Find")
    find.fill("key_4")
    assert rows.count() == 11
    find.fill("how often")
    assert [text.split() for text in rows.all_inner_texts()] == [
        ["train.epochs", "5", "3", "how", "often"]
    ]
    find.fill("")
    tables.get_by_label(f"Only the 3 that differ from {HEAD}").check()
    texts = rows.all_inner_texts()
    assert len(texts) == 3
    assert "not set" in texts[1] and "removed" in texts[2]
    assert tables.locator("#parameter-count").inner_text() == "3 of 90"
