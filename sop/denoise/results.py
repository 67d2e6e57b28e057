"""Results of the stage `denoise`: measures, tables for plots, and sounds to listen to."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sop.denoise.guard import Kept
from sop.denoise.selection import Denoised
from sop.denoise.settings import METHODS, NONE, FilterSettings, MethodSettings
from sop.denoise.trial import DENOISE_MEASURES, NOTEBOOK_SNR, Trial
from sop.evaluate.intervals import Interval
from sop.evaluate.records import read_record, write_sound
from sop.params import Params
from sop.runtime.files import make_folder, write_text

SWEEP_FILE = "sweep.csv"
HELD_OUT_FILE = "held_out.csv"

SETTINGS = ("taps", "rate", "forgetting", "power", "frames", "iterations")
"""Names of the settings of all methods: columns of the table of all candidates."""


def write_denoised(
    denoised: Denoised, paths: Sequence[Path], params: Params, sounds: Path, plots: Path
) -> None:
    """Write the tables, and the sounds of the shown mixtures as 16-bit WAV files.

    Args:
        denoised: result of the competition.
        paths: the records of the stage `evaluate`.
        params: the number of shown mixtures, and what the records depend on.
        sounds: folder of `<number>/<n>-<category>-denoised.wav`.
        plots: folder of `SWEEP_FILE`, all candidates on the tuning mixtures, and `HELD_OUT_FILE`,
            each held-out sound before and after the best candidate of each method.
    """
    sweep, held_out = sweep_table(denoised), held_out_table(denoised)
    write_text(plots / SWEEP_FILE, sweep.to_csv(index=False, float_format="%.6g"))
    write_text(plots / HELD_OUT_FILE, held_out.to_csv(index=False, float_format="%.6g"))
    make_folder(sounds)
    for path in paths:
        record = read_record(path)
        if record.number >= params.evaluate.shown:
            continue
        after = Trial(record, params).after(denoised.chosen)
        for n, (category, sound) in enumerate(zip(record.categories, after, strict=True), start=1):
            place = sounds / f"{record.number:03d}" / f"{n}-{category}-denoised.wav"
            write_sound(place, sound, params.extract.sample_rate)


def denoise_summary(denoised: Denoised) -> dict[str, Any]:
    """Return the content of metrics/denoise.json; measures are means over held-out mixtures."""
    chosen, tuning, held_out = denoised.chosen, denoised.tuning, denoised.held_out
    none = Interval(0.0, 0.0, 0.0) if held_out.mixtures else None

    def changes(candidate: MethodSettings | None) -> dict[str, Any]:
        return {
            name: change and change._asdict()
            for name in DENOISE_MEASURES
            for change in [held_out.interval(candidate, name) if candidate else none]
        }

    def kept(candidate: MethodSettings) -> dict[str, Any]:
        if not isinstance(candidate, FilterSettings):
            return {}
        return {"kept": asdict(denoised.kept.get(candidate, Kept()))}

    def means(candidate: MethodSettings | None) -> dict[str, Any]:
        values: dict[str, Any] = {name: held_out.mean(name, candidate) for name in DENOISE_MEASURES}
        return {"sdr": values.pop("sdr"), "silent_estimates": held_out.silent(candidate), **values}

    return {
        "method": chosen.method if chosen else NONE,
        "setting": chosen.values if chosen else {},
        "reason": denoised.reason,
        "mixtures": {
            "tuning": tuning.mixtures,
            "tuning_videos": tuning.videos,
            "held_out": held_out.mixtures,
            "held_out_videos": held_out.videos,
            "left_out": len(denoised.left_out),
            "reasons": {str(number): why for number, why in sorted(denoised.left_out.items())},
        },
        "before": means(None),
        "after": means(chosen),
        "change": changes(chosen),
        "methods": {
            method: {
                "setting": best.values,
                "silent_estimates": held_out.silent(best),
                "change": changes(best),
            }
            | kept(best)
            for method, best in tuning.best_of_each_method().items()
        },
        "footnote": {
            "about": "what the notebook called SNR: mean over standard deviation of the waveform",
            NOTEBOOK_SNR: {
                "before": held_out.mean(NOTEBOOK_SNR, None),
                "after": held_out.mean(NOTEBOOK_SNR, chosen),
            },
        },
        "lms_rates_bounded": sorted(map(str, denoised.bounded)),
    }


def sweep_table(denoised: Denoised) -> pd.DataFrame:
    """Return one row for each candidate: mean changes of the measures on the tuning mixtures.

    `setting` and `at` are the candidate's row and column in a heat map.
    """
    tuning = denoised.tuning

    def row(candidate: MethodSettings) -> dict[str, Any]:
        changes = {name: tuning.interval(candidate, name) for name in DENOISE_MEASURES}
        sdr, sir = changes["sdr"], changes["sir"]
        values = candidate.values
        size = "taps" if isinstance(candidate, FilterSettings) else "power"
        rest = [f"{name} {value:g}" for name, value in values.items() if name != size]
        return {
            "method": candidate.method,
            "setting": ", ".join([candidate.method, *rest]),
            "size": "taps" if size == "taps" else "power of the masks",
            "at": values[size],
            **{name: values.get(name) for name in SETTINGS},
            **{f"{name}_change": change and change.mean for name, change in changes.items()},
            "sdr_low": sdr and sdr.low,
            "sdr_high": sdr and sdr.high,
            "chosen": int(candidate == denoised.chosen),
            "sir_low": sir and sir.low,
        }

    return pd.DataFrame(map(row, tuning.tried))


def held_out_table(denoised: Denoised) -> pd.DataFrame:
    """Return one row for each held-out sound and method, sorted by method.

    The rows without denoising come first; their `sdr_change` is empty.
    """

    def rows() -> Iterator[dict[str, Any]]:
        methods = [NONE, *(candidate.method for candidate in denoised.held_out.tried)]
        for mixture in denoised.measured.values():
            for position, name in enumerate(mixture.videos):
                for method, values in zip(methods, mixture.values, strict=True):
                    before = mixture.values[0, 0, position]
                    yield {
                        "mixture": mixture.number,
                        "source": position + 1,
                        "category": name.partition("/")[0],
                        "video": name,
                        "method": method,
                        **dict(zip(DENOISE_MEASURES, values[:, position], strict=False)),
                        "sdr_change": None if method == NONE else values[0, position] - before,
                    }

    columns = ["mixture", "source", "category", "video", "method", *DENOISE_MEASURES, "sdr_change"]
    order = (NONE, *METHODS).index
    return pd.DataFrame(rows(), columns=columns).sort_values(
        "method", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )
