"""The stage download, run on changed parameters, and the files that it writes."""

import csv
from pathlib import Path
from typing import Any

from sop.download.download import download as download_to
from sop.download.sources import CachePaths
from sop.params import Params, validate


def changed(params: Params, **dataset: Any) -> Params:
    """Parameters of another source; a section given is merged into the one there."""
    values = params.model_dump()
    values["index"]["min_seconds"] = 1.0
    for name, value in dataset.items():
        if isinstance(value, dict):
            values["dataset"][name].update(value)
        else:
            values["dataset"][name] = value
    return validate(Params, values, "test")


def local(params: Params, folder: Path) -> Params:
    return changed(params, source="local", local={"folder": str(folder)})


def download(params: Params, folder: Path) -> dict[str, Any]:
    """The stage's work, with what it keeps for itself beside the folder."""
    root = folder.parent
    caches = CachePaths(root / "lists", root / "partial", root / "hashes.sqlite")
    return download_to(params, folder, caches)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("*/*")}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
