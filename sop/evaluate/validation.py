"""Evaluation: separate fixed validation mixtures and measure what comes out.

Shapes: N sources, L samples.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sop.dataset.clips import Frames
from sop.dataset.index import Video
from sop.dataset.mixtures import Mixture, MixtureReader, collate, evaluation_videos
from sop.evaluate.measures import MEASURES, bss_eval, si_sdr, summarise, why_not_comparable
from sop.model.pixelplayer import PixelPlayer, normalize_frames, separation_loss
from sop.model.spectrogram import istft, separate
from sop.params import Params
from sop.runtime.errors import LeftOut, UserError


@dataclass(frozen=True)
class Score:
    """What was measured on one mixture."""

    number: int
    videos: tuple[Video, ...]
    loss: float
    measures: dict[str, NDArray[np.float64]]
    """Each of `MEASURES`, (N,) in dB."""


@dataclass(frozen=True)
class SkippedMixture:
    """One mixture without a score, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class SeparatedMixture:
    """What one mixture was and what the model made of it."""

    number: int
    videos: tuple[Video, ...]
    frames: Frames
    """(N, T, H, W, 3)."""
    mixture: NDArray[np.float32]
    """(L,)."""
    truth: NDArray[np.float32]
    """(N, L)."""
    estimates: NDArray[np.float32]
    """(N, L)."""
    loss: float
    sources: NDArray[np.float32]
    """What was mixed, (N, samples of the clip); the truth is its part that has estimates."""
    masks: NDArray[np.float32]
    """What the model predicted, before any threshold, (N, R, M)."""

    def score(self) -> Score | SkippedMixture:
        """Measure it; BSS Eval is not defined where a sound is silent."""
        names = [video.name for video in self.videos]
        if reason := why_not_comparable(names, self.truth, self.estimates):
            return SkippedMixture(self.number, reason)
        unseparated = np.broadcast_to(self.mixture, self.estimates.shape)
        bss = bss_eval(self.truth, np.stack([self.estimates, unseparated]))
        measures = {
            "sdr": bss.sdr[0],
            "sir": bss.sir[0],
            "sar": bss.sar[0],
            "si_sdr": si_sdr(self.truth, self.estimates),
            "sdr_mixture": bss.sdr[1],
            "sdr_improvement": bss.sdr[0] - bss.sdr[1],
        }
        return Score(self.number, self.videos, self.loss, measures)


class _EvaluationMixtures(Dataset[Mixture | str]):
    """The fixed mixtures, or the reason why one cannot be read."""

    def __init__(self, draws: Sequence[Sequence[Video]], reader: MixtureReader) -> None:
        self.draws = draws
        self.reader = reader

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, number: int) -> Mixture | str:
        try:
            return self.reader.middle(self.draws[number])
        except LeftOut as reason:
            return str(reason)


def separate_mixtures(
    player: PixelPlayer,
    videos: Sequence[Video],
    params: Params,
    count: int,
    threshold: float,
    device: torch.device,
) -> Iterator[SeparatedMixture | SkippedMixture]:
    """Separate the first `count` evaluation mixtures of a list, one after the other.

    Args:
        player: the model, on `device`; it is put into evaluation mode.
        videos: the validation list.
        params: what mixtures, spectrograms and masks are.
        count: mixtures.
        threshold: a predicted binary mask is 1 above it; ratio masks are taken as they are.
        device: where the networks run.

    Yields:
        Each mixture with what came out of it, in order; or why it cannot be read.

    Raises:
        UserError: the list is too short for a mixture.
    """
    player.eval()
    draws = list(evaluation_videos(videos, params.mixture, count, params.seed))
    loader: DataLoader[Any] = DataLoader(
        _EvaluationMixtures(draws, MixtureReader(params.mixture, params.extract)),
        batch_size=params.train.batch_size,
        num_workers=min(params.worker_count, 4),
        collate_fn=list,
    )
    number = 0
    for group in loader:
        readable = [item for item in group if isinstance(item, Mixture)]
        separated = iter(_separate(player, readable, params, threshold, device) if readable else [])
        for item in group:
            if isinstance(item, Mixture):
                mixture, estimates, loss, masks = next(separated)
                yield SeparatedMixture(
                    number,
                    item.videos,
                    item.frames,
                    mixture=mixture,
                    truth=item.audio[:, : estimates.shape[-1]],
                    estimates=estimates,
                    loss=loss,
                    sources=item.audio,
                    masks=masks,
                )
            else:
                yield SkippedMixture(number, item)
            number += 1


def scores(
    results: Iterable[SeparatedMixture | SkippedMixture],
) -> Iterator[Score | SkippedMixture]:
    """Measure separations, letting go of their sounds."""
    for result in results:
        yield result.score() if isinstance(result, SeparatedMixture) else result


def summary(results: Iterable[Score | SkippedMixture]) -> dict[str, Any]:
    """What metrics/evaluate.json holds: mean and median over sources, in all and per category.

    Raises:
        UserError: no mixture could be measured.
    """
    results = list(results)
    counted = [result for result in results if isinstance(result, Score)]
    left_out = [result for result in results if isinstance(result, SkippedMixture)]
    if not counted:
        first = left_out[0].reason if left_out else "there is none"
        raise UserError(f"evaluate: none of {len(left_out)} mixtures could be measured: {first}")
    category: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in counted:
        for position, video in enumerate(result.videos):
            for name in MEASURES:
                category[video.category][name].append(float(result.measures[name][position]))
    overall = {name: np.concatenate([r.measures[name] for r in counted]) for name in MEASURES}
    return {
        **summarise(overall),
        "loss": float(np.mean([result.loss for result in counted])),
        "mixtures": {
            "counted": len(counted),
            "left_out": len(left_out),
            "reasons": {str(result.number): result.reason for result in left_out},
        },
        "category": {name: summarise(category[name]) for name in sorted(category)},
    }


def _separate(
    player: PixelPlayer,
    mixtures: Sequence[Mixture],
    params: Params,
    threshold: float,
    device: torch.device,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], float, NDArray[np.float32]]]:
    """Reconstructed mixture (L,), estimates (N, L), loss and masks (N, R, M) of each mixture."""
    batch = collate(mixtures)
    above = threshold if params.model.mask == "binary" else None
    losses = []
    with torch.inference_mode():
        spectra = player.spectra(batch.audio.to(device))
        logits = player(spectra.magnitude, normalize_frames(batch.frames.to(device)))
        true_masks = player.true_masks(spectra)
        masks = player.masks(logits)
        estimates = separate(spectra.mixture, masks, params.spectrogram, above).cpu().numpy()
        whole = istft(spectra.mixture, params.spectrogram).cpu().numpy()
        for position in range(len(mixtures)):
            alone = slice(position, position + 1)
            loss = separation_loss(
                logits[alone],
                type(spectra)(*(part[alone] for part in spectra)),
                true_masks[alone],
                params.model,
                params.train,
            )
            losses.append(float(loss))
    return list(zip(whole, estimates, losses, masks.cpu().numpy(), strict=True))
