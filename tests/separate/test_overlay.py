import numpy as np
import pytest

from sop.player.colours import COLOURS, hex_colour
from sop.separate.activity import Activity
from sop.separate.overlay import light_up


def lit(brightness: np.ndarray, level: int = 128) -> np.ndarray:
    """A grey picture whose regions are lit."""
    grey = np.full((60, 80, 3), level, np.uint8)
    return light_up(grey, brightness.astype(np.float32)).astype(int)


def test_dark_and_grey_without_sound() -> None:
    colourful = np.zeros((60, 80, 3), np.uint8)
    colourful[..., 1] = 200
    picture = light_up(colourful, np.zeros((2, 3, 4), np.float32))
    assert picture.shape == colourful.shape
    assert picture.dtype == np.uint8
    assert np.ptp(picture) <= 1
    assert 0 < picture.max() < 80
    assert np.unique(lit(np.zeros((0, 2, 2)), level=100)).tolist() == [40]


def test_regions_are_lit_in_their_colours() -> None:
    brightness = np.zeros((2, 3, 4))
    brightness[0, :, 0] = 1
    brightness[1, :, 3] = 1
    picture = lit(brightness)
    left, middle, right = picture[30, 3], picture[30, 40], picture[30, 76]
    assert left[0] > 150 > left[2]
    assert right[2] > 150 > right[0]
    assert np.ptp(middle) <= 30
    assert middle.max() < left.max()


def test_overlapping_regions_mix() -> None:
    brightness = np.full((2, 3, 4), 7.0)
    both = lit(brightness, level=0)
    expected = 0.25 * (np.array(COLOURS[0]) + COLOURS[1])
    assert both[30, 40].tolist() == pytest.approx(expected, abs=1)
    assert lit(-brightness, level=100)[30, 40].tolist() == [40, 40, 40]


def test_colours_repeat() -> None:
    count = len(COLOURS)
    brightness = np.zeros((count + 1, 2, 2))
    brightness[count] = 1
    picture = lit(brightness, level=0)
    assert picture[30, 40].tolist() == pytest.approx(np.array(COLOURS[0]) / 2, abs=1)
    assert hex_colour(count) == hex_colour(0) == "#e69f00"


def test_loudness_is_interpolated_between_frames() -> None:
    levels = np.array([[0, 1, 0], [5, 5, 5]], np.float32)
    activity = Activity(levels, hop_seconds=1.0, seconds=3.0, silence_energy=0.0)
    times = (0.0, 0.25, 0.5, 1.0, 1.75, 2.0, 9.0)
    loudness = [activity.loudness_at(time).tolist() for time in times]
    assert loudness == [[0], [0.25], [0.5], [1], [0.25], [0], [0]]
