"""Separate the validation mixtures, which are always the same, and measure the result.

Shapes: N sources, L samples, R x M rows x frames of the masks.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

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
    is_at_rest,
    is_silent,
    leak,
    measure,
    summarise,
)
from sop.model.pixelplayer import PixelPlayer, normalize_frames, separation_loss
from sop.model.spectrogram import MaskRule, istft, separate
from sop.params import Params
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.readers import Readers


class MixtureKind(NamedTuple):
    """What the mixtures of an evaluation are like, and what is silent in them."""

    same_category: bool = False
    """Whether all sources of a mixture are of one category."""
    one_silent: bool = False
    """Whether one source, of each in turn, is seen but not heard: its sound is zero."""
    shift_seconds: float = 0.0
    """Time by which what is seen is later than what is heard."""
    rest_is_silence: bool = False
    """Whether a source at rest, of which there is only noise, is silent; see `is_at_rest`."""


PLAIN = MixtureKind()
"""All sources are heard, and only digital silence is silent."""


class Leak(NamedTuple):
    """What a model lets through of a mixture for a source that is silent in it."""

    videos: tuple[str, ...]
    """Names of the videos of the mixture."""
    decibels: float
    """Energy of the estimate relative to the mixture's."""


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
    leaks: tuple[Leak, ...] = ()
    """Those of its silent sources, if that is the reason."""

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
    """The predicted masks, before any threshold or power, (N, R, M)."""
    loss: float
    rest_is_silence: bool = False
    """Whether a source at rest is silent."""

    @property
    def truth(self) -> Sounds:
        """The mixed sounds, cut to the length of the estimates, (N, L)."""
        return self.sources[:, : self.estimates.shape[-1]]

    def score(self) -> Score | SkippedMixture:
        """Measure the separated sounds; of a mixture with a silent true sound, only the leak."""
        silent = self._silent_sources()
        if self.rest_is_silence and silent.any():
            which = "every source" if silent.all() else self.videos[silent.argmax()].name
            return SkippedMixture(self.number, f"{which} is at rest", tuple(self._leaks(silent)))
        unseparated = np.broadcast_to(self.mixture, self.estimates.shape)
        sounds = np.stack([self.estimates, unseparated])
        try:
            found = measure(self.truth, sounds, [video.name for video in self.videos])
        except UnmeasurableError as reason:
            return SkippedMixture(self.number, str(reason), tuple(self._leaks(silent)))
        sdr, sdr_mixture = found.sdr
        values = (
            *(sdr, found.sir[0], found.sar[0], found.si_sdr[0]),
            *(sdr_mixture, sdr - sdr_mixture),
        )
        measures = dict(zip(MEASURES, values, strict=True))
        return Score(self.number, self.videos, self.loss, measures, found.silent[0])

    def _silent_sources(self) -> NDArray[np.bool_]:
        return is_at_rest(self.truth) if self.rest_is_silence else is_silent(self.truth)

    def _leaks(self, silent: NDArray[np.bool_]) -> Iterator[Leak]:
        """Yield the leak of each silent source, if another is heard."""
        if silent.all() or is_silent(self.mixture):
            return
        names = tuple(video.name for video in self.videos)
        # An estimate of masks that are not finite is silence by replacement, no merit. With
        # `mask_power`, each estimate depends on the masks of all sources.
        finite = np.isfinite(self.masks).all()
        for n in np.flatnonzero(silent):
            estimate = self.estimates[n] if finite else self.mixture
            yield Leak(names, leak(estimate, self.mixture))


def separate_mixtures(
    player: PixelPlayer,
    videos: Sequence[Video],
    params: Params,
    count: int,
    seed: int,
    rule: MaskRule,
    device: torch.device,
    kind: MixtureKind = PLAIN,
    listed: Sequence[Sequence[Video] | str] | None = None,
) -> Iterator[SeparatedMixture | SkippedMixture]:
    """Separate the first validation mixtures of a list of videos, or listed mixtures.

    Args:
        player: the model, on `device`; it is put into evaluation mode.
        videos: the validation list.
        params: settings of the mixtures, spectrograms and masks.
        count: number of mixtures.
        seed: seed of the choice of the mixtures.
        rule: how the predicted masks become the gains of the sources.
        device: device of the networks.
        kind: what the mixtures are like. Without a category of enough videos there are none of one
            category.
        listed: the videos of each mixture, or the reason why it cannot be mixed; None to draw
            `count` mixtures of `videos`.

    Yields:
        Each mixture with the result of its separation, or the reason why it cannot be read.

    Raises:
        UserError: the list is too short for a mixture.
    """
    player.eval()
    drawn: Iterator[tuple[int, Sequence[Video] | str]] = enumerate(
        evaluation_videos(videos, params.mixture, count, seed, kind.same_category)
        if listed is None
        else listed[:count]
    )
    motion = params.model.motion != "none"
    reader, size = MixtureReader(params.mixture, params.extract, motion), params.train.batch_size
    readers = Readers("evaluate", min(params.worker_count, 4), size * reader.mixture_bytes)
    batches = iter(lambda: list(islice(drawn, size)), [])
    first = 0
    with closing(readers.map(partial(_read, reader, kind), batches)) as results:
        for read in results:
            batch = dict(enumerate(read, start=first))
            first += len(batch)
            readable = {n: item for n, item in batch.items() if isinstance(item, Mixture)}
            separated = iter(_separate(player, readable, params, rule, device) if readable else [])
            for number, item in batch.items():
                if isinstance(item, str):
                    yield SkippedMixture(number, item)
                else:
                    yield replace(next(separated), rest_is_silence=kind.rest_is_silence)


def _read(
    reader: MixtureReader, kind: MixtureKind, batch: Sequence[tuple[int, Sequence[Video] | str]]
) -> list[Mixture | str]:
    """Return each mixture of a batch, or the reason why it cannot be read.

    Args:
        reader: reads clips.
        kind: what the mixtures are like.
        batch: number and videos of each mixture, or the reason why it cannot be mixed.
    """
    read: list[Mixture | str] = []
    for number, videos in batch:
        if isinstance(videos, str):
            read.append(videos)
            continue
        silent = number % len(videos) if kind.one_silent else None
        try:
            read.append(reader.middle(videos, kind.shift_seconds, silent))
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
    if not any(isinstance(result, Score) for result in results):
        reasons = [result.reason for result in results if isinstance(result, SkippedMixture)]
        first = reasons[0] if reasons else "there are no mixtures"
        raise UserError(f"evaluate: none of {len(reasons)} mixtures could be measured: {first}")
    return separation_summary(results)


def separation_summary(results: Iterable[Score | SkippedMixture]) -> dict[str, Any]:
    """Return measures over all sources and by category; None where no mixture is measured."""
    results = list(results)
    counted = [result for result in results if isinstance(result, Score)]
    rows = table(counted)
    by_category = rows.groupby("category")
    return {
        **_summary(rows),
        "loss": summarise({"loss": [result.loss for result in counted]})["loss"]["mean"],
        "mixtures": counts(
            len(counted), [result for result in results if isinstance(result, SkippedMixture)]
        ),
        "category": {name: _summary(own) for name, own in by_category},
    }


def counts(counted: int, left_out: Collection[SkippedMixture]) -> dict[str, Any]:
    """Return the numbers of mixtures that are measured and left out, and the reasons."""
    reasons = {str(mixture.number): mixture.reason for mixture in left_out}
    return {"counted": counted, "left_out": len(left_out), "reasons": reasons}


def _summary(rows: pd.DataFrame) -> dict[str, Any]:
    # Without rows, the columns are of type object.
    measures = summarise({name: rows[name].to_numpy(float) for name in MEASURES})
    return {"sdr": measures.pop("sdr"), "silent_estimates": int(rows["silent"].sum()), **measures}


def _separate(
    player: PixelPlayer,
    mixtures: Mapping[int, Mixture],
    params: Params,
    rule: MaskRule,
    device: torch.device,
) -> Iterator[SeparatedMixture]:
    """Separate mixtures, given by number, as one batch."""
    batch = collate(list(mixtures.values())).to(device)
    losses = []
    with torch.inference_mode():
        spectra = player.spectra(batch.audio)
        frames = normalize_frames(batch.frames)
        logits = player(spectra.magnitude, frames, motion=batch.motion).logits
        true_masks = player.true_masks(spectra)
        masks = player.masks(logits)
        estimates = separate(spectra.mixture, masks, params.spectrogram, rule).cpu().numpy()
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
