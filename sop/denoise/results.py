"""What the stage `denoise` leaves behind: sounds to listen to, and tables for plots."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sop.denoise.selection import MEASURES, METHODS, NONE, Candidate, Denoised, Trial
from sop.evaluate.records import read_record, write_sound
from sop.params import Params
from sop.runtime.files import write_text

SETTINGS = ("taps", "rate", "forgetting", "power", "frames", "iterations")


def write_denoised(
    denoised: Denoised, paths: Sequence[Path], params: Params, sounds: Path, plots: Path
) -> None:
    """Write the tables, and the sounds of the shown mixtures as 16-bit WAV files.

    Args:
        denoised: what was found.
        paths: the records of `evaluate`.
        params: how many mixtures are shown.
        sounds: folder for `<number>/<n>-<category>-denoised.wav`.
        plots: folder for `sweep.csv`, all that was tried on the mixtures for tuning, and
            `held_out.csv`, each held-out sound before and after the best of each method.
    """
    sweep, held_out = sweep_table(denoised), held_out_table(denoised)
    write_text(plots / "sweep.csv", sweep.to_csv(index=False, float_format="%.6g"))
    write_text(plots / "held_out.csv", held_out.to_csv(index=False, float_format="%.6g"))
    sounds.mkdir(parents=True, exist_ok=True)
    for path in paths:
        record = read_record(path)
        if record.number >= params.evaluate.shown:
            continue
        after = Trial(record, params).after(denoised.choice.candidate)
        for position, (category, sound) in enumerate(
            zip(record.categories, after, strict=True), start=1
        ):
            name = f"{position}-{category}-denoised.wav"
            place = sounds / f"{record.number:03d}" / name
            write_sound(place, sound, params.extract.sample_rate)


def sweep_table(denoised: Denoised) -> pd.DataFrame:
    """One row for each candidate: mean change of each measure on the mixtures for tuning.

    `setting` and `at` are its row and column in a heat map.
    """
    tuning = denoised.tuning

    def row(candidate: Candidate) -> dict[str, Any]:
        changes = {name: tuning.interval(candidate, name) for name in MEASURES}
        sdr = changes["sdr"]
        return {
            "method": candidate.method,
            "setting": _without_size(candidate),
            "size": "taps" if candidate.taps else "power of the masks",
            "at": candidate.taps or candidate.power,
            **{name: candidate.setting.get(name) for name in SETTINGS},
            **{f"{name}_change": change and change.mean for name, change in changes.items()},
            "sdr_low": sdr and sdr.low,
            "sdr_high": sdr and sdr.high,
            "chosen": int(candidate == denoised.choice.candidate),
        }

    columns = ["method", "setting", "size", "at", *SETTINGS]
    columns += [*(f"{name}_change" for name in MEASURES), "sdr_low", "sdr_high", "chosen"]
    return pd.DataFrame(map(row, tuning.tried), columns=columns)


def _without_size(candidate: Candidate) -> str:
    """A candidate's name and settings but for taps or power."""
    rest = [f"{k} {v:g}" for k, v in candidate.setting.items() if k not in ("taps", "power")]
    return ", ".join([candidate.method, *rest])


def held_out_table(denoised: Denoised) -> pd.DataFrame:
    """One row for each held-out sound and method, doing nothing first.

    `sdr_change` is empty where nothing was done.
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
                        **dict(zip(MEASURES, values[:, position], strict=False)),
                        "sdr_change": None if method == NONE else values[0, position] - before,
                    }

    columns = ["mixture", "source", "category", "video", "method", *MEASURES, "sdr_change"]
    table = pd.DataFrame(rows(), columns=columns)
    order = {name: number for number, name in enumerate((NONE, *METHODS))}
    return table.sort_values(
        "method", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )
