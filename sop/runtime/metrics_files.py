"""What a stage measured, as files in git: what experiments are compared by, and the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sop.runtime.files import write_json

METRICS = Path("metrics")
# What nobody compares experiments by, and would be a column of `dvc exp show` for each category.
DETAILS = frozenset(
    {
        "before",
        "category",
        "footnote",
        "lms_rates_bounded",
        "methods",
        "reason",
        "reasons",
        "scenes",
        "setting",
    }
)


def write_metrics(name: str, values: Mapping[str, Any]) -> None:
    """Write what was measured: all of it, and what experiments are compared by.

    Args:
        name: of `metrics/<name>.json`, which DVC shows, and `metrics/details/<name>.json`, which
            holds what is in `DETAILS` as well.
        values: to be written as JSON.
    """
    write_json(METRICS / "details" / f"{name}.json", values)
    write_json(METRICS / f"{name}.json", _brief(values))


def _brief(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _brief(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in DETAILS
    }
