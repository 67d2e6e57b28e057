"""Masks that know of one another: what each source gets of a bin depends on all of them.

A network predicts each source's mask by itself: bins may be given to two sources, or to none.
These share the mixture out instead.

Shapes: N sources, F x M frequency bins x spectrogram frames.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

Values = NDArray[np.floating]

# Keeps a bin of silence, or one that no mask wants, from being divided by zero.
LEAST = 1e-12


def renormalised(masks: Values, power: float) -> Values:
    """Masks that sum to one: each mask's power over the sum of all of them.

    Args:
        masks: (N, F, M), >= 0.
        power: 1 keeps their proportions, 2 are Wiener filters if masks are ratios of magnitudes;
            the larger, the more of a bin goes to the largest mask.

    Returns:
        (N, F, M); where all masks are zero, all are zero still.

    Source: Liutkus and Badeau, Generalized Wiener filtering with fractional power spectrograms,
    ICASSP 2015.
    """
    # Relative to the largest, lest a large power leaves nothing but zeros.
    largest = np.maximum(masks.max(axis=0), LEAST)
    powers = (masks / largest) ** power
    shared: Values = powers / np.maximum(powers.sum(axis=0), LEAST)
    return shared


def em_wiener(shares: Values, mixture_power: Values, frames: int, iterations: int) -> Values:
    """Wiener filters whose source powers are estimated by expectation-maximisation.

    Each source's bins are complex Gaussians; their variance is taken to be that of the frames
    around them, as it is while a note lasts, so that a mask which errs in a single bin is outvoted.
    The E step takes the expected power of each source given the mixture, the M step its mean over
    the frames.

    Args:
        shares: of each source in the mixture's power, where it starts from, (N, F, M), >= 0; such
            as `renormalised` makes.
        mixture_power: squared magnitude of the mixture, (F, M).
        frames: over how many the variance is the mean.
        iterations: of both steps.

    Returns:
        (N, F, M), which sum to one.

    Source: Duong, Vincent, Gribonval, Under-determined reverberant audio source separation using a
    full-rank spatial covariance model, IEEE TASLP 2010, for a single channel.
    """
    # Relative to the loudest bin: silence keeps a variance.
    observed = mixture_power / max(float(mixture_power.max()), LEAST)
    variance = shares * observed + LEAST
    for _ in range(iterations):
        total = variance.sum(axis=0)
        gain = variance / total
        expected = gain**2 * observed + gain * (1 - gain) * total
        variance = uniform_filter1d(expected, frames, axis=-1, mode="nearest") + LEAST
    filters: Values = variance / variance.sum(axis=0)
    return filters
