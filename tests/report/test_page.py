import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from PIL import Image

from sop.denoise.bootstrap import Interval
from sop.report.page import (
    Absent,
    Column,
    Comparison,
    Curve,
    Denoise,
    DenoiseMethod,
    Difference,
    Headline,
    Mixture,
    MixtureFiles,
    PageContent,
    Parameter,
    Parameters,
    Scale,
    Source,
    SourceFiles,
    Step,
    Summary,
    Sweep,
    Table,
    write_page,
)
from tests.support.pages import make_video

SECONDS = 1.5
VIDEO_SECONDS = 2.0
RATE = 11025
SHOWN = 3
CATEGORIES = ("accordion", "acoustic_guitar", "cello", "flute", "tuba", "xylophone")
TRIED = {"lms": -0.1, "nlms": 0.02, "rls": 0.05, "renormalise": 0.1, "wiener": 0.21}
HOSTILE = '</script><script>document.title="taken"</script>"\'&<b>\u2028 \u00e9\u4e2d'

Open = Callable[..., Any]


def shown_files(folder: Path, number: int, sources: int) -> tuple[MixtureFiles, list[SourceFiles]]:
    """Small real files of a mixture, all that there can be; names that addresses must escape."""
    place = folder / f"{number:03d} #1 é%"
    place.mkdir(parents=True)
    made = {"png": place / "a.png", "flac": place / "a.flac"}
    random = np.random.default_rng(number)
    picture = random.integers(0, 255, (64, 96)).astype(np.uint8)
    Image.fromarray(picture).save(made["png"])
    time = np.arange(int(RATE * SECONDS)) / RATE
    soundfile.write(made["flac"], 0.2 * np.sin(2 * np.pi * 440 * time), RATE)
    made["mp4"] = make_video(place / "a.mp4", VIDEO_SECONDS)
    (place / "index.html").write_text("<title>A player</title>")

    def named(name: str, kind: str) -> str:
        copy = place / f"{name}.{kind}"
        shutil.copyfile(made[kind], copy)
        return copy.relative_to(folder).as_posix()

    def of_source(k: int) -> SourceFiles:
        kinds = {"true": "flac", "separated": "flac", "denoised": "flac", "video": "mp4"}
        names = [field.name for field in fields(SourceFiles)]
        return SourceFiles(**{name: named(f"{k}-{name}", kinds.get(name, "png")) for name in names})

    files = MixtureFiles(
        sound=named("mixture", "flac"),
        spectrogram=named("mixture", "png"),
        weighting=named("weighting", "png"),
        player=(place / "index.html").relative_to(folder).as_posix(),
    )
    found = files, [of_source(k) for k in range(sources)]
    for path in made.values():
        path.unlink()
    return found


def made_up_mixtures(folder: Path, count: int, shown: int = SHOWN) -> list[Mixture]:
    random = np.random.default_rng(0)
    mixtures = []
    for number in range(count):
        pair = random.choice(len(CATEGORIES), 2, replace=False)
        files, of_sources = MixtureFiles(), [SourceFiles(), SourceFiles()]
        if number < shown:
            files, of_sources = shown_files(folder, number, 2)
        sources = []
        for k, category in enumerate(pair):
            mixed = float(random.normal(0, 4))
            gain = float(random.gamma(4, 1.7) + category - 3)
            values: dict[str, float | None] = {
                "sdr": mixed + gain,
                "sir": mixed + gain + float(random.gamma(3)),
                "sar": mixed + gain + float(random.gamma(6)),
                "si_sdr": mixed + gain - 2.5,
                "sdr_mixture": mixed,
                "sdr_improvement": gain,
                "sdr_denoised": None if number % 5 else mixed + gain + 0.1,
            }
            name = CATEGORIES[category]
            video = f"{name}/{name}_{random.integers(80):03d}"
            sources.append(Source(name, video, values, of_sources[k]))
        mixtures.append(Mixture(number, sources, files))
    return mixtures


def full(folder: Path, count: int = 256, shown: int = SHOWN) -> PageContent:
    """Every section with something in it."""
    random = np.random.default_rng(1)
    steps = np.arange(1400)
    loss = 0.3 * np.exp(-steps / 400) + 0.15 + random.normal(0, 0.01, len(steps))
    epochs = range(280, 1401, 280)
    quality = {
        name: [(epoch, high * (1 - 0.8 ** (k + 1))) for k, epoch in enumerate(epochs)]
        for name, high in (("SDR", 9), ("SIR", 12), ("SAR", 16))
    }
    changes = {name: random.normal(mean, 0.4, 150) for name, mean in TRIED.items()}
    methods = [
        DenoiseMethod(
            name,
            "taps 64, rate 0.01",
            {"sdr": 7.1 + values.mean(), "sir": 10 + 2 * values.mean()},
            {
                "sdr": Interval(values.mean(), values.mean() - 0.06, values.mean() + 0.07),
                "sir": Interval(2 * values.mean(), -0.1, 0.3),
            },
            list(values),
            chosen=name == "wiener",
        )
        for name, values in changes.items()
    ]
    grid = [(t, r, float(random.normal(0, 0.3))) for t in (4, 16, 64, 128) for r in (1e-3, 1e-2, 1)]
    parameters = [Parameter(f"train.key_{k}", f"{k / 7:.3g}", None, "a meaning") for k in range(90)]
    parameters[3] = Parameter("train.epochs", "5", "3", "how often")
    parameters[5] = Parameter("train.new", "[1, 2]", "", "steps")
    parameters[7] = Parameter("train.gone", "", "null")
    count_column = Column("videos", "count")
    return PageContent(
        title="longer-training",
        revision="main 1b5ed50, with changes; 21 November 2026, 18:40 UTC",
        warnings=["Only 24 of 30 videos of tuba could be had.", "The page of mixture 7 is old."],
        headline=Headline(
            {
                "sdr": Summary(7.1, 6.92),
                "sir": Summary(10.0, 9.38),
                "sar": Summary(13.69, 12.98),
                "si_sdr": Summary(4.59, 4.09),
                "sdr_mixture": Summary(-0.34, 0.36),
                "sdr_improvement": Summary(6.76, 5.6),
            },
            count,
            {"a source is silent": 2, "an estimate is silent": 1},
        ),
        scale=Scale(
            [
                Step(
                    "Mixture itself", {"sdr": 0.34, "sir": 0.35, "sar": 40.1}, note="nothing done"
                ),
                Step("Model", {"sdr": 7.1, "sir": 10.0, "sar": 13.69}, "model", "this one"),
                Step("Model, denoised", {"sdr": 7.31, "sir": 10.3, "sar": 13.1}, "model"),
                Step("Ideal binary masks", {"sdr": 13.2, "sir": 22.9, "sar": 14.0}),
                Step("Ideal ratio masks", {"sdr": 14.4, "sir": 20.5, "sar": 15.6}, note="the best"),
            ],
            "Ideal masks are made from the true sources.",
        ),
        comparison=Comparison(
            "main",
            256,
            [
                Difference("SDR", 7.1, 6.4, Interval(0.7, 0.41, 0.98)),
                Difference("SIR", 10.0, 10.1, Interval(-0.1, -0.5, 0.3)),
                Difference("loss", 0.17, None, None),
            ],
            "SDR is surely better, by 0.41 dB or more; SIR is about the same.",
        ),
        curves=[
            Curve("Training loss", "loss", {"loss": list(zip(steps.tolist(), loss, strict=True))}),
            Curve("Validation loss", "loss", {"loss": [(e, 0.3 - e / 9999) for e in epochs]}),
            Curve("Validation SDR, SIR, SAR", "dB", quality),
            Curve(
                "Learning rate", "", {"sound net": [(s, 3e-3 * 0.99 ** (s / 10)) for s in epochs]}
            ),
        ],
        mixtures=made_up_mixtures(folder, count, shown),
        denoise=Denoise(
            "wiener, frames 3",
            "best of 40 on 60 mixtures for tuning: SDR +0.21 dB (+0.12 to +0.30)",
            150,
            {"sdr": 7.1, "sir": 10.0},
            methods,
            [
                Sweep("lms", "taps", "rate", grid),
                Sweep("rls", "taps", "forgetting", [(t, r, -v) for t, r, v in grid]),
                Sweep("renormalise", "power", "", [(1.0, None, 0.1), (2.0, None, None)]),
            ],
            "LMS rates that would diverge were brought down.",
        ),
        localization=[
            Table(
                [Column("scenes"), Column("right number", "share"), Column("SDR, dB", "decibels")],
                [["silence", 1.0, None], ["solo", 0.97, 12.3], ["one player mute", 0.37, -1.0]],
                note="Over 30 scenes of each kind.",
            )
        ],
        parameters=Parameters(parameters),
        data=[
            Table([Column("videos"), count_column], [["found", 430], ["gone", 12]], "Videos"),
            Table([Column("left out because"), count_column], [["silent", 3]]),
        ],
        timing=[
            Table(
                [Column("stage"), Column("seconds", "seconds"), Column("leaves", "bytes")],
                [["train", 312.25, 3e7], ["evaluate", 90.5, 1.2e8]],
            ),
            Table([Column("of"), Column("is")], [["torch", "2.15.0"], ["processor", "made up"]]),
        ],
    )


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Any:
    """Write a page and open it from its file; nothing may go wrong or leave the folder."""
    pages = []
    folder = tmp_path / "a report"

    def opened(content: PageContent, wait: bool = True, **options: Any) -> Any:
        written = write_page(folder, content)
        page = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}} | options
        ).new_page()
        page.mistakes, page.requested = [], []
        page.on("console", lambda said: page.mistakes.append(said.text))
        page.on("pageerror", lambda error: page.mistakes.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(written.as_uri())
        if wait:
            page.evaluate("report.charts")
        page.folder = folder
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert page.mistakes == []
        inside = (folder.as_uri() + "/", "data:")
        assert [url for url in page.requested if not url.startswith(inside)] == []
        page.context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a report"


def cells(page: Any, column: int) -> list[str]:
    """Texts of a column of the table of mixtures, from top to bottom."""
    rows = "[...document.querySelectorAll('#rows tbody tr')]"
    found: list[str] = page.evaluate(f"{rows}.map(row => row.cells[{column}].innerText)")
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
    """What was asked for since `page.requested` was emptied."""
    return {
        unquote(url).removeprefix(unquote(page.folder.as_uri()) + "/") for url in page.requested
    }


def files_of(mixture: Mixture) -> tuple[set[str], set[str], set[str]]:
    """Pictures, sounds and videos of a mixture."""
    every = [mixture.files, *(source.files for source in mixture.sources)]
    paths = {path for files in every for path in vars(files).values() if path}
    ends = (".png", ".flac", ".mp4")
    pictures, sounds, videos = ({path for path in paths if path.endswith(end)} for end in ends)
    return pictures, sounds, videos


# What is written


def test_page_needs_the_library_of_charts_beside_it_and_nothing_else(folder: Path) -> None:
    page = write_page(folder, full(folder, 3, shown=0))
    assert page == folder / "index.html"
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "vega.js"]


def test_page_without_charts_is_one_file(folder: Path) -> None:
    write_page(folder, PageContent("nothing yet", headline=Absent("Nothing ran.")))
    assert [path.name for path in folder.iterdir()] == ["index.html"]


def test_same_content_makes_the_same_files(folder: Path, tmp_path: Path) -> None:
    content = full(folder, 20, shown=0)
    written = [write_page(tmp_path / name, content).parent for name in ("a", "b")]
    for name in ("index.html", "vega.js"):
        first, second = ((place / name).read_bytes() for place in written)
        assert first == second


@pytest.mark.parametrize("path", ["../a.png", "/etc/hosts", "a/../../a.png", "..\\a.png"])
def test_file_outside_the_folder_is_refused(folder: Path, path: str) -> None:
    mixture = Mixture(4, [], MixtureFiles(spectrogram=path))
    with pytest.raises(ValueError, match=r"mixture 4: .* is not inside the folder"):
        write_page(folder, PageContent("t", mixtures=[mixture]))


def test_file_that_is_not_there_is_refused(folder: Path) -> None:
    mixture = Mixture(4, [Source("a", "b", {}, SourceFiles(true="none.flac"))])
    with pytest.raises(ValueError, match=r"mixture 4: .*none\.flac is not there"):
        write_page(folder, PageContent("t", mixtures=[mixture]))


def test_row_that_does_not_fit_its_table_is_refused(folder: Path) -> None:
    table = Table([Column("a"), Column("b")], [["only one"]], "Counts")
    with pytest.raises(ValueError, match=r"Counts: .* has not 2 cells"):
        write_page(folder, PageContent("t", data=[table]))


# How it opens


def test_page_of_256_mixtures_opens_soon(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder))
    assert page.locator("#rows tbody tr").count() == 512
    # Milliseconds; other work may be going on beside this.
    assert page.evaluate("report.usable") < 3000
    seen = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    asked = "performance.getEntriesByType('resource').find(e => e.name.endsWith('vega.js'))"
    assert page.evaluate(seen) < 3000
    assert page.evaluate(f"({asked})?.startTime ?? Infinity") > page.evaluate("report.usable")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_page_fits_its_window(open_page: Open, folder: Path, width: int, scheme: str) -> None:
    content = full(folder, 40, shown=1)
    page = open_page(content, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.locator("[data-chart] svg")
    assert drawn.count() == page.locator("[data-chart]").count() == 12
    for box in (drawn.nth(k).bounding_box() for k in range(drawn.count())):
        assert box["width"] <= width and box["x"] + box["width"] <= width
    page.evaluate("report.open(0)")
    wait_until(page, "document.querySelector('dialog').open")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width


def test_charts_follow_the_ground(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=0), color_scheme="light")
    paths = "[...document.querySelectorAll('#mixtures svg .mark-rect path')]"
    fills = f"new Set({paths}.map(path => getComputedStyle(path).fill))"
    assert page.evaluate(f"[...{fills}]") == ["rgb(0, 114, 178)"]
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(f"[...{fills}]") == ["rgb(86, 180, 233)"]
    texts = "document.querySelector('#mixtures svg .mark-text text')"
    assert page.evaluate(f"getComputedStyle({texts}).fill") == "rgb(163, 165, 170)"


def test_page_without_its_library_says_so(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=0))
    (folder / "vega.js").unlink()
    page.reload()
    page.evaluate("report.charts")
    assert page.get_by_text("The file vega.js").count() == page.locator("[data-chart]").count()
    assert page.locator("#rows tbody tr").count() == 10
    assert any("ERR_FILE_NOT_FOUND" in mistake for mistake in page.mistakes)
    page.mistakes.clear()


def test_page_prints_whole_tables(open_page: Open, folder: Path) -> None:
    # A4 less margins of 1 cm, in CSS pixels.
    page = open_page(full(folder, 40, shown=0), viewport={"width": 718, "height": 1047})
    page.emulate_media(media="print")
    for name in ("rows", "parameter-rows"):
        box = f"document.getElementById('{name}').parentElement"
        assert page.evaluate(f"{box}.scrollHeight <= {box}.clientHeight + 1")
        assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth + 1")
    assert not page.locator("nav").is_visible()


def test_page_says_what_it_can_without_a_script(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=0), wait=False, java_script_enabled=False)
    for text in ("+6.76", "Ideal ratio masks", "SDR is surely better", "train.epochs"):
        assert page.get_by_text(text).first.is_visible()
    assert page.locator("noscript p").is_visible()


# What it says


def test_numbers_are_there(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=0))
    result = page.locator("#result").inner_text()
    for text in ("7.10 dB", "median 6.92", "\u22120.34 dB", "+6.76 dB", "5 mixtures. 3 could not"):
        assert text in result
    assert "2 a source is silent" in " ".join(result.split())
    assert "+0.70 [+0.41, +0.98]" in page.locator("#comparison").inner_text()
    assert "Only 24 of 30 videos" in page.locator("#warnings").inner_text()
    assert "one player mute\t37 %\t\u22121.00" in page.locator("#localization").inner_text()
    assert "train\t312.2\t28.6 MiB" in page.locator("#timing").inner_text()
    denoise = page.locator("#denoise").inner_text()
    assert "Chosen: wiener, frames 3" in denoise
    assert "wiener (chosen)" in denoise


def test_empty_sections_say_why_and_those_left_out_are_not_there(open_page: Open) -> None:
    content = PageContent(
        "empty",
        headline=Absent("Training failed: the loss was not finite."),
        curves=[],
        mixtures=[],
        denoise=Denoise("none", "denoise.method is none", 0, {}, []),
        comparison=Comparison("main", 0, [], "Nothing to compare."),
        localization=Absent("No scene is known."),
        parameters=Parameters([Parameter("seed", "1")]),
        data=[Table([Column("a")], [], "Nothing")],
    )
    page = open_page(content)
    said = page.locator("main").inner_text()
    for text in (
        "Training failed: the loss was not finite.",
        "No training curve was written.",
        "No mixture was evaluated.",
        "No method was tried.",
        "Nothing to compare.",
        "No scene is known.",
        "Nothing to count.",
        "All as in git HEAD.",
    ):
        assert text in said
    assert page.locator("#scale, #timing").count() == 0
    links = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert "#scale" not in links and "#result" in links
    assert page.locator("section h2").count() == len(links)


def test_numbers_that_are_not_finite_are_told_and_not_drawn(open_page: Open) -> None:
    nan, infinite = float("nan"), float("inf")
    content = PageContent(
        "diverged",
        headline=Headline({"sdr": Summary(nan, None)}, 1),
        scale=Scale([Step("Model", {"sdr": nan}, "model")]),
        curves=[
            Curve("Loss", "loss", {"loss": [(0, 1.0), (1, nan), (2, infinite), (3, None)]}),
            Curve("Validation loss", "loss", {"loss": [(0, nan)]}),
        ],
        mixtures=[Mixture(0, [Source("tuba", "a", {"sdr": nan, "sir": 2.0, "sar": infinite})])],
        denoise=Denoise("none", "", 0, {}, [], [Sweep("lms", "taps", "rate", [(4, 0.1, nan)])]),
    )
    page = open_page(content)
    said = page.locator("main").inner_text()
    assert "3 of 4 values are not finite; they are gaps." in said
    assert "It has no finite value." in said
    assert "\u2013 dB" in said
    assert page.locator("[data-chart]").count() == page.locator("[data-chart] svg").count() == 1
    assert page.locator("#rows thead th").all_inner_texts()[3:] == ["SIR"]


def test_hostile_names_are_text(open_page: Open, folder: Path) -> None:
    source = Source(HOSTILE, HOSTILE, {"sdr": 1.0, "sdr_mixture": float("nan")})
    curve = Curve(HOSTILE, HOSTILE, {HOSTILE: [(1, 1.0), (2, None)], "b": [(1, 2.0)]})
    table = Table([Column(HOSTILE)], [[HOSTILE]], HOSTILE, HOSTILE)
    interval = Interval(1, 0, 2)
    page = open_page(
        PageContent(
            title=HOSTILE,
            revision=HOSTILE,
            warnings=[HOSTILE],
            headline=Headline({}, 1, {HOSTILE: 1}),
            scale=Scale([Step(HOSTILE, {"sdr": 1.0}, note=HOSTILE)], HOSTILE),
            comparison=Comparison(
                HOSTILE, 1, [Difference(HOSTILE, 1, 1, interval)], HOSTILE, HOSTILE
            ),
            curves=[curve],
            mixtures=[Mixture(7, [source, source])],
            denoise=Denoise(
                HOSTILE,
                HOSTILE,
                1,
                {"sdr": 1.0},
                [DenoiseMethod(HOSTILE, HOSTILE, {"sdr": 2.0}, {"sdr": interval}, [0.1, 0.2])],
                [Sweep(HOSTILE, HOSTILE, HOSTILE, [(1, 1, 1.0)])],
                HOSTILE,
            ),
            localization=[table],
            parameters=Parameters([Parameter(HOSTILE, HOSTILE, HOSTILE, HOSTILE)], HOSTILE),
            data=Absent(HOSTILE),
        )
    )
    assert page.locator("title").text_content() == HOSTILE
    assert page.locator("body b").count() == 0
    assert page.locator("script").count() == 3
    assert cells(page, 1) == cells(page, 2) == [HOSTILE, HOSTILE]
    page.evaluate("report.open(7)")
    wait_until(page, "document.querySelector('dialog').open")
    assert page.locator("dialog h3").first.text_content() == HOSTILE
    assert page.locator("[data-chart] svg").count() == page.locator("[data-chart]").count()
    page.locator("dialog #close").click()
    page.locator("#filters").get_by_label("Category").select_option(label=HOSTILE)
    assert counted(page) == "2 of 2 sources, in 1 of 1 mixtures"


# The table of mixtures


def test_rows_are_sorted_by_each_column_with_what_is_missing_last(
    open_page: Open, folder: Path
) -> None:
    page = open_page(full(folder, 60, shown=0))
    buttons = page.locator("#rows thead button")
    assert buttons.count() == 10
    for column in range(buttons.count()):
        button = buttons.nth(column)
        heading = page.locator("#rows thead th").nth(column)
        # The first click on what is sorted already turns it around.
        for _ in range(2):
            button.click()
            direction = heading.get_attribute("aria-sort")
            down = direction == "descending"
            assert down or direction == "ascending"
            assert page.locator("#rows [aria-sort]").count() == 1
            if column in (1, 2):
                texts = cells(page, column)
                assert texts == sorted(texts, reverse=down)
                continue
            values = numbers(page, column)
            there = [value for value in values if value is not None]
            assert there == sorted(there, reverse=down)
            assert values[: len(there)] == there
            assert (len(there) < len(values)) == (column == 9)


def test_worst_and_best_come_first(open_page: Open, folder: Path) -> None:
    content = full(folder, 60, shown=0)
    page = open_page(content)
    assert not isinstance(content.mixtures, Absent) and content.mixtures
    sdr = [source.measures["sdr"] or 0 for one in content.mixtures for source in one.sources]
    page.get_by_role("button", name="Worst first").click()
    assert numbers(page, 3)[0] == pytest.approx(min(sdr), abs=0.006)
    page.get_by_role("button", name="Best first").click()
    assert numbers(page, 3)[0] == pytest.approx(max(sdr), abs=0.006)


def test_rows_are_filtered(open_page: Open, folder: Path) -> None:
    content = full(folder, 100, shown=2)
    page = open_page(content)
    mixtures = content.mixtures
    assert not isinstance(mixtures, Absent) and mixtures
    rows = [(one, source) for one in mixtures for source in one.sources]

    def shown() -> list[tuple[int, str]]:
        names = zip(numbers(page, 0), cells(page, 2), strict=True)
        return [(int(number or 0), video) for number, video in names]

    def expect(wanted: Callable[[Mixture, Source], bool]) -> None:
        expected = [(one.number, source.video) for one, source in rows if wanted(one, source)]
        assert 0 < len(expected) < len(rows)
        assert shown() == expected
        assert counted(page).startswith(f"{len(expected)} of 200 sources")
        page.get_by_role("button", name="Show all").click()
        wait_until(page, "document.querySelectorAll('#rows tbody tr').length === 200")

    filters = page.get_by_role("search", name="Mixtures")
    filters.get_by_label("Category").select_option(label="tuba")
    expect(lambda _, source: source.category == "tuba")

    filters.get_by_label("mixed with").select_option(label="tuba")
    expect(lambda one, source: any(s.category == "tuba" for s in one.sources if s is not source))

    filters.get_by_label("Category").select_option(label="tuba")
    filters.get_by_label("mixed with").select_option(label="cello")
    expect(lambda one, _: {source.category for source in one.sources} == {"tuba", "cello"})

    filters.get_by_label("from").fill("3")
    filters.get_by_label("to", exact=True).fill("8.5")
    expect(lambda _, source: 3 <= (source.measures["sdr"] or 0) <= 8.5)

    filters.get_by_label("Measure").select_option(label="Denoised SDR")
    filters.get_by_label("from").fill("-100")
    expect(lambda _, source: source.measures["sdr_denoised"] is not None)

    filters.get_by_label("Find").fill("TUBA 7")
    expect(lambda one, s: "tuba" in s.video and "7" in f"{one.number} {s.video}")

    filters.get_by_label("Only with sounds").check()
    expect(lambda one, _: one.shown)


def test_filters_that_fit_nothing_say_so(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=0))
    page.get_by_role("search", name="Mixtures").get_by_label("Find").fill("no such thing")
    assert counted(page) == "0 of 10 sources, in 0 of 5 mixtures"


# One mixture


def test_files_are_loaded_when_their_mixture_is_opened_and_not_before(
    open_page: Open, folder: Path
) -> None:
    content = full(folder, 30)
    mixtures = content.mixtures
    assert not isinstance(mixtures, Absent) and mixtures
    page = open_page(content)
    page.locator("#rows").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert loaded(page) == {"index.html", "vega.js"}
    page.requested.clear()
    page.get_by_role("button", name="Open mixture 1, with sounds").first.click()
    images = "[...document.querySelectorAll('dialog img')]"
    pictures, sounds, videos = files_of(mixtures[1])
    # Two pictures stand for the videos until they are played.
    assert (len(pictures), len(sounds), len(videos)) == (16, 7, 2)
    wait_until(page, f"{images}.length === 14 && {images}.every(i => i.complete && i.naturalWidth)")
    page.wait_for_timeout(300)
    assert loaded(page) == pictures
    for kind, files, seconds in (("audio", sounds, SECONDS), ("video", videos, VIDEO_SECONDS)):
        found = page.locator(f"dialog {kind}")
        assert found.count() == len(files)
        for k in range(found.count()):
            found.nth(k).evaluate(
                """media => new Promise((resolve, reject) => {
                  media.addEventListener("loadedmetadata", resolve);
                  media.addEventListener("error", () => reject(media.error.message));
                  media.preload = "metadata";
                })"""
            )
            assert found.nth(k).evaluate("media => media.duration") == pytest.approx(
                seconds, abs=0.05
            )
    sources = page.evaluate(
        "[...document.querySelectorAll('dialog [src], dialog [poster]')]"
        ".flatMap(e => [e.src, e.poster]).filter(Boolean)"
    )
    prefix = unquote(page.folder.as_uri()) + "/"
    assert {unquote(url).removeprefix(prefix) for url in sources} == pictures | sounds | videos
    assert loaded(page) <= pictures | sounds | videos
    page.locator("dialog #close").click()
    assert page.locator("audio, video, img").count() == 0


def test_sound_plays_alone_and_moves_a_line_over_its_spectrogram(
    open_page: Open, folder: Path
) -> None:
    page = open_page(full(folder, 3))
    page.evaluate("report.open(0)")
    page.locator("dialog .box").first.click()
    first = "document.querySelectorAll('dialog audio')[0]"
    second = "document.querySelectorAll('dialog audio')[1]"
    wait_until(page, f"{first}.currentTime > 0.4 * {SECONDS}")
    wait_until(page, "parseFloat(document.querySelector('.playhead').style.left) > 40")
    page.evaluate(f"{second}.play()")
    wait_until(page, f"{first}.paused && !{second}.paused")


def test_link_opens_the_pixel_player(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 3))
    page.evaluate("report.open(2)")
    page.get_by_role("link", name="Pixel player").click()
    assert page.title() == "A player"
    page.go_back()
    wait_until(page, "document.querySelector('dialog').open")


def test_address_opens_a_mixture_and_the_way_back_closes_it(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 10, shown=0))
    page.evaluate("location.hash = 'mixture-4'")
    wait_until(page, "document.querySelector('dialog').open")
    assert page.locator("#mixture-title").inner_text().startswith("Mixture 4: ")
    assert "No sounds or pictures" in page.locator("dialog").inner_text()
    page.get_by_role("button", name="Next").click()
    wait_until(page, "location.hash === '#mixture-5'")
    assert page.locator("#mixture-title").inner_text().startswith("Mixture 5: ")
    page.go_back()
    wait_until(page, "!document.querySelector('dialog').open")
    page.evaluate("location.hash = 'mixture-999'")
    assert not page.locator("dialog").is_visible()


def test_one_moves_between_mixtures_in_the_order_of_the_table(
    open_page: Open, folder: Path
) -> None:
    page = open_page(full(folder, 10, shown=0))
    page.get_by_role("button", name="Worst first").click()
    order = list(dict.fromkeys(map(int, (number or 0 for number in numbers(page, 0)))))
    page.locator("#rows tbody button").first.click()
    for number in order:
        assert page.locator("#mixture-title").inner_text().startswith(f"Mixture {number}: ")
        page.keyboard.press("ArrowRight")
    assert page.get_by_role("button", name="Next").is_disabled()
    page.keyboard.press("ArrowLeft")
    wait_until(page, f"location.hash === '#mixture-{order[-2]}'")


def test_dot_of_the_scatter_plot_tells_its_name_and_opens_its_mixture(
    open_page: Open, folder: Path
) -> None:
    page = open_page(full(folder, 3, shown=0))
    dot = page.locator("#mixtures svg .mark-symbol path").first
    dot.scroll_into_view_if_needed()
    dot.hover()
    wait_until(page, "!document.getElementById('tip').hidden")
    tip = page.locator("#tip").inner_text()
    assert "mixture" in tip and "video" in tip
    dot.click()
    wait_until(page, "document.querySelector('dialog').open")


# With the keyboard


def test_all_can_be_done_with_the_keyboard(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 5, shown=1))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    wait_until(page, "document.activeElement.id === 'main'")
    page.locator("#rows thead button").nth(3).focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"
    page.keyboard.press("Enter")
    assert page.locator("#rows thead th").nth(3).get_attribute("aria-sort") == "ascending"
    page.keyboard.press(" ")
    assert page.locator("#rows thead th").nth(3).get_attribute("aria-sort") == "descending"
    opener = page.locator("#rows tbody button").nth(2)
    opener.focus()
    number = opener.inner_text()
    page.keyboard.press("Enter")
    wait_until(page, "document.activeElement.id === 'mixture-title'")
    assert page.locator("#mixture-title").inner_text().startswith(f"Mixture {number}: ")
    page.keyboard.press("Escape")
    wait_until(page, "!document.querySelector('dialog').open")
    assert page.evaluate("document.activeElement.value") == number
    # Whatever scrolls can be reached.
    assert page.locator(".scroll:not([tabindex='0'])").count() == 0


def test_parameters_are_found(open_page: Open, folder: Path) -> None:
    page = open_page(full(folder, 3, shown=0))
    rows = page.locator("#parameter-rows tbody tr:visible")
    assert rows.count() == 90
    find = page.get_by_role("search", name="Parameters").get_by_label("Find")
    find.fill("key_4")
    assert rows.count() == 11
    find.fill("how often")
    assert [text.split() for text in rows.all_inner_texts()] == [
        ["train.epochs", "5", "3", "how", "often"]
    ]
    find.fill("")
    page.get_by_label("Only the 3 that differ from git HEAD").check()
    texts = rows.all_inner_texts()
    assert len(texts) == 3
    assert "not there" in texts[1] and "gone" in texts[2]
    assert page.locator("#parameter-count").inner_text() == "3 of 90"
