"""Metrics of a stage as JSON files: one for comparing experiments, and one with all details."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sop.runtime.files import write_json

METRICS = Path("metrics")


def write_metrics(name: str, values: Mapping[str, Any], compared: Collection[str]) -> None:
    """Write `metrics/details/<name>.json`, and `metrics/<name>.json`, which DVC compares.

    Args:
        name: name of the files without suffix.
        values: all metrics, for `metrics/details`.
        compared: dotted keys by which experiments are compared, such as `sdr.mean`; of a section,
            all of it. Keys that `values` lacks are skipped. Each number in this file becomes a
            column of `dvc exp show`.
    """
    write_json(METRICS / "details" / f"{name}.json", values)
    write_json(METRICS / f"{name}.json", _only(compared, values))


def _only(compared: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        below = [name.removeprefix(f"{key}.") for name in compared if name.startswith(f"{key}.")]
        if key in compared:
            found[key] = value
        elif below and isinstance(value, Mapping) and (inner := _only(below, value)):
            found[key] = inner
    return found
