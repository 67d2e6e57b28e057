"""Masks that sum to one: each source's share of a bin depends on the masks of all sources.

The network predicts the mask of each source independently, so a bin may go to several sources or
to none. These masks divide the mixture among the sources instead.

Shapes: N sources, F x M frequency bins x spectrogram frames.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

Masks = NDArray[np.floating]
Power = NDArray[np.floating]

# Lower limit of divisors, which are zero for silent bins and bins where all masks are zero.
MIN_DIVISOR = 1e-12


def renormalised(masks: Masks, power: float) -> Masks:
    """Return masks that sum to one: each mask's power over the sum of the powers.

    Args:
        masks: (N, F, M), >= 0.
        power: exponent; 1 keeps the proportions, 2 makes Wiener filters of ratio masks, and larger
            values give more of a bin to the largest mask.

    Returns:
        (N, F, M); zero where all masks are zero.

    Source: Liutkus and Badeau, Generalized Wiener filtering with fractional power spectrograms,
    ICASSP 2015.
    """
    # Relative to the largest mask, so that a large power does not underflow.
    largest = np.maximum(masks.max(axis=0), MIN_DIVISOR)
    powers = (masks / largest) ** power
    shared: Masks = powers / np.maximum(powers.sum(axis=0), MIN_DIVISOR)
    return shared


def em_wiener(shares: Masks, mixture_power: Power, frames: int, iterations: int) -> Masks:
    """Return Wiener filters whose source powers are estimated by expectation-maximization.

    The bins of each source are complex Gaussians whose variance is constant over neighboring
    frames, as it is while a note lasts. So the neighbors correct a mask that is wrong in a single
    bin. The E step computes the expected power of each source given the mixture, the M step its
    mean over the frames.

    Args:
        shares: initial share of each source in the mixture's power, (N, F, M), >= 0, such as
            `renormalised` returns.
        mixture_power: squared magnitude of the mixture, (F, M).
        frames: number of frames over which the variance is constant.
        iterations: number of iterations of both steps.

    Returns:
        (N, F, M); the sum over the sources is one.

    Source: Duong, Vincent, Gribonval, Under-determined reverberant audio source separation using a
    full-rank spatial covariance model, IEEE TASLP 2010, for a single channel.
    """
    # Relative to the loudest bin, so that the lower limit of the variance does not matter.
    observed = mixture_power / max(float(mixture_power.max()), MIN_DIVISOR)
    variance = shares * observed + MIN_DIVISOR
    for _ in range(iterations):
        total = variance.sum(axis=0)
        gain = variance / total
        expected = gain**2 * observed + gain * (1 - gain) * total
        variance = uniform_filter1d(expected, frames, axis=-1, mode="nearest") + MIN_DIVISOR
    filters: Masks = variance / variance.sum(axis=0)
    return filters
