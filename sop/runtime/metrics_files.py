"""Metrics of a stage as JSON files: one for comparing experiments, and one with all details."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sop.runtime.files import write_json

METRICS = Path("metrics")


def write_metrics(name: str, values: Mapping[str, Any], details: Collection[str] = ()) -> None:
    """Write `metrics/<name>.json`, which DVC compares, and `metrics/details/<name>.json`.

    Args:
        name: name of the files without suffix.
        values: all metrics.
        details: keys, at any depth, that are written to `metrics/details` only. Each number in the
            other file becomes a column of `dvc exp show`.
    """
    write_json(METRICS / "details" / f"{name}.json", values)
    write_json(METRICS / f"{name}.json", _without(details, values))


def _without(details: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without(details, value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in details
    }
