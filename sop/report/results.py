"""What an evaluation leaves behind: sounds to listen to, tables for plots, one picture."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from sop.evaluation import NotCounted, Score, Separation
from sop.files import replacing, write_text
from sop.metrics import MEASURES
from sop.model.pixelplayer import PixelPlayer
from sop.params import Params
from sop.report.figure import write_figure


def write_results(
    separations: Iterable[Separation | NotCounted],
    player: PixelPlayer,
    params: Params,
    sounds: Path,
    plots: Path,
) -> list[Score | NotCounted]:
    """Measure separations as they come and write what is kept of them.

    Args:
        separations: of `separate_mixtures`.
        player: the model that made them.
        params: how many mixtures are shown, and the sample rate.
        sounds: folder for the WAV files of the shown mixtures.
        plots: folder for the tables and the picture: the shown mixture of median SDR.

    Returns:
        The scores, in order.
    """
    scores: list[Score | NotCounted] = []
    shown: list[tuple[Separation, Score]] = []
    for separation in separations:
        if isinstance(separation, NotCounted):
            scores.append(separation)
            continue
        score = separation.score()
        scores.append(score)
        if separation.number < params.evaluate.shown:
            write_sounds(separation, sounds, params.extract.sample_rate)
            if isinstance(score, Score):
                shown.append((separation, score))
    sounds.mkdir(parents=True, exist_ok=True)
    rows = table(score for score in scores if isinstance(score, Score))
    write_text(plots / "mixtures.csv", rows.to_csv(index=False, float_format="%.4f"))
    categories = rows.groupby("category")[list(MEASURES)].mean().reset_index()
    write_text(plots / "categories.csv", categories.to_csv(index=False, float_format="%.4f"))
    if shown:
        shown.sort(key=lambda pair: float(np.mean(pair[1].measures["sdr"])))
        median, score = shown[len(shown) // 2]
        write_figure(plots / "example.png", player, median, score, params.extract.sample_rate)
    return scores


def table(scores: Iterable[Score]) -> pd.DataFrame:
    """One row per source of each mixture."""
    return pd.DataFrame(
        [
            {
                "mixture": score.number,
                "source": position + 1,
                "category": video.category,
                "video": video.name,
                **{name: score.measures[name][position] for name in MEASURES},
            }
            for score in scores
            for position, video in enumerate(score.videos)
        ],
        columns=["mixture", "source", "category", "video", *MEASURES],
    )


def write_sounds(separation: Separation, folder: Path, sample_rate: int) -> None:
    """Write a mixture, its true sources and their estimates as 16-bit WAV files.

    They are `<number>/mixture.wav`, `<number>/1-<category>-true.wav`,
    `<number>/1-<category>-separated.wav` and so on.
    """
    place = folder / f"{separation.number:03d}"
    _write_wav(place / "mixture.wav", separation.mixture, sample_rate)
    for position, video in enumerate(separation.videos):
        name = f"{position + 1}-{video.category}"
        _write_wav(place / f"{name}-true.wav", separation.truth[position], sample_rate)
        _write_wav(place / f"{name}-separated.wav", separation.estimates[position], sample_rate)


def _write_wav(path: Path, audio: NDArray[np.float32], sample_rate: int) -> None:
    with replacing(path) as partial:
        soundfile.write(partial, np.clip(audio, -1, 1), sample_rate, subtype="PCM_16")
