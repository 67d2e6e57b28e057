"""What the stages before the report wrote; a file that is missing or damaged reads as None."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sop.runtime.stage import StageNote, read_note

STAGES = ("download", "extract", "index", "train", "evaluate", "localize", "denoise")


def read_csv(path: Path, *columns: str, separator: str = ",") -> pd.DataFrame | None:
    """Read a table with at least these columns; only empty cells are missing values."""
    try:
        table = pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    except (OSError, ValueError):
        return None
    return table if set(columns) <= set(table.columns) else None


def details(root: Path, name: str) -> dict[str, Any] | None:
    """Read all that a stage measured, `metrics/details/<name>.json`."""
    try:
        text = (root / f"metrics/details/{name}.json").read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def why_missing(stage: str) -> str:
    """Return why a stage wrote nothing: the first failure up to it, or that it has not run."""
    for failure in _failures(STAGES[: STAGES.index(stage) + 1]):
        return failure
    return f"The stage `{stage}` has not run."


def warnings() -> list[str]:
    """Return a sentence on each stage whose last run failed."""
    stale = "Its results and those of later stages are from an earlier run."
    return [f"{failure} {stale}" for failure in _failures(STAGES)]


def on_host(note: StageNote) -> str:
    """Return `on host X`, or that the host is unknown."""
    return "on an unknown host" if note.host == StageNote.host else f"on host {note.host}"


def _failures(stages: Sequence[str]) -> Iterator[str]:
    for name in stages:
        note = read_note(name)
        if note.error:
            error = note.error.rstrip(".")
            yield f"The stage {name} failed ({note.ended}, {on_host(note)}): {error}."
