"""Section on denoising: what was chosen, and what each method changes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sop.denoise.selection import MAX_SIR_LOSS_DB
from sop.denoise.settings import NONE, MethodSettings, settings_of
from sop.evaluate.intervals import Interval
from sop.report import charts
from sop.report.page import MEASURE_NAMES, Cell, Chart, Column, Section, Table, Text
from sop.report.wording import counted

SHOWN_MEASURES = ("sdr", "sir", "sar", "si_sdr")


def chosen_settings(metrics: Mapping[str, Any] | None) -> MethodSettings | None:
    """Return the settings of the chosen method; None if no method was chosen.

    Args:
        metrics: the content of metrics/details/denoise.json; None if it is missing.
    """
    if metrics is None or metrics["method"] == NONE:
        return None
    return settings_of(metrics["method"], metrics["setting"])


def denoised_sdr(metrics: Mapping[str, Any], held_out: pd.DataFrame) -> pd.DataFrame:
    """Return the SDR after denoising of held-out sources: `mixture`, `source`, `sdr_denoised`."""
    rows = held_out[(held_out["method"] == metrics["method"]) & (held_out["method"] != NONE)]
    # Of a method with two settings, the last one is the chosen one.
    rows = rows.drop_duplicates(["mixture", "source"], keep="last")
    rows = rows[["mixture", "source", "sdr"]].rename(columns={"sdr": "sdr_denoised"})
    # The columns of a table without rows have no numeric type.
    return rows.astype({"mixture": int, "source": int, "sdr_denoised": float})


def denoise_section(
    metrics: Mapping[str, Any], sweep: pd.DataFrame, held_out: pd.DataFrame
) -> Section:
    """Show the choice, the best setting of each method on held-out mixtures, and all settings.

    Args:
        metrics: the content of metrics/details/denoise.json.
        sweep: the change of each setting on the tuning mixtures.
        held_out: measures of each held-out source and method.
    """
    chosen = chosen_settings(metrics) or NONE
    before = [metrics["before"][name] for name in SHOWN_MEASURES]
    # Mean, then its change, of each measure.
    columns = [Column("Method"), Column("Setting")]
    held_out_mixtures = counted(metrics["mixtures"]["held_out"], "held-out mixture")
    rows: list[list[Cell]] = [[f"not denoised ({held_out_mixtures})", ""]]
    for name, value in zip(SHOWN_MEASURES, before, strict=True):
        columns += [Column(MEASURE_NAMES[name], "decibels"), Column("Change", "change")]
        rows[0] += [value, None]
    columns.append(Column("Silent estimates", "count"))
    rows[0].append(metrics["before"].get("silent_estimates"))
    emphasized = []
    for method, found in metrics["methods"].items():
        is_chosen = (method, found["setting"]) == (metrics["method"], metrics["setting"])
        if is_chosen:
            emphasized.append(len(rows))
        row: list[Cell] = [method + " (chosen)" * is_chosen, _setting(found["setting"])]
        for name, value in zip(SHOWN_MEASURES, before, strict=True):
            change = found["change"][name]
            after = None if value is None or change is None else value + change["mean"]
            row += [after, None if change is None else Interval(**change)]
        row.append(found.get("silent_estimates"))
        rows.append(row)
    ratio = metrics["footnote"]["mean_over_std"]
    note = (
        f"Means in dB over {held_out_mixtures}; changes "
        "with 95 % intervals. For comparison only, mean of the waveform divided by its standard "
        "deviation, which does not measure noise: "
        f"{_number(ratio['before'])} before, {_number(ratio['after'])} after."
    )
    return Section(
        "Denoise",
        [
            Text(f"Chosen: {chosen}; {metrics['reason']}.", "lead"),
            Table(columns, rows, emphasized=emphasized, note=note),
            *_change_charts(metrics["methods"], held_out),
            *_sweep_charts(sweep),
        ],
        title="Denoising",
    )


def _change_charts(methods: Mapping[str, Any], held_out: pd.DataFrame) -> Iterator[Chart]:
    means = held_out.groupby(["method", "mixture"])["sdr_change"].mean().dropna()
    changes = {method: means[means.index.isin([method], "method")].tolist() for method in methods}
    if any(changes.values()):
        spec = charts.change_boxes(changes)
        yield Chart("Change of SDR", spec, "In each held-out mixture", wide=True)


def _sweep_charts(sweep: pd.DataFrame) -> Iterator[Chart]:
    """Draw all settings of each method as heat maps of two of its parameters.

    They share one scale of colours, whose legend comes first.
    """
    axes = {
        "lms": ("taps", "rate"),
        "nlms": ("taps", "rate"),
        "rls": ("taps", "forgetting"),
        "renormalise": ("power", ""),
    }
    parts = [(method, sweep[sweep["method"] == method], *axes[method]) for method in axes]
    wiener = sweep[sweep["method"] == "wiener"].groupby("iterations")
    parts += [(f"wiener, iterations {n:g}", part, "power", "frames") for n, part in wiener]
    if not sweep["sdr_change"].notna().any():
        return
    largest = charts.largest_change(sweep["sdr_change"])
    caption = (
        "Mean changes of SDR on the tuning mixtures, in dB. \N{MULTIPLICATION X}: excluded, as "
        f"it may cost more than {MAX_SIR_LOSS_DB:g} dB of SIR (95 % interval)."
    )
    yield Chart("All settings", charts.colour_scale(largest), caption, wide=True)
    for title, part, rows, columns in parts:
        if part["sdr_change"].notna().any():
            settings = part[columns] if columns else [None] * len(part)
            cells = list(zip(part[rows], settings, part["sdr_change"], strict=True))
            lowest = part["sir_low"] if "sir_low" in part else pd.Series(np.nan, part.index)
            excluded = (lowest < -MAX_SIR_LOSS_DB).tolist()
            yield Chart(title, charts.sweep(rows, columns, cells, largest, excluded))


def _setting(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{round(value, 4) + 0.0:.4f}".replace("-", "\N{MINUS SIGN}")  # not -0.0000
