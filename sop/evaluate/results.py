"""Files of the stage `evaluate`: records, sounds to listen to, tables for plots."""

from collections.abc import Iterable
from pathlib import Path

from sop.dataset.mixtures import middle_frame
from sop.evaluate.measures import MEASURES
from sop.evaluate.records import Record, write_record, write_sound
from sop.evaluate.validation import Score, SeparatedMixture, SkippedMixture, table
from sop.params import Params
from sop.runtime.files import make_folder, write_text

MIXTURES_FILE = "mixtures.csv"
CATEGORIES_FILE = "categories.csv"


def write_results(
    separations: Iterable[SeparatedMixture | SkippedMixture],
    params: Params,
    sounds: Path,
    plots: Path,
) -> list[Score | SkippedMixture]:
    """Measure separated mixtures one by one, and write their files.

    Each mixture is written as a record (`sop.evaluate.records`), the first ones also as sounds,
    but not those with a source at rest where that is silence.

    Args:
        separations: results of `separate_mixtures`.
        params: number of shown mixtures, and the sample rate.
        sounds: folder for the records and the WAV files of the shown mixtures.
        plots: folder for the tables.

    Returns:
        The scores, in order.
    """
    scores: list[Score | SkippedMixture] = []
    for separation in separations:
        score = separation.score()
        scores.append(score)
        if isinstance(separation, SkippedMixture):
            continue
        if separation.rest_is_silence and isinstance(score, SkippedMixture):
            # Measures of the noise of a source at rest would mislead whoever reads the record.
            continue
        names = tuple(video.name for video in separation.videos)
        centres: tuple[int, ...] = ()
        if any(video.centre is not None for video in separation.videos):
            centres = tuple(map(middle_frame, separation.videos))
        record = Record(separation.number, names, separation.sources, separation.masks, centres)
        write_record(sounds, record)
        if separation.number < params.evaluate.shown:
            write_sounds(separation, sounds, params.extract.sample_rate)
    make_folder(sounds)
    rows = table(score for score in scores if isinstance(score, Score))
    write_text(plots / MIXTURES_FILE, rows.to_csv(index=False, float_format="%.4f"))
    by_category = rows.groupby("category")
    categories = by_category[list(MEASURES)].mean().reset_index()
    categories["silent"] = by_category["silent"].sum().to_numpy()
    write_text(plots / CATEGORIES_FILE, categories.to_csv(index=False, float_format="%.4f"))
    return scores


def write_sounds(separation: SeparatedMixture, folder: Path, sample_rate: int) -> None:
    """Write a mixture, its true sources and their estimates as 16-bit WAV files.

    The files are `<number>/mixture.wav`, `<number>/1-<category>-true.wav`,
    `<number>/1-<category>-separated.wav` and so on.
    """
    place = folder / f"{separation.number:03d}"
    write_sound(place / "mixture.wav", separation.mixture, sample_rate)
    for position, video in enumerate(separation.videos):
        name = f"{position + 1}-{video.category}"
        write_sound(place / f"{name}-true.wav", separation.truth[position], sample_rate)
        write_sound(place / f"{name}-separated.wav", separation.estimates[position], sample_rate)
