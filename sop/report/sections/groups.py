"""Section on groups of runs: the comparison that `sop compare --report` wrote."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sop.evaluate.intervals import Interval
from sop.report import charts
from sop.report.comparison import DECIDING, SAME, UNDECIDED, verdict_of
from sop.report.groups import GROUPS_PATH
from sop.report.page import MEASURE_NAMES, Chart, Column, Section, Table, Text
from sop.report.wording import counted

NAME = "Groups"


def groups_section(root: Path) -> Section | None:
    """Show the comparison of groups; None if there is none.

    Args:
        root: of the repository.
    """
    path = root / GROUPS_PATH
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Section(NAME, list(_blocks(found)), title="Groups of runs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        reason = f"{GROUPS_PATH} cannot be read"
    except (AttributeError, IndexError, KeyError, TypeError):
        reason = f"{GROUPS_PATH} is not what `sop compare --report` writes"
    return Section(NAME, [], title="Groups of runs", empty=f"{reason}; write it again.")


def _blocks(found: Mapping[str, Any]) -> Iterator[Text | Table | Chart]:
    groups = found["groups"]
    for difference in found["differences"]:
        yield Text(_lead(difference), "lead")
    when = f"on {found['written']}" if "written" in found else "at an unknown time"
    yield Text(
        f"Written by sop compare --report {when}, from the runs that are listed below; "
        "later results are not in it."
    )
    mixtures = counted(int(found["mixtures"]), "mixture")
    which = "the same in all runs" if found["paired"] else "not the same in all runs"
    notes = [f"Over {mixtures}, {which}.", *(f"Note: {note}." for note in found["notes"])]
    first = str(groups[0]["name"])
    changes = [Column(f"Difference from {first}, 95 % interval", "change")]
    columns = [
        Column("Group"),
        Column("Runs", "count"),
        Column("Mean, 95 % interval", "decibels"),
        Column("Standard deviation of the runs", "decibels"),
        *(changes if found["differences"] else []),
    ]
    differences = {one["group"]: one["measures"] for one in found["differences"]}
    for measure in groups[0]["measures"]:
        rows = []
        for group in groups:
            own, name = group["measures"][measure], str(group["name"])
            change = _interval(differences[name][measure]) if name in differences else None
            row = [name, len(group["runs"]), _interval(own), own["deviation"]]
            rows.append([*row, *([change] if differences else [])])
        title = f"{MEASURE_NAMES.get(measure, str(measure))}, dB"
        yield Table(columns, rows, title, note=" ".join(notes) if measure == DECIDING else "")
    points = [
        {
            "group": str(group["name"]),
            "run": str(run["name"]),
            "seed": str(run["seed"]),
            "sdr": charts.finite(run["means"][DECIDING], 4),
        }
        for group in groups
        for run in group["runs"]
    ]
    yield Chart("Mean SDR of each run", charts.runs(points), wide=True)
    yield Table(
        [
            Column("Run"),
            Column("Commit"),
            Column("Group"),
            Column("Seed"),
            Column("Mean SDR, dB", "decibels"),
            Column("Silent estimates", "count"),
        ],
        [
            [
                str(run["name"]),
                "not committed" if run["commit"] is None else str(run["commit"])[:7],
                str(group["name"]),
                str(run["seed"]),
                charts.finite(run["means"][DECIDING]),
                run["silent_estimates"],
            ]
            for group in groups
            for run in group["runs"]
        ],
        "Runs",
    )
    names = [Column(str(group["name"])) for group in groups]
    if found["params"]:
        rows = [[str(key), *map(str, values)] for key, values in found["params"].items()]
        yield Table([Column("Parameter"), *names], rows, "Parameters that differ")


def _lead(difference: Mapping[str, Any]) -> str:
    group, reference = str(difference["group"]), str(difference["reference"])
    found = difference["measures"][DECIDING]
    verdict = verdict_of(_interval(found))
    covers = "videos and training seeds" if found["seeds"] else "videos, not training seeds"
    if verdict == SAME:
        return f"{group} and {reference}: the results are the same."
    if found["low"] is None:
        return f"{group} and {reference}: {UNDECIDED}; there are too few mixtures for an interval."
    if verdict == UNDECIDED:
        return f"{group} and {reference}: there is {UNDECIDED}. The interval covers {covers}."
    return f"{group} is {verdict} than {reference}. The interval covers {covers}."


def _interval(found: Mapping[str, Any]) -> Interval:
    mean, low, high = (
        None if found[key] is None else float(found[key]) for key in ("mean", "low", "high")
    )
    if mean is None:
        raise TypeError("no mean")
    return Interval(mean, low, high)
