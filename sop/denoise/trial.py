"""Try candidates on one separated mixture, and measure the result.

Shapes: N sources, L samples, F x M frequency bins x spectrogram frames.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sop.denoise.adaptive import largest_lms_rate
from sop.denoise.guard import GuardedFilter, Kept, total_kept
from sop.denoise.settings import (
    FilterSettings,
    LmsSettings,
    MethodSettings,
    RenormaliseSettings,
    WienerSettings,
)
from sop.denoise.wiener import em_wiener, renormalised
from sop.evaluate.measures import Sounds, is_silent, measure
from sop.evaluate.records import Record
from sop.model.spectrogram import istft
from sop.params import Params

DENOISE_MEASURES = ("sdr", "sir", "sar", "si_sdr", "mse", "snr")

# The SNR of the notebook that this stage follows: mean over standard deviation of the waveform. It
# says nothing about noise and is kept for comparison only.
NOTEBOOK_SNR = "mean_over_std"

SILENT = "silent"
"""1 for a silent sound, otherwise 0."""

TRIAL_MEASURES = (*DENOISE_MEASURES, NOTEBOOK_SNR, SILENT)

# An LMS rate that would diverge is reduced to this fraction of the smallest rate that diverges.
STABLE_FRACTION = 0.5


class Trial:
    """A separated mixture on which candidates are tried.

    Args:
        record: the mixture.
        params: settings of its spectrogram and masks.
    """

    def __init__(self, record: Record, params: Params) -> None:
        self.record = record
        self.before = record.estimates(params)
        """The separated sounds before any denoising, (N, L)."""
        self.truth = record.truth(params)
        """The true sounds, (N, L)."""
        self.bounded: set[LmsSettings] = set()
        """Candidates whose rate would have diverged on this mixture and was reduced."""
        self.kept: dict[FilterSettings, Kept] = {}
        """Where adaptive filters would have made a sound louder, so that it was kept."""
        self._sample_rate = params.extract.sample_rate
        self._spectrogram = params.spectrogram
        self._spectrum = record.spectrum(params)
        self._masks: Sounds = record.linear_masks(params).numpy()

    def after(self, candidate: MethodSettings | None) -> Sounds:
        """Apply a candidate to the separated sounds.

        A mixture with a single source is left unchanged, and so is a sound that would become
        silent.

        Args:
            candidate: method and settings; None for no change.

        Returns:
            (N, L).
        """
        if candidate is None or len(self.before) < 2:
            return self.before
        if isinstance(candidate, FilterSettings):
            sounds = np.stack([self._filtered(candidate, n) for n in range(len(self.before))])
        else:
            assert isinstance(candidate, RenormaliseSettings | WienerSettings)
            sounds = self._masked(candidate)
        return np.where(is_silent(sounds)[:, None], self.before, sounds)

    def measure(self, tried: Sequence[MethodSettings | None]) -> NDArray[np.float64]:
        """Measure the sounds that each candidate makes.

        Returns:
            (candidates, `TRIAL_MEASURES`, N); NaN where a silent sound has no value.

        Raises:
            UnmeasurableError: a true sound is silent.
        """
        sounds = np.stack([self.after(candidate) for candidate in tried]).astype(np.float64)
        truth = self.truth.astype(np.float64)
        found = measure(truth, sounds, self.record.videos)
        errors = np.mean((sounds - truth) ** 2, axis=-1)
        snr = 10 * np.log10(np.mean(truth**2, axis=-1) / np.maximum(errors, 1e-20))
        spread = np.where(found.silent, np.nan, sounds.std(axis=-1))
        notebook = sounds.mean(axis=-1) / spread
        ratios = (found.sdr, found.sir, found.sar, found.si_sdr)
        return np.stack([*ratios, errors, snr, notebook, found.silent], axis=1)

    def _filtered(self, candidate: FilterSettings, target: int) -> Sounds:
        """Filter one sound with all others as references, (L,)."""
        others = np.delete(self.before, target, axis=0)
        settings = candidate
        if isinstance(candidate, LmsSettings):
            stable = STABLE_FRACTION * largest_lms_rate(others, candidate.taps)
            if candidate.rate > stable:
                self.bounded.add(candidate)
                settings = replace(candidate, rate=stable)
        levels = [float(np.mean(other.astype(np.float64) ** 2)) for other in others]
        guarded = GuardedFilter(settings.make(len(others), levels), self._sample_rate)
        parts = [guarded.clean(self.before[target], others), guarded.finish()]
        if guarded.kept:
            self.kept[candidate] = total_kept([self.kept.get(candidate, Kept()), guarded.kept])
        return np.concatenate(parts).astype(np.float32)

    def _masked(self, candidate: RenormaliseSettings | WienerSettings) -> Sounds:
        """Separate the mixture again, with masks that sum to one, (N, L)."""
        shares = renormalised(self._masks, candidate.power)
        if isinstance(candidate, WienerSettings):
            power = self._spectrum.abs().square().numpy()
            shares = em_wiener(shares, power, candidate.frames, candidate.iterations)
        parts = torch.from_numpy(shares.astype(np.float32)) * self._spectrum
        sounds: Sounds = istft(parts, self._spectrogram).numpy()
        return sounds
