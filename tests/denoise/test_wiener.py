import numpy as np
import pytest
from numpy.testing import assert_allclose

from sop.denoise.wiener import em_wiener, renormalised


@pytest.fixture
def masks() -> np.ndarray:
    return np.random.default_rng(0).random((3, 20, 12)).astype(np.float32)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 8.0])
def test_renormalised_masks_sum_to_one_and_keep_their_order(masks, power) -> None:
    shared = renormalised(masks, power)
    assert_allclose(shared.sum(axis=0), 1, rtol=1e-6)
    assert (shared.argsort(axis=0) == masks.argsort(axis=0)).all()


def test_powers_one_and_two(masks) -> None:
    assert_allclose(renormalised(masks, 1.0), masks / masks.sum(axis=0), rtol=1e-5)
    assert_allclose(renormalised(masks, 2.0), masks**2 / (masks**2).sum(axis=0), rtol=1e-5)


def test_a_large_power_gives_a_bin_to_its_largest_mask(masks) -> None:
    shared = renormalised(masks.astype(np.float64), 1e6)
    assert np.isfinite(shared).all()
    assert_allclose(shared, masks == masks.max(axis=0), atol=0.05)


def test_bins_of_zero_masks_stay_zero() -> None:
    masks = np.zeros((2, 3, 4), np.float32)
    masks[0, 0, 0] = 1e-6
    shared = renormalised(masks, 4.0)
    assert shared[0, 0, 0] == pytest.approx(1)
    assert shared.sum() == pytest.approx(1)


def test_wiener_filters_are_between_zero_and_one(masks) -> None:
    power = np.random.default_rng(1).random((20, 12))
    filters = em_wiener(renormalised(masks, 2.0), power, frames=3, iterations=4)
    assert_allclose(filters.sum(axis=0), 1, rtol=1e-6)
    assert filters.min() >= 0


def test_one_frame_is_a_fixed_point(masks) -> None:
    """With a variance for each bin alone, the iterations change nothing."""
    shares = renormalised(masks, 2.0).astype(np.float64)
    power = 0.1 + np.random.default_rng(1).random((20, 12))
    assert_allclose(em_wiener(shares, power, frames=1, iterations=5), shares, atol=1e-6)


def test_wrong_bin_of_a_steady_note_is_corrected() -> None:
    """Two notes of one frequency each; the mask of one is wrong in a single frame."""
    shares = np.zeros((2, 2, 15))
    shares[0, 0], shares[1, 1] = 0.95, 0.95
    shares[0, 1], shares[1, 0] = 0.05, 0.05
    shares[:, 0, 7] = [0.2, 0.8]
    filters = em_wiener(shares, np.ones((2, 15)), frames=5, iterations=10)
    assert filters[0, 0, 7] > 0.7
    assert filters[0, 0, 2] > 0.9


def test_level_does_not_matter_and_silence_is_finite(masks) -> None:
    shares = renormalised(masks, 2.0)
    power = np.random.default_rng(1).random((20, 12))
    filters = em_wiener(shares, power, 3, 2)
    assert_allclose(em_wiener(shares, 1e-9 * power, 3, 2), filters, atol=1e-6)
    silent = em_wiener(shares, np.zeros((20, 12)), 3, 2)
    assert np.isfinite(silent).all()
