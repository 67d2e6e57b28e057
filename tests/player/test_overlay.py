import numpy as np
import pytest

from sop.player.overlay import Heat, overlaid

RED, BLUE = [255, 0, 0], [0, 0, 255]
COLOURS = np.array([RED, BLUE], np.uint8)


def shown(values: np.ndarray, level: int = 128, frames: int = 1, rate: float = 1.0) -> np.ndarray:
    """Flat grey frames under heat whose windows are centred on seconds 0.5, 1.5, …"""
    seconds = 0.5 + np.arange(values.shape[1])
    grey = [np.full((60, 80, 3), level, np.uint8)] * frames
    heat = Heat(values.astype(np.float32), seconds, COLOURS)
    return np.stack(list(overlaid(grey, rate, heat))).astype(int)


def test_where_nothing_sounds_the_picture_is_dark_and_grey() -> None:
    colourful = np.zeros((60, 80, 3), np.uint8)
    colourful[..., 1] = 200
    heat = Heat(np.zeros((2, 1, 3, 4), np.float32), np.array([0.5]))
    (frame,) = overlaid([colourful], 8, heat)
    assert frame.shape == colourful.shape
    assert frame.dtype == np.uint8
    assert np.ptp(frame) <= 1
    assert 0 < frame.max() < 80


def test_a_region_is_lit_in_its_colour_where_it_is() -> None:
    values = np.zeros((2, 1, 3, 4))
    values[0, 0, :, 0] = 1
    values[1, 0, :, 3] = 1
    (frame,) = shown(values)
    left, middle, right = frame[30, 3], frame[30, 40], frame[30, 76]
    assert left[0] > 150 > left[2]
    assert right[2] > 150 > right[0]
    assert np.ptp(middle) <= 30
    assert middle.max() < left.max()


def test_it_is_brighter_the_louder_it_is_and_smooth_between_windows() -> None:
    values = np.zeros((1, 3, 3, 4))
    values[0, 1] = 1
    red = shown(values, level=0, frames=12, rate=4)[:, 30, 40, 0]
    # Frames are on display around seconds 0.125, 0.375, …; the peak is at 1.5.
    assert red[:2].tolist() == [0, 0]
    assert np.all(np.diff(red[1:6]) > 0)
    assert np.all(np.diff(red[6:11]) < 0)
    assert red[5] == pytest.approx(127.5 * 0.875, abs=1.5)


def test_two_regions_in_one_place_mix_and_values_out_of_range_are_held() -> None:
    values = np.full((2, 1, 3, 4), 7.0)
    (both,) = shown(values, level=0)
    assert both[30, 40].tolist() == pytest.approx([64, 0, 64], abs=1)
    (none,) = shown(-values, level=100)
    assert none[30, 40].tolist() == [40, 40, 40]


def test_more_regions_than_colours_take_turns() -> None:
    values = np.zeros((3, 1, 2, 2))
    values[2] = 1
    (frame,) = shown(values, level=0)
    assert frame[30, 40].tolist() == pytest.approx([128, 0, 0], abs=1)


def test_no_region_is_a_dark_picture() -> None:
    (frame,) = shown(np.zeros((0, 1, 2, 2)), level=100)
    assert np.unique(frame).tolist() == [40]
