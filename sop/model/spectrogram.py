"""Spectrograms: the Fourier transform, the log-frequency axis, masks, and the way back to sound.

Shapes: B mixtures, N sources, F x M frequency bins x spectrogram frames, L samples.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.params import SpectrogramParams

# Rows of the log-frequency axis, as published.
LOG_FREQUENCY_ROWS = 256

# Zhao et al.'s warp: row y in [-1, 1] of the log axis shows row (21^((y+1)/2) - 11) / 10 of the
# linear one, so the lowest rows are spread about tenfold.
WARP_BASE = 21.0

# Added to the mixture's magnitude, so that the logarithm of silence is finite.
MAGNITUDE_FLOOR = 1e-10


def stft(audio: Tensor, params: SpectrogramParams) -> Tensor:
    """Short-time Fourier transform with a periodic Hann window, centred frames and zero padding.

    Args:
        audio: (..., L) samples.
        params: frame length and hop, in samples.

    Returns:
        Complex spectrogram, (..., F, M), F = stft_frame / 2 + 1, M = 1 + L // stft_hop.
        Equal to `librosa.stft` with its defaults.
    """
    spectrum = torch.stft(
        audio.reshape(-1, audio.shape[-1]),
        params.stft_frame,
        hop_length=params.stft_hop,
        window=_window(params, audio),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[-2:])


def stft_power(audio: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.float32]:
    """Squared magnitude of the `stft` of (L,) samples, (F, M)."""
    power: NDArray[np.float32] = stft(torch.from_numpy(audio), params).abs().square().numpy()
    return power


def istft(spectrum: Tensor, params: SpectrogramParams) -> Tensor:
    """Inverse of `stft`, clipped to [-1, 1] as the published reconstruction is.

    Args:
        spectrum: complex, (..., F, M).
        params: frame length and hop, in samples.

    Returns:
        (..., stft_hop * (M - 1)) samples.
    """
    audio = torch.istft(
        spectrum.reshape(-1, *spectrum.shape[-2:]),
        params.stft_frame,
        hop_length=params.stft_hop,
        window=_window(params, spectrum.real),
        center=True,
    )
    return audio.reshape(*spectrum.shape[:-2], audio.shape[-1]).clamp(-1, 1)


def network_input(spectrum: Tensor, params: SpectrogramParams) -> Tensor:
    """Return the magnitude that the sound net takes: plus `MAGNITUDE_FLOOR`, on the net's axis.

    Args:
        spectrum: complex spectrogram of the mixture, (..., F, M).
        params: the frequency axis of the network, log or linear.

    Returns:
        (..., R, M) > 0; R is 256 on the log-frequency axis, F on the linear one.
    """
    return _to_network_axis(spectrum.abs() + MAGNITUDE_FLOOR, params)


def network_magnitude(spectrum: Tensor, params: SpectrogramParams) -> Tensor:
    """Return the magnitude of a source on the frequency axis of the network.

    Args:
        spectrum: complex spectrogram of the source, (..., F, M).
        params: the frequency axis of the network, log or linear.

    Returns:
        (..., R, M) >= 0; R is 256 on the log-frequency axis, F on the linear one.
    """
    return _to_network_axis(spectrum.abs(), params)


def _to_network_axis(magnitude: Tensor, params: SpectrogramParams) -> Tensor:
    return to_log_frequency(magnitude) if params.log_frequency else magnitude


def _window(params: SpectrogramParams, like: Tensor) -> Tensor:
    return torch.hann_window(params.stft_frame, device=like.device, dtype=like.dtype)


def warp_rows(rows: int = LOG_FREQUENCY_ROWS) -> Tensor:
    """Where each row of the log axis lies on the linear one, in [-1, 1], float64 (rows,)."""
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)
    return (WARP_BASE ** ((y + 1) / 2) - 11) / 10


def unwarp_rows(rows: int) -> Tensor:
    """Where each row of the linear axis lies on the log one, in [-1, 1], float64 (rows,)."""
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)
    return torch.log(y * 10 + 11) / math.log(WARP_BASE) * 2 - 1


def to_log_frequency(magnitude: Tensor) -> Tensor:
    """Resample linear frequency rows to the log-frequency axis.

    Args:
        magnitude: (..., F, M).

    Returns:
        (..., 256, M).

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (log-frequency scale).
    """
    return _sample_rows(magnitude, warp_rows())


def to_linear_frequency(masks: Tensor, rows: int) -> Tensor:
    """Resample log-frequency rows back to `rows` linear ones: (..., 256, M) to (..., rows, M)."""
    return _sample_rows(masks, unwarp_rows(rows))


def _sample_rows(values: Tensor, positions: Tensor) -> Tensor:
    """Interpolate whole rows, (..., R, M) at positions in [-1, 1].

    The same as a bilinear `grid_sample` with align_corners=True whose columns stay in place.
    """
    last = values.shape[-2] - 1
    # In float32 before scaling, as the published grid is, so that rounding is the same.
    at = ((positions.float() + 1) / 2 * last).clamp(0, last)
    lower = at.floor().clamp(max=last - 1)
    weight = (at - lower).to(values)[:, None]
    lower = lower.long().to(values.device)
    return torch.lerp(values.index_select(-2, lower), values.index_select(-2, lower + 1), weight)


def binary_masks(sources: Tensor, mixture: Tensor) -> Tensor:
    """Ideal binary masks: a bin belongs to every source that holds over half of its magnitude.

    Args:
        sources: magnitudes of the true sources, (B, N, F, M), linear scale, >= 0.
        mixture: magnitude of their sum, (B, F, M).

    Returns:
        1.0 where `sources > 0.5 * mixture`, else 0.0, (B, N, F, M), dtype of `sources`.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (learning targets).
    """
    return (sources > 0.5 * mixture[:, None]).to(sources.dtype)


def ratio_masks(sources: Tensor, mixture: Tensor) -> Tensor:
    """Ideal ratio masks, magnitude of source over magnitude of mixture, clamped to [0, 5].

    Args:
        sources: magnitudes of the true sources, (B, N, F, M), >= 0.
        mixture: magnitude of their sum, (B, F, M), > 0.

    Returns:
        (B, N, F, M). The clamp keeps bins out where the sources cancel in the mixture.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (learning targets).
    """
    return (sources / mixture[:, None]).clamp(0, 5)


def separate(
    mixture: Tensor, masks: Tensor, params: SpectrogramParams, threshold: float | Tensor | None
) -> Tensor:
    """The sound of each source: its mask on the mixture's spectrogram, with the mixture's phase.

    Args:
        mixture: complex spectrogram of the mixture, (B, F, M).
        masks: (B, N, R, M); R is 256 on the log-frequency axis, F on the linear one.
        params: the transform's frame, hop and axis.
        threshold: a mask is made 1 above it and 0 elsewhere, after the way back to linear
            frequency; None keeps the mask as it is.

    Returns:
        (B, N, stft_hop * (M - 1)) samples in [-1, 1].
    """
    if params.log_frequency:
        masks = to_linear_frequency(masks, mixture.shape[-2])
    if threshold is not None:
        masks = (masks > threshold).to(masks.dtype)
    return istft(masks * mixture[:, None], params)
