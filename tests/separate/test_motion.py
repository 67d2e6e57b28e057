"""Two people who look alike and speak in turns: only their motion tells who is heard."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.media.decoding import probe
from sop.media.ffmpeg import Limits
from sop.model.motion import ENVELOPES, LEAD, MAPS, TAIL
from sop.params import Params
from sop.separate.separation import SeparationOptions, write_separation
from sop.separate.video import read_pictures
from tests.support.experiment import with_values
from tests.support.pages import check, click, open_written, samples, wait_until
from tests.support.planted import (
    COLUMNS,
    HIGH_CELLS,
    LOW_CELLS,
    LOW_HZ,
    OPEN,
    RATE,
    ROWS,
    Outputs,
    PlantedSeparator,
    film,
    separator_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 4.0
LEVEL = 0.2
LIMITS = Limits(60.0)


class Talkers(PlantedSeparator):
    """Equal features everywhere; the person on the left moves first, then the other, and so on."""

    def __init__(self, separator: Separator) -> None:
        super().__init__(separator, self._same_for_all)

    def _same_for_all(self, starts: list[int]) -> Outputs:
        spectrogram, mixture = self.params.spectrogram, self.params.mixture
        channels, rows = self.params.model.channels, spectrogram.stft_frame // 2 + 1
        window = 1 + mixture.audio_samples // spectrogram.stft_hop
        maps = np.zeros((len(starts), channels + MAPS, rows, window), np.float32)
        # The weight of the first map is the loudness at the same moment.
        maps[:, channels] = OPEN
        return maps, np.zeros((len(starts), ROWS, COLUMNS, channels), np.float32)

    def run_motion(self, recording: Recording, first: int, count: int, shape: Any) -> np.ndarray:
        frames = np.arange(first - LEAD, first + count + TAIL)
        left_speaks = (frames * self.params.spectrogram.stft_hop / RATE) % 2 < 1
        cells = np.zeros((ENVELOPES, len(frames), *shape), np.float32)
        cells[0] = -1
        for patch, speaks in ((LOW_CELLS, left_speaks), (HIGH_CELLS, ~left_speaks)):
            cells[(0, slice(None), *patch)] = np.where(speaks, 1, -1)[:, None, None]
        return cells


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory, planted_params: Params) -> Path:
    """The folder of a separation with a page: region numbers are those of left and right."""
    folder = tmp_path_factory.mktemp("talkers")
    # One voice all the time.
    video = film(folder / "talkers.mp4", f"{LEVEL}*sin(2*PI*{LOW_HZ}*t)", SECONDS)
    values = {"extract.motion_rate": 12.0, "model.motion": "synchrony"}
    separator = separator_of(with_values(planted_params, values))
    torch.nn.init.zeros_(separator.player.synthesizer.bias)
    taps = torch.zeros_like(separator.player.synchrony.filter.weight)
    taps[0, 0, LEAD] = 1
    separator.player.synchrony.filter.weight = torch.nn.Parameter(taps)
    out = folder / "out"
    write_separation(video, out, Talkers(separator), SeparationOptions(page_seconds=SECONDS))
    return out


@pytest.fixture(scope="module")
def described(separated: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((separated / "regions.json").read_text("utf-8"))
    return values


@pytest.fixture(scope="module")
def page(browser: Any, separated: Path) -> Iterator[Any]:
    opened = open_written(browser.new_context(), separated / "page" / "index.html")
    yield opened
    check(opened)
    opened.close()


def sides(described: dict[str, Any]) -> tuple[int, int]:
    """Indices of the left and of the right region."""
    first, second = described["regions"]
    return (0, 1) if first["centre"]["x"] < second["centre"]["x"] else (1, 0)


def levels(sound: np.ndarray, rate: int) -> np.ndarray:
    """Amplitude in the middle of each second."""
    middles = [sound[int((n + 0.25) * rate) : int((n + 0.75) * rate)] for n in range(int(SECONDS))]
    return np.array([np.sqrt(2 * np.square(part).mean()) for part in middles])


def test_sound_of_each_talker_follows_its_turns(separated: Path, described: dict[str, Any]) -> None:
    assert len(described["regions"]) == 2
    for k, turns in zip(sides(described), ([1, 0, 1, 0], [0, 1, 0, 1]), strict=True):
        sound, rate = soundfile.read(separated / described["regions"][k]["file"])
        np.testing.assert_allclose(levels(sound, rate), LEVEL * np.array(turns), atol=2e-3)


def test_description_says_who_speaks_when(described: dict[str, Any]) -> None:
    left, right = sides(described)
    ends = [
        [at for interval in described["regions"][k]["sounds"] for at in interval] for k in (0, 1)
    ]
    np.testing.assert_allclose(ends[left], [0, 1, 2, 3], atol=0.06)
    np.testing.assert_allclose(ends[right], [1, 2, 3, 4], atol=0.06)
    loudness = described["loudness"]
    assert loudness["values_per_second"] == 10
    assert len(loudness["rest"]) == 40
    values = np.array(loudness["regions"])
    full = 20 * np.log10(LEVEL)
    for k, first in ((left, 0), (right, 10)):
        for begin in (first, first + 20):
            np.testing.assert_allclose(values[k, begin + 2 : begin + 8], full, atol=0.6)
            assert values[1 - k, begin + 2 : begin + 8].max() < full - 40


def test_overlay_shows_who_speaks(separated: Path, described: dict[str, Any]) -> None:
    overlay = separated / "overlay.mp4"
    pictures = list(read_pictures(overlay, probe(overlay, LIMITS), 2.0, None, LIMITS))
    height, width = pictures[0].shape[:2]
    row, columns = height // 2, (int(0.19 * width), int(0.81 * width))
    # Picture n is at second (n + 0.5) / 2; a lit patch has the colours of the picture, and others
    # are grey.
    lit = [[np.ptp(picture[row, x].astype(int)) > 30 for x in columns] for picture in pictures]
    assert lit[1] == lit[4] == lit[5] == [True, False]
    assert lit[2] == lit[3] == lit[6] == [False, True]


def test_page_plays_each_talker(page: Any) -> None:
    for x, y, turns in ((0.1, 0.6, [1, 0, 1, 0]), (0.9, 0.1, [0, 1, 0, 1])):
        click(page, x, y)
        wait_until(page, f"player.selected().column === {int(x * COLUMNS)}")
        found = levels(samples(page, "player.selected().samples"), RATE)
        np.testing.assert_allclose(found, LEVEL * np.array(turns), atol=4e-3)


def test_volume_on_the_page_is_that_of_one_talker(page: Any, described: dict[str, Any]) -> None:
    left, right = sides(described)
    for k, turn in ((left, 0), (right, 1)):
        slider = page.get_by_role("slider", name=f"Volume of Region {k + 1}")
        slider.fill("0.25")
        assert page.locator(".card output").nth(k).inner_text() == "25%"
        quiet, loud = (level_at(page, turn + 0.5), level_at(page, 1.5 - turn))
        np.testing.assert_allclose(quiet, 0.25 * LEVEL / np.sqrt(2), rtol=0.1)
        np.testing.assert_allclose(loud, LEVEL / np.sqrt(2), rtol=0.1)
        slider.fill("1")


def level_at(page: Any, seconds: float) -> float:
    """Play from shortly before a moment, and return the level of the output there."""
    page.evaluate("document.querySelector('video').playbackRate = 0.5")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        page.evaluate(f"document.querySelector('video').currentTime = {seconds - 0.3}")
        page.evaluate("player.play()")
        before = -1.0
        for _ in range(30):
            page.wait_for_timeout(40)
            level, now, drift = page.evaluate(
                "[player.level(), document.querySelector('video').currentTime, player.drift()]"
            )
            # A steady level, in time: a busy machine starts the sound late.
            steady = abs(level - before) < 0.02 * level
            if abs(now - seconds - 0.1) < 0.15 and abs(drift) < 0.06 and steady:
                return float(level)
            before = level
    raise AssertionError(f"the sound was never in time at {seconds} s")


def test_heat_of_the_page_shows_who_speaks(page: Any) -> None:
    page.evaluate("player.pause()")
    opacity = """async ([seconds, ...columns]) => {
      const [video] = document.getElementsByTagName("video");
      const sought = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
      video.currentTime = seconds;
      await sought;
      const context = document.getElementById("overlay").getContext("2d");
      return columns.map((column) => context.getImageData(column, 1, 1, 1).data[3]);
    }"""
    for turn in range(4):
        shown = page.evaluate(opacity, [turn + 0.5, 1, 6])
        heard, other = shown if turn % 2 == 0 else shown[::-1]
        assert heard > 150
        assert other < 60
    # Discard the browser's warnings about reading the canvas.
    page.mistakes.clear()
