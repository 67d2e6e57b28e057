"""Measures of a stage as JSON files: those that experiments are compared by, and all details."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sop.runtime.files import write_json

METRICS = Path("metrics")


def write_metrics(name: str, values: Mapping[str, Any], details: Collection[str] = ()) -> None:
    """Write `metrics/<name>.json`, which DVC compares, and `metrics/details/<name>.json`.

    Args:
        name: of the files.
        values: all that was measured, to be written as JSON.
        details: keys, at any depth, that only the file in `metrics/details` gets. Each number of
            the other file is a column of `dvc exp show`, and nobody compares experiments by these.
    """
    write_json(METRICS / "details" / f"{name}.json", values)
    write_json(METRICS / f"{name}.json", _without(details, values))


def _without(details: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without(details, value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in details
    }
