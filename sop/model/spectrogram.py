"""Spectrograms: Fourier transform and its inverse, log-frequency axis, and masks.

Shapes: B mixtures, N sources, F x M frequency bins x spectrogram frames, L samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.params import SpectrogramParams

# Number of rows of the log-frequency axis, as published.
LOG_FREQUENCY_ROWS = 256

# Zhao et al.'s warp: row y in [-1, 1] of the log axis corresponds to row (21^((y+1)/2) - 11) / 10
# of the linear one, which spreads the lowest rows about tenfold.
WARP_BASE = 21.0

# Added to the mixture's magnitude, so that the logarithm of silence is finite.
MAGNITUDE_FLOOR = 1e-10


def stft(audio: Tensor, params: SpectrogramParams) -> Tensor:
    """Return the STFT with a periodic Hann window, centered frames and zero padding.

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
    """Return the squared magnitude of the `stft` of (L,) samples, (F, M)."""
    power: NDArray[np.float32] = stft(torch.from_numpy(audio), params).abs().square().numpy()
    return power


def istft(spectrum: Tensor, params: SpectrogramParams) -> Tensor:
    """Return the inverse of `stft`, clipped to [-1, 1] like the published reconstruction.

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
    """Return the position of each log row on the linear axis, in [-1, 1], float64 (rows,)."""
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)
    return (WARP_BASE ** ((y + 1) / 2) - 11) / 10


def unwarp_rows(rows: int) -> Tensor:
    """Return the position of each linear row on the log axis, in [-1, 1], float64 (rows,)."""
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
    """Resample log-frequency rows to linear ones: (..., 256, M) to (..., rows, M)."""
    return _sample_rows(masks, unwarp_rows(rows))


def _sample_rows(values: Tensor, positions: Tensor) -> Tensor:
    """Interpolate rows of (..., R, M) at positions in [-1, 1].

    Equal to a bilinear `grid_sample` with align_corners=True that keeps the columns.
    """
    last = values.shape[-2] - 1
    # Rounded to float32 before scaling, like the published grid.
    at = ((positions.float() + 1) / 2 * last).clamp(0, last)
    lower = at.floor().clamp(max=last - 1)
    weight = (at - lower).to(values)[:, None]
    lower = lower.long().to(values.device)
    return torch.lerp(values.index_select(-2, lower), values.index_select(-2, lower + 1), weight)


def binary_masks(sources: Tensor, mixture: Tensor) -> Tensor:
    """Return ideal binary masks: 1 where a source has over half of the mixture's magnitude.

    Args:
        sources: magnitudes of the true sources, (B, N, F, M), linear scale, >= 0.
        mixture: magnitude of their sum, (B, F, M).

    Returns:
        1.0 where `sources > 0.5 * mixture`, else 0.0, (B, N, F, M), dtype of `sources`.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (learning targets).
    """
    return (sources > 0.5 * mixture[:, None]).to(sources.dtype)


def ratio_masks(sources: Tensor, mixture: Tensor) -> Tensor:
    """Return ideal ratio masks: magnitude of source / magnitude of mixture, clamped to [0, 5].

    Args:
        sources: magnitudes of the true sources, (B, N, F, M), >= 0.
        mixture: magnitude of their sum, (B, F, M), > 0.

    Returns:
        (B, N, F, M). The clamp limits bins where the sources cancel each other in the mixture.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (learning targets).
    """
    return (sources / mixture[:, None]).clamp(0, 5)


@dataclass(frozen=True)
class MaskRule:
    """How the masks of the sources of a mixture become their gains; by default unchanged."""

    threshold: float | Tensor | None = None
    """Gains are 1 where a mask is above it, and 0 elsewhere. Not used with a power."""
    power: float | None = None
    """Gains are the shares of the masks, raised to this power, in their sum over the sources."""

    @classmethod
    def of(
        cls, mask: Literal["binary", "ratio"], threshold: float, power: float | None = None
    ) -> "MaskRule":
        """Return the rule for a type of masks: only binary ones have a threshold.

        Args:
            mask: type of the masks.
            threshold: threshold of binary masks.
            power: the power, whatever the type; None for none.
        """
        if power is not None:
            return cls(power=power)
        return cls(threshold=threshold if mask == "binary" else None)

    def gains(self, masks: Tensor) -> Tensor:
        """Return the gain of each source in each bin.

        Args:
            masks: on the linear frequency axis, (B, N, F, M); >= 0 with a power.

        Returns:
            (B, N, F, M). With a power they sum to 1, and are equal where all masks are 0.

        Source of the powers: Liutkus and Badeau, Generalized Wiener filtering with fractional power
        spectrograms, ICASSP 2015.
        """
        if self.power is not None:
            # Relative to the largest mask, so that a large power does not underflow.
            largest = masks.amax(dim=1, keepdim=True)
            powers = torch.where(largest == 0, 1.0, masks / largest) ** self.power
            return powers / powers.sum(dim=1, keepdim=True)
        if self.threshold is not None:
            return (masks > self.threshold).to(masks.dtype)
        return masks


def separate(mixture: Tensor, masks: Tensor, params: SpectrogramParams, rule: MaskRule) -> Tensor:
    """Return the sound of each source: its gain times the complex spectrogram of the mixture.

    Args:
        mixture: complex spectrogram of the mixture, (B, F, M).
        masks: (B, N, R, M); R is 256 on the log-frequency axis, F on the linear one.
        params: frame length, hop and frequency axis.
        rule: how the masks become gains, after resampling to linear frequency.

    Returns:
        (B, N, stft_hop * (M - 1)) samples in [-1, 1].
    """
    if params.log_frequency:
        masks = to_linear_frequency(masks, mixture.shape[-2])
    return istft(rule.gains(masks) * mixture[:, None], params)
