"""What the page offers to a listener, in Chromium and in Firefox, at three widths."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sop.player.player import write_player
from tests.support.pages import (
    HIGH_LEVEL,
    LOW_LEVEL,
    RATE,
    check,
    click,
    noise,
    open_in,
    samples,
    tones,
    wait_for_level,
    wait_until,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

MIXTURE_LEVEL = float(np.hypot(LOW_LEVEL, HIGH_LEVEL))
NOTES = ("Regions 1 and 2 sound alike.", "</script><b>Most</b> of the energy is in the rest.")
WIDTHS = {390: 800, 800: 900, 1400: 900}

VIDEO = "document.querySelector('video')"
# Elements of the picture with a frame around them, and the picture itself.
FRAMES = """[...document.querySelectorAll("#picture, #picture *")].filter((element) =>
  element.getClientRects().length && getComputedStyle(element).outlineStyle !== "none")
  .map((element) => element.id)"""


@pytest.fixture(scope="module")
def shared_page(
    any_browser: Any, tmp_path_factory: pytest.TempPathFactory, video: Path
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("controls")
    (folder / "index.html").write_text("<title>The report</title>", "utf-8")
    clip = replace(tones(), notes=NOTES, report="../../index.html#mixture-3")
    page = open_in(any_browser.new_context(), folder / "1" / "player", clip, video)
    yield page
    page.close()


@pytest.fixture(params=WIDTHS.items(), ids=map(str, WIDTHS))
def wide_page(request: pytest.FixtureRequest, page: Any) -> Any:
    """The page in a window of each width."""
    width, height = request.param
    page.set_viewport_size({"width": width, "height": height})
    return page


@pytest.fixture
def page(shared_page: Any) -> Iterator[Any]:
    """The page of `tones` with notes and a report, with all controls in their initial state."""
    page = shared_page
    page.set_viewport_size({"width": 1400, "height": 900})
    page.evaluate(
        """() => {
          player.pause();
          player.repeatAll();
          for (const k of [0, 1, 2]) {
            player.setGain(k, 1);
            player.setMuted(k, false);
            player.setSolo(k, false);
          }
          document.querySelector("video").currentTime = 0;
          document.activeElement.blur();
          scrollTo(0, 0);
        }"""
    )
    page.mouse.move(0, 0)
    yield page
    check(page)


def text(page: Any, selector: str) -> str:
    """Return what is shown in an element, empty if it is hidden."""
    shown = page.locator(selector)
    return str(shown.inner_text()) if shown.is_visible() else ""


def select(page: Any, x: float, y: float) -> None:
    """Click in the picture and wait for the place."""
    row, column = int(2 * y), int(4 * x)
    click(page, x, y)
    wait_until(page, f"player.selected().row === {row} && player.selected().column === {column}")


def wait_for_frames(page: Any, *expected: list[str]) -> None:
    """Wait until the elements with a frame are those of one of the lists."""
    wait_until(page, f"{json.dumps(expected)}.some((ids) => String(ids) === String({FRAMES}))")


def test_play_is_always_in_view(wide_page: Any) -> None:
    page = wide_page
    window = page.viewport_size
    # The page grows while its pictures are drawn.
    page.wait_for_function(
        """() => {
          const height = document.documentElement.scrollHeight;
          const settled = window.earlierHeight === height;
          window.earlierHeight = height;
          return settled;
        }""",
        polling=300,
    )
    places = page.evaluate(
        """() => {
          const places = [];
          const last = document.documentElement.scrollHeight - innerHeight;
          for (const share of [0, 0.3, 0.6, 1]) {
            scrollTo(0, share * last);
            const box = document.getElementById("play").getBoundingClientRect();
            const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            places.push([box.top, box.bottom, box.left, box.right, seen.id]);
          }
          return places;
        }"""
    )
    for top, bottom, left, right, seen in places:
        assert 0 <= top < bottom <= window["height"]
        assert 0 <= left < right <= window["width"]
        assert seen == "play"
    # Nothing is hidden behind the bar at the end of the page, or wider than the window.
    bar, about = (page.locator(name).bounding_box() for name in ("#bar", "#about"))
    assert about["y"] + about["height"] <= bar["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]


def test_silent_place_says_so(wide_page: Any) -> None:
    page = wide_page
    select(page, 0.9, 0.2)
    assert text(page, "#level").startswith("Silent: the model assigns no sound to this place")
    assert text(page, "#cursor span") == "silent"
    tag, picture = (page.locator(name).bounding_box() for name in ("#cursor span", "#picture"))
    assert tag["x"] >= picture["x"] - 1
    assert tag["x"] + tag["width"] <= picture["x"] + picture["width"] + 1
    assert tag["y"] + tag["height"] <= picture["y"] + picture["height"] + 1
    select(page, 0.1, 0.9)
    assert text(page, "#level") == "1 dB below the mixture, in low."
    assert text(page, "#cursor span") == ""


def test_silent_clip_says_so(any_browser: Any, tmp_path: Path, video: Path) -> None:
    clip = replace(tones(np.zeros(3 * RATE)), regions=())
    page = open_in(any_browser.new_context(), tmp_path, clip, video)
    select(page, 0.6, 0.6)
    assert text(page, "#level") == "Silent: the whole clip is silent."
    check(page)
    page.close()


def test_one_frame_in_the_picture(wide_page: Any) -> None:
    page = wide_page
    box = page.locator("#picture").bounding_box()

    def hover(x: float) -> None:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + 5)

    wait_for_frames(page, [])
    hover(0.1)
    wait_for_frames(page, ["cursor"])
    select(page, 0.6, 0.1)
    wait_for_frames(page, ["cursor"])
    # The frame stays where the place was chosen.
    hover(0.1)
    wait_for_frames(page, ["cursor"])
    frame = page.locator("#cursor").bounding_box()
    assert frame["x"] == pytest.approx(box["x"] + box["width"] / 2, abs=1)
    page.keyboard.press("ArrowLeft")
    # The picture has the focus of the keyboard.
    wait_for_frames(page, ["picture", "cursor"], ["cursor"])
    frame = page.locator("#cursor").bounding_box()
    assert frame["x"] == pytest.approx(box["x"] + box["width"] / 4, abs=1)
    assert page.locator("#pointed").text_content() == "Row 1, column 2, low"


def test_mixture_and_place_at_the_same_moment(page: Any) -> None:
    select(page, 0.1, 0.2)
    wait_for_level(page, LOW_LEVEL)
    page.evaluate(
        f"""() => {{
          window.sought = 0;
          {VIDEO}.addEventListener("seeking", () => (window.sought += {VIDEO}.currentTime > 0.2));
        }}"""
    )
    page.keyboard.press("b")
    wait_for_level(page, MIXTURE_LEVEL)
    assert text(page, "#playing") == "Mixture"
    mixture, choice = page.locator("#hear-mixture"), page.locator("#hear-choice")
    assert [mixture.get_attribute("aria-pressed"), choice.get_attribute("aria-pressed")] == [
        "true",
        "false",
    ]
    page.keyboard.press("b")
    wait_for_level(page, LOW_LEVEL)
    assert text(page, "#playing").startswith("Place in row 1, column 1")
    mixture.click()
    wait_for_level(page, MIXTURE_LEVEL)
    choice.click()
    wait_for_level(page, LOW_LEVEL)
    assert page.evaluate("window.sought") == 0


def test_mixture_and_region_at_the_same_moment(page: Any) -> None:
    page.keyboard.press("Space")
    page.keyboard.press("2")
    wait_for_level(page, HIGH_LEVEL)
    assert text(page, "#hear-choice span") == "high"
    page.keyboard.press("b")
    wait_for_level(page, MIXTURE_LEVEL)
    # A change of the remix is heard.
    page.keyboard.press("1")
    page.keyboard.press("2")
    wait_for_level(page, LOW_LEVEL)
    assert text(page, "#playing") == "Remix of the regions"


def test_nothing_to_compare(page: Any) -> None:
    page.keyboard.press("b")
    assert text(page, "#level").startswith("Choose a place or a region first")
    assert page.locator("#hear-choice").is_disabled()


def test_stretch_loops(page: Any) -> None:
    page.locator("#play").click()
    page.evaluate("player.repeat(0.5, 1.3)")
    times = page.evaluate(
        f"""async () => {{
          const times = [];
          for (const until = performance.now() + 4000; performance.now() < until;) {{
            times.push({VIDEO}.currentTime);
            await new Promise((resolve) => setTimeout(resolve, 20));
          }}
          return times;
        }}"""
    )
    assert min(times) >= 0.4
    assert max(times) < 1.3 + 0.5
    assert np.sum(np.diff(times) < -0.3) >= 2
    wait_for_level(page, MIXTURE_LEVEL)
    page.keyboard.press("x")
    wait_until(page, f"{VIDEO}.currentTime > 2")


def test_marks_of_a_stretch(page: Any) -> None:
    seek = (
        f"(at) => new Promise((done) => {{ {VIDEO}.onseeked = done; {VIDEO}.currentTime = at; }})"
    )
    page.evaluate(seek, 1.0)
    page.keyboard.press("s")
    assert text(page, "#marked") == "1.0 to 3.0 s"
    page.evaluate(seek, 2.0)
    page.get_by_role("button", name="To here").click()
    assert text(page, "#marked") == "1.0 to 2.0 s"
    page.evaluate(seek, 1.5)
    page.get_by_role("button", name="From here").click()
    assert text(page, "#marked") == "1.5 to 2.0 s"
    page.get_by_role("button", name="Whole clip").click()
    assert not page.locator(".stretch").first.is_visible()
    assert page.locator("#whole").is_disabled()


def test_drag_across_a_waveform_marks_a_stretch(wide_page: Any) -> None:
    page = wide_page
    plot = page.locator("#now .plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()

    def move(share: float) -> None:
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 10)

    move(0.5)
    page.mouse.down()
    move(0.3)
    move(0.25)
    page.mouse.up()
    assert text(page, "#marked") in ("0.7 to 1.5 s", "0.8 to 1.5 s")
    marked = page.locator("#now .stretch").bounding_box()
    assert marked["x"] == pytest.approx(box["x"] + box["width"] / 4, abs=2)
    assert marked["width"] == pytest.approx(box["width"] / 4, abs=2)
    # A click without movement goes to the moment.
    page.evaluate("player.repeatAll()")
    move(0.6)
    page.mouse.down()
    page.mouse.up()
    wait_until(page, f"Math.abs({VIDEO}.currentTime - 0.6 * 3) < 0.05")
    assert not page.locator("#now .stretch").is_visible()


def test_remix_is_saved_as_wav(
    any_browser: Any, page: Any, tmp_path: Path, firefox_downloads: Path
) -> None:
    low, high, rest = (samples(page, f"player.regionSound({k})") for k in range(3))
    page.evaluate("player.setGain(0, 0.5)")
    page.evaluate("player.setMuted(1, true)")
    button, name = page.get_by_role("button", name="Save the remix"), "Two-tones-remix.wav"
    if any_browser.browser_type.name == "firefox":
        place = firefox_downloads / name
        button.click()
        until = time.monotonic() + 20
        while not (place.exists() and place.stat().st_size == 44 + 2 * 3 * RATE):
            assert time.monotonic() < until, list(firefox_downloads.iterdir())
            page.wait_for_timeout(50)
    else:
        place = tmp_path / name
        with page.expect_download() as saved:
            button.click()
        assert saved.value.suggested_filename == name
        saved.value.save_as(place)
    audio, rate = soundfile.read(place, dtype="float32")
    assert rate == RATE
    assert len(audio) == 3 * RATE
    np.testing.assert_allclose(audio[: len(low)], 0.5 * low + rest, atol=1e-4)
    assert np.abs(audio[: len(low)] - low - high - rest).max() > 0.05


def test_notes_of_doubt_are_text(page: Any) -> None:
    assert page.locator("#doubts li").all_text_contents() == list(NOTES)
    assert page.locator("#doubts b").count() == 0
    assert page.get_by_role("complementary", name="Listen with care").count() == 1


def test_clip_without_doubts_and_report(any_browser: Any, tmp_path: Path, video: Path) -> None:
    clip = noise(seconds=1.0)
    page = open_in(any_browser.new_context(), tmp_path, clip, video)
    assert text(page, "#doubts") == ""
    assert page.locator("a").count() == 0
    # Every browser computes what the library does.
    embedding = clip.embedding
    cells = embedding.cells.reshape(-1, 12, embedding.cells.shape[-1])
    expected = embedding.sounds(embedding.masks(cells))
    for cell in (0, 9, 7):
        place = f"{(cell % 4 + 0.5) / 4}, {(cell // 4 + 0.5) / 3}"
        np.testing.assert_allclose(
            samples(page, f"player.soundAt({place})"), expected[cell], atol=2e-4
        )
    check(page)
    page.close()


def test_link_back_to_the_report(any_browser: Any, shared_page: Any) -> None:
    page = any_browser.new_page()
    page.goto((shared_page.folder / "index.html").as_uri())
    page.get_by_role("link", name="Back to the report").click()
    page.wait_for_url("**/index.html#mixture-3")
    assert page.title() == "The report"
    page.close()


@pytest.mark.parametrize(
    "report",
    [
        "https://x.test/",
        "//x.test",
        "/index.html",
        "javascript:alert(1)",
        "a b.html",
        '"',
        "",
        "..",
    ],
)
def test_report_elsewhere(tmp_path: Path, video: Path, report: str) -> None:
    with pytest.raises(ValueError, match=r"report: .* is not a relative path"):
        write_player(tmp_path / "page", replace(tones(), report=report), video)


def test_names_focus_and_announcements(page: Any) -> None:
    for element in page.locator("button, input, a").all():
        assert element.evaluate(
            """e => (e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent)
              .trim()"""
        )
    page.locator("#back a").focus()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    # A button that cannot be used is left out: there is nothing to compare yet.
    assert reached == ["play", "seek", "hear-mixture", "silence"]
    # What is chosen is announced; the time, which changes all the time, is not.
    assert page.locator("[role=status]:has(#level)").count() == 1
    assert page.locator("#time").evaluate("e => e.closest('[role=status], output') === null")
    assert page.locator("#seek").get_attribute("aria-valuetext") == "0.0 of 3.0 seconds"
    # The last control is not behind the bar when it has the focus.
    page.set_viewport_size({"width": 390, "height": 800})
    last = page.locator(".card input").last
    last.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    box, bar = last.bounding_box(), page.locator("#bar").bounding_box()
    assert box["y"] + box["height"] <= bar["y"]
