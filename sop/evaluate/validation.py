"""Separate the validation mixtures, which are always the same, and measure the result.

Shapes: N sources, L samples, R x M rows x frames of the masks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sop.dataset.index import Video
from sop.dataset.mixtures import Mixture, MixtureReader, collate, evaluation_videos
from sop.evaluate.measures import (
    MEASURES,
    Decibels,
    Sounds,
    UnmeasurableError,
    finite_or_silent,
    measure,
    summarise,
)
from sop.model.pixelplayer import PixelPlayer, normalize_frames, separation_loss
from sop.model.spectrogram import istft, separate
from sop.params import Params
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.readers import Readers


@dataclass(frozen=True)
class Score:
    """Measures of one separated mixture."""

    number: int
    videos: tuple[Video, ...]
    loss: float
    measures: dict[str, Decibels]
    """Each of `MEASURES`, (N,) in dB; SAR is NaN for silent estimates."""
    silent: NDArray[np.bool_]
    """Whether each estimate is silent, (N,)."""


@dataclass(frozen=True)
class SkippedMixture:
    """A mixture that cannot be read or measured, and the reason."""

    number: int
    reason: str

    def score(self) -> "SkippedMixture":
        """Return the mixture itself: it cannot be measured."""
        return self


@dataclass(frozen=True)
class SeparatedMixture:
    """A mixture, and the result of its separation."""

    number: int
    videos: tuple[Video, ...]
    sources: Sounds
    """The mixed sounds, (N, samples of the clip)."""
    mixture: Sounds
    """Their sum, reconstructed from its spectrogram, (L,)."""
    estimates: Sounds
    """The separated sounds, (N, L)."""
    masks: NDArray[np.float32]
    """The predicted masks before any threshold, (N, R, M)."""
    loss: float

    @property
    def truth(self) -> Sounds:
        """The mixed sounds, cut to the length of the estimates, (N, L)."""
        return self.sources[:, : self.estimates.shape[-1]]

    def score(self) -> Score | SkippedMixture:
        """Measure the separated sounds; a mixture with a silent true sound cannot be measured."""
        unseparated = np.broadcast_to(self.mixture, self.estimates.shape)
        sounds = np.stack([self.estimates, unseparated])
        try:
            found = measure(self.truth, sounds, [video.name for video in self.videos])
        except UnmeasurableError as reason:
            return SkippedMixture(self.number, str(reason))
        sdr, sdr_mixture = found.sdr
        values = (
            *(sdr, found.sir[0], found.sar[0], found.si_sdr[0]),
            *(sdr_mixture, sdr - sdr_mixture),
        )
        measures = dict(zip(MEASURES, values, strict=True))
        return Score(self.number, self.videos, self.loss, measures, found.silent[0])


def separate_mixtures(
    player: PixelPlayer,
    videos: Sequence[Video],
    params: Params,
    count: int,
    seed: int,
    threshold: float,
    device: torch.device,
) -> Iterator[SeparatedMixture | SkippedMixture]:
    """Separate the first validation mixtures of a list of videos.

    Args:
        player: the model, on `device`; it is put into evaluation mode.
        videos: the validation list.
        params: settings of the mixtures, spectrograms and masks.
        count: number of mixtures.
        seed: seed of the choice of the mixtures.
        threshold: a binary mask is 1 where the prediction is above the threshold; ratio masks have
            no threshold.
        device: device of the networks.

    Yields:
        Each mixture with the result of its separation, or the reason why it cannot be read.

    Raises:
        UserError: the list is too short for a mixture.
    """
    player.eval()
    drawn = evaluation_videos(videos, params.mixture, count, seed)
    motion = params.model.motion != "none"
    reader, size = MixtureReader(params.mixture, params.extract, motion), params.train.batch_size
    readers = Readers("evaluate", min(params.worker_count, 4), size * reader.mixture_bytes)
    batches = iter(lambda: list(islice(drawn, size)), [])
    first = 0
    with closing(readers.map(partial(_read, reader), batches)) as results:
        for read in results:
            batch = dict(enumerate(read, start=first))
            first += len(batch)
            readable = {n: item for n, item in batch.items() if isinstance(item, Mixture)}
            separated = iter(
                _separate(player, readable, params, threshold, device) if readable else []
            )
            for number, item in batch.items():
                yield SkippedMixture(number, item) if isinstance(item, str) else next(separated)


def _read(reader: MixtureReader, batch: Sequence[Sequence[Video]]) -> list[Mixture | str]:
    """Return each mixture of a batch, or the reason why it cannot be read."""
    read: list[Mixture | str] = []
    for videos in batch:
        try:
            read.append(reader.middle(videos))
        except LeftOut as reason:
            read.append(str(reason))
    return read


def table(scores: Iterable[Score]) -> pd.DataFrame:
    """Return one row for each source of each mixture; `silent` is 1 for a silent estimate."""
    rows = [
        [score.number, position + 1, video.category, video.name]
        + [score.measures[name][position] for name in MEASURES]
        + [int(score.silent[position])]
        for score in scores
        for position, video in enumerate(score.videos)
    ]
    columns = ["mixture", "source", "category", "video", *MEASURES, "silent"]
    return pd.DataFrame(rows, columns=columns)


def evaluation_summary(results: Iterable[Score | SkippedMixture]) -> dict[str, Any]:
    """Return the content of metrics/evaluate.json: measures over all sources and by category.

    Raises:
        UserError: no mixture could be measured.
    """
    results = list(results)
    counted = [result for result in results if isinstance(result, Score)]
    skipped = [result for result in results if isinstance(result, SkippedMixture)]
    if not counted:
        first = skipped[0].reason if skipped else "there are no mixtures"
        raise UserError(f"evaluate: none of {len(skipped)} mixtures could be measured: {first}")
    rows = table(counted)
    by_category = rows.groupby("category")
    return {
        **_summary(rows),
        "loss": summarise({"loss": [result.loss for result in counted]})["loss"]["mean"],
        "mixtures": {
            "counted": len(counted),
            "left_out": len(skipped),
            "reasons": {str(result.number): result.reason for result in skipped},
        },
        "category": {name: _summary(own) for name, own in by_category},
    }


def _summary(rows: pd.DataFrame) -> dict[str, Any]:
    measures = summarise({name: rows[name].to_numpy() for name in MEASURES})
    return {"sdr": measures.pop("sdr"), "silent_estimates": int(rows["silent"].sum()), **measures}


def _separate(
    player: PixelPlayer,
    mixtures: Mapping[int, Mixture],
    params: Params,
    threshold: float,
    device: torch.device,
) -> Iterator[SeparatedMixture]:
    """Separate mixtures, given by number, as one batch."""
    batch = collate(list(mixtures.values())).to(device)
    above = threshold if params.model.mask == "binary" else None
    losses = []
    with torch.inference_mode():
        spectra = player.spectra(batch.audio)
        frames = normalize_frames(batch.frames)
        logits = player(spectra.magnitude, frames, motion=batch.motion).logits
        true_masks = player.true_masks(spectra)
        masks = player.masks(logits)
        estimates = separate(spectra.mixture, masks, params.spectrogram, above).cpu().numpy()
        whole = istft(spectra.mixture, params.spectrogram).cpu().numpy()
        for n in range(len(mixtures)):
            alone = slice(n, n + 1)
            loss = separation_loss(
                logits[alone],
                type(spectra)(*(part[alone] for part in spectra)),
                true_masks[alone],
                params.model,
                params.train,
            )
            losses.append(float(loss))
    made = zip(whole, finite_or_silent(estimates), masks.cpu().numpy(), losses, strict=True)
    for (number, mixture), results in zip(mixtures.items(), made, strict=True):
        yield SeparatedMixture(number, mixture.videos, mixture.audio, *results)
