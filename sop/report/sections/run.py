"""Sections on the data and on times."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from sop.report.outputs import STAGES, details, on_host, why_missing
from sop.report.page import Cell, Column, Section, Table
from sop.runtime.stage import host_name, read_note


def data_section(root: Path) -> Section:
    """Show how many videos each stage got and used."""
    download, extract, index = (details(root, name) for name in ("download", "extract", "index"))
    # The metrics are empty where prepared data took the place of the stage's outputs.
    if not download:
        return Section("Data", [], empty=why_missing("download"))
    extracted = (extract or {}).get("category", {})
    sides = (index or {}).get("category", {})
    # There is a test list only if a file names its videos.
    test = {"test": "test"} if "test" in sides else {}
    of_sides = {"training": "train", "validation": "validation", **test}
    used, kept_out = {}, {}
    for category, found in download["category"].items():
        got = [found[name] for name in ("done", "unavailable", "failed")]
        got.append(extracted.get(category, 0))
        on_sides = [sides.get(side, {}).get(category, 0) for side in of_sides.values()]
        kept = sides.get("duets", {}).get(category, 0)
        if kept and not any(on_sides):
            kept_out[category] = [*got, kept]
        else:
            used[category] = [*got, *on_sides]
    got_names = ("downloaded", "unavailable", "failed", "extracted")
    size = f"{download['hours']:.2f} hours, {download['bytes'] / 2**20:.0f} MiB"
    tables = [
        _count_table(
            "Videos",
            used,
            (*got_names, *of_sides),
            f"{size}{' with the duets' if kept_out else ''}, source {download['source']}.",
        )
    ]
    if kept_out:
        note = "They are used only if index.duets is true."
        names = (*got_names, "kept out")
        tables.append(
            _count_table("Duets, neither trained nor validated on", kept_out, names, note)
        )
    for name, found, kind in (
        ("download", download, "unavailable"),
        ("download for now", download, "failed"),
        ("extract", extract, "left_out"),
        ("index", index, "left_out"),
    ):
        if reasons := (found or {}).get(kind, {}).get("reasons", {}):
            columns = [Column("video"), Column("reason")]
            tables.append(Table(columns, sorted(reasons.items()), f"Left out by {name}"))
    if stills := (extract or {}).get("stills", {}).get("reasons", {}):
        columns = [Column("video"), Column("pictures")]
        tables.append(Table(columns, sorted(stills.items()), "Stills and slideshows"))
    return Section("Data", tables)


def _count_table(
    title: str, counts: Mapping[str, Sequence[int]], names: Sequence[str], note: str
) -> Table:
    """Return a table of counts by category, after their sums."""
    sums = [sum(column) for column in zip(*counts.values(), strict=True)] or [0] * len(names)
    rows: list[list[Cell]] = [
        [category, *row] for category, row in (("all", sums), *counts.items())
    ]
    columns = [Column("category"), *(Column(name, "count") for name in names)]
    return Table(columns, rows, title, note)


def timing_section(written: str) -> Section:
    """Show when, where and how long the stages ran, and the machine that writes the report.

    Args:
        written: time at which the report is written.
    """
    notes = {name: read_note(name) for name in STAGES}
    rows: list[list[Cell]] = [
        [name, note.seconds, (note.peak_mib or 0) * 2**20, note.ended, on_host(note)]
        for name, note in notes.items()
        if note.seconds is not None
    ]
    columns = [
        Column("stage"),
        Column("seconds", "seconds"),
        Column("largest process", "bytes"),
        Column("ended"),
        Column("host"),
    ]
    note = (
        "The last recorded run of each stage in this working copy. Results that DVC took from its "
        "cache come from another run, which may have taken place on another host."
    )
    machine: list[list[Cell]] = [
        ["processor", _processor()],
        ["cores", f"{psutil.cpu_count()}"],
        ["memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"],
        ["GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"],
        ["system", f"{platform.system()} {platform.machine()}"],
        ["Python", platform.python_version()],
        ["PyTorch", torch.__version__],
    ]
    title = f"Host {host_name()}, which wrote this report on {written}"
    tables = [Table(columns, rows, "Stages", note)] if rows else []
    tables.append(Table([Column("property"), Column("value")], machine, title))
    return Section("Timing", tables, title="Times and machine")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
