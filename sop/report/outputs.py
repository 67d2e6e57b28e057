"""What the stages before the report wrote; a file that is missing or damaged reads as None."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sop.runtime.stage import StageNote, read_note

STAGES = ("download", "extract", "index", "train", "evaluate", "denoise")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read an object from a JSON file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_csv(path: Path, *columns: str, separator: str = ",") -> pd.DataFrame | None:
    """Read a table with at least these columns; only empty cells are missing values."""
    try:
        table = pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    except (OSError, ValueError):
        return None
    return table if set(columns) <= set(table.columns) else None


def details(root: Path, name: str) -> dict[str, Any] | None:
    """Read all that a stage measured, `metrics/details/<name>.json`."""
    return read_json(root / f"metrics/details/{name}.json")


def why_missing(stage: str, otherwise: str) -> str:
    """Return why a stage wrote nothing: the first failure up to it, or else the given sentence."""
    for name in STAGES[: STAGES.index(stage) + 1]:
        note = read_note(name)
        if note.error:
            return _failure(name, note)
    return otherwise


def warnings() -> list[str]:
    """Return a sentence on each stage whose last run failed."""
    notes = {name: read_note(name) for name in STAGES}
    return [
        f"{_failure(name, note)} Its results and those of later stages are from an earlier run."
        for name, note in notes.items()
        if note.error
    ]


def _failure(name: str, note: StageNote) -> str:
    error = note.error.rstrip(".")
    return f"The stage {name} failed ({note.ended}, {on_host(note)}): {error}."


def on_host(note: StageNote) -> str:
    """Return `on host X`, or that the host is unknown."""
    return "on an unknown host" if note.host == StageNote.host else f"on host {note.host}"
