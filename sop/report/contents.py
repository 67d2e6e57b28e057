"""Gather what the report shows, from what the stages before it left; what is missing is said.

Nothing here fails because a stage did: its section tells why it is empty.
"""

import json
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import psutil
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from threadpoolctl import threadpool_limits

from sop.dataset.index import VALIDATION, Video, read_index
from sop.denoise.bootstrap import Interval
from sop.denoise.results import HELD_OUT_FILE, SWEEP_FILE
from sop.denoise.settings import NONE, MethodSettings, settings_of
from sop.denoise.trial import Trial
from sop.evaluate.localization_metrics import KINDS
from sop.evaluate.measures import bss_eval
from sop.evaluate.records import read_record, record_paths
from sop.evaluate.results import MIXTURES_FILE
from sop.inference.separator import Separator
from sop.params import Params
from sop.report import charts
from sop.report.charts import write_png
from sop.report.comparison import compare
from sop.report.mixture_files import Sources, ideal_masks, write_mixture
from sop.report.page import (
    MEASURES,
    Absent,
    Column,
    Comparison,
    Curve,
    Denoise,
    DenoiseMethod,
    Difference,
    Headline,
    Mixture,
    MixtureFiles,
    PageContent,
    Parameter,
    Parameters,
    Scale,
    Source,
    SourceFiles,
    Step,
    Summary,
    Sweep,
    Table,
    write_page,
)
from sop.report.param_changes import ParamChange, changed_params, flattened
from sop.report.revisions import WORKSPACE
from sop.runtime.device import one_thread
from sop.runtime.errors import UserError
from sop.runtime.progress import progress
from sop.runtime.stage import read_note

STAGES = ("download", "extract", "index", "train", "evaluate", "denoise", "report")

MIXTURES = "mixtures"

# Of both ends of the scale: more mixtures make the means no better than the eye can tell.
MOST_ON_SCALE = 100

_Files = Mapping[int, tuple[MixtureFiles, Sequence[SourceFiles]]]


def write_report(root: Path, folder: Path, plots: Path, params: Params) -> Path:
    """Write the report on what the stages left.

    Args:
        root: of the repository.
        folder: gets the page and its files.
        plots: gets `scale.png`, for those who do not open the page.
        params: of the run.

    Returns:
        The page.
    """
    # Of a run by hand before; DVC removes it itself.
    shutil.rmtree(folder / MIXTURES, ignore_errors=True)
    evaluated, why_not = _evaluated(root)
    denoised = _json(root / "metrics/details/denoise.json")
    candidate = _candidate(denoised)
    files = {} if evaluated is None else _write_files(root, folder, params, evaluated, candidate)
    absent = Absent(why_not)
    content = PageContent(
        title=f"The Sound of Pixels: {params.dataset.source}",
        revision=_revision(root),
        warnings=_warnings(),
        headline=absent if evaluated is None else _headline(evaluated),
        scale=absent if evaluated is None else _scale(root, params, evaluated, candidate),
        comparison=absent if evaluated is None else _comparison(root, params.seed),
        curves=_curves(root / "metrics/train/plots/metrics"),
        mixtures=absent if evaluated is None else _mixtures(root, evaluated, denoised, files),
        denoise=_denoise(root, denoised),
        localization=_localization(_json(root / "metrics/details/localization.json")),
        parameters=_parameters(root),
        data=_data(root),
        timing=_timing(),
    )
    plots.mkdir(parents=True, exist_ok=True)
    if isinstance(content.scale, Scale):
        steps = [(step.name, step.measures.get("sdr"), step.kind) for step in content.scale.steps]
        write_png(charts.scale(steps), plots / "scale.png")
    return write_page(folder, content)


@dataclass(frozen=True)
class _Evaluated:
    """What `evaluate` left."""

    metrics: Mapping[str, Any]
    scores: pd.DataFrame
    records: Sequence[Path]


def _evaluated(root: Path) -> tuple[_Evaluated | None, str]:
    """What `evaluate` left, or why there is nothing."""
    metrics = _json(root / "metrics/details/evaluate.json")
    scores = _csv(root / "metrics/evaluate" / MIXTURES_FILE)
    try:
        records = record_paths(root / "data/evaluate")
    except UserError:
        records = []
    reason = _why_not("evaluate")
    if metrics is None or scores is None or not records:
        return None, reason or "Nothing was evaluated yet; `dvc repro` does it."
    return _Evaluated(metrics, scores, records), ""


def _why_not(stage: str) -> str:
    """What went wrong on the way to a stage; empty if nothing is known."""
    for name in STAGES[: STAGES.index(stage) + 1]:
        if error := read_note(name).get("error"):
            return f"The stage {name} failed: {error}"
    return ""


def _warnings() -> list[str]:
    failed = [(name, read_note(name).get("error")) for name in STAGES[:-1]]
    return [
        f"The last run of the stage {name} failed: {error} What is shown of it and of what follows "
        "is from a run before."
        for name, error in failed
        if error
    ]


def _headline(evaluated: _Evaluated) -> Headline:
    metrics = evaluated.metrics
    mixtures = metrics["mixtures"]
    return Headline(
        {name: Summary(**metrics[name]) for name in MEASURES if name in metrics},
        mixtures["counted"],
        dict(Counter(mixtures["reasons"].values())),
    )


def _candidate(denoised: Mapping[str, Any] | None) -> MethodSettings | None:
    """What `denoise` took; None if it took nothing, or did not run."""
    if denoised is None or denoised["method"] == NONE:
        return None
    return settings_of(denoised["method"], denoised["setting"])


def _scale(
    root: Path, params: Params, evaluated: _Evaluated, candidate: MethodSettings | None
) -> Scale | Absent:
    """Doing nothing, the model, and the best that masks can do, on the same mixtures."""
    held_out = _csv(root / "metrics/denoise" / HELD_OUT_FILE)
    wanted = set(evaluated.scores["mixture"])
    if held_out is not None and len(held_out):
        wanted &= set(held_out["mixture"])
    records = [path for path in evaluated.records if int(path.stem) in wanted][:MOST_ON_SCALE]
    if not records:
        return Absent("No mixture could be measured.")
    steps: list[tuple[str, Literal["bound", "model"], str]] = [
        ("Nothing done", "bound", "the mixture itself for each source"),
        ("Model", "model", ""),
    ]
    if candidate is not None:
        steps.append(("Model, then denoise", "model", str(candidate)))
    steps += [
        ("Ideal binary masks", "bound", "made from the true sounds"),
        ("Ideal ratio masks", "bound", "made from the true sounds"),
    ]

    def measure(path: Path) -> NDArray[np.float64]:
        trial = Trial(read_record(path), params)
        sets = [np.broadcast_to(trial.truth.sum(axis=0), trial.truth.shape), trial.before]
        if candidate is not None:
            sets.append(trial.after(candidate))
        ideal = ideal_masks(trial.record, params)
        sets.append(trial.record.masked(ideal["binary"], params, threshold=0.5))
        sets.append(trial.record.masked(ideal["ratio"], params))
        measured = bss_eval(trial.truth, np.stack(sets))
        means: NDArray[np.float64] = np.stack(measured, axis=1).mean(axis=-1)
        return means

    with one_thread(), threadpool_limits(1), ThreadPoolExecutor(params.worker_count) as pool:
        shown = progress(pool.map(measure, records), "scale", len(records), unit="mixture")
        means = np.mean(list(shown), axis=0)
    # The mixture has no artifacts: what its SAR comes to is rounding.
    means[0, 2] = np.nan
    return Scale(
        [
            Step(name, dict(zip(("sdr", "sir", "sar"), row.tolist(), strict=True)), kind, note)
            for (name, kind, note), row in zip(steps, means, strict=True)
        ],
        f"Over {len(records)} of the mixtures"
        + (", held out from the choice of denoise." if held_out is not None else "."),
    )


def _comparison(root: Path, seed: int) -> Comparison | Absent:
    try:
        found = compare("HEAD", WORKSPACE, root, seed)
    except UserError as error:
        return Absent(f"It cannot be compared with git HEAD: {error}")
    names = {"sdr_improvement": MEASURES["sdr_improvement"]} | MEASURES
    return Comparison(
        str(found.a),
        found.paired,
        [
            Difference(names.get(name, name), one.b, one.a, one.difference)
            for name, one in found.measures.items()
        ],
        f"This run against git HEAD: {found.verdict}.",
        " ".join(found.notes),
    )


def _curves(folder: Path) -> list[Curve] | Absent:
    """The training's, as DVCLive wrote them."""

    def points(name: str) -> list[tuple[float, float | None]]:
        table = _csv(folder / f"{name}.tsv", "\t")
        if table is None or len(table.columns) != 2:
            return []
        return [(float(step), float(value)) for step, value in table.to_numpy()]

    wanted = (
        ("Loss", "loss", {"training": "train/loss", "validation": "validation/loss"}, False),
        (
            "Validation SDR, SIR, SAR",
            "dB",
            {name: f"validation/{name.lower()}" for name in ("SDR", "SIR", "SAR")},
            False,
        ),
        ("Learning rate of the sound net", "rate", {"rate": "train/learning_rate"}, False),
    )
    curves = [
        Curve(title, unit, {name: points(file) for name, file in files.items()}, logarithmic)
        for title, unit, files, logarithmic in wanted
    ]
    curves = [curve for curve in curves if any(curve.series.values())]
    return curves or Absent(_why_not("train") or "Nothing was trained yet; `dvc repro` does it.")


def _write_files(
    root: Path,
    folder: Path,
    params: Params,
    evaluated: _Evaluated,
    candidate: MethodSettings | None,
) -> _Files:
    """Write what is heard and seen of the shown mixtures, several at a time."""
    sources = Sources(params, _validation(root), root / "data/videos", _separator(root))
    shown = [path for path in evaluated.records if int(path.stem) < params.evaluate.shown]
    players = _with_player([int(path.stem) for path in shown], evaluated.scores, params)

    def write(path: Path) -> tuple[int, tuple[MixtureFiles, Sequence[SourceFiles]]]:
        record = read_record(path)
        denoised = Trial(record, params).after(candidate) if candidate else None
        place = f"{MIXTURES}/{record.number:03d}"
        with_player = record.number in players
        files = write_mixture(folder, place, record, denoised, sources, with_player)
        return record.number, files

    with one_thread(), ThreadPoolExecutor(params.worker_count) as pool:
        return dict(progress(pool.map(write, shown), "report", len(shown), unit="mixture"))


def _with_player(shown: Sequence[int], scores: pd.DataFrame, params: Params) -> set[int]:
    """Which mixtures get a page of pixels to hear: evenly from the worst to the best."""
    means = scores.groupby("mixture")["sdr"].mean()
    ranked = [int(number) for number in means.sort_values().index if number in set(shown)]
    count = min(params.report.players, len(ranked))
    if not count:
        return set()
    return {ranked[round(at)] for at in np.linspace(0, len(ranked) - 1, count)}


def _validation(root: Path) -> dict[str, Video]:
    try:
        return {video.name: video for video in read_index(root / "data/index" / VALIDATION)}
    except UserError:
        return {}


def _separator(root: Path) -> Separator | None:
    try:
        return Separator.load(root / "data/model/last.pt", "cpu")
    except UserError:
        return None


def _mixtures(
    root: Path, evaluated: _Evaluated, denoised: Mapping[str, Any] | None, files: _Files
) -> list[Mixture]:
    after = _denoised_sdr(root, denoised)
    mixtures = []
    for number, rows in evaluated.scores.groupby("mixture"):
        of_mixture, of_sources = files.get(int(number), (MixtureFiles(), []))
        sources = []
        for position, row in enumerate(rows.sort_values("source").to_dict("records")):
            measures = {name: float(row[name]) for name in MEASURES if name in row}
            key = (int(number), int(row["source"]))
            if key in after:
                measures["sdr_denoised"] = after[key]
            own = of_sources[position] if position < len(of_sources) else SourceFiles()
            sources.append(Source(str(row["category"]), str(row["video"]), measures, own))
        mixtures.append(Mixture(int(number), sources, of_mixture))
    return mixtures


def _denoised_sdr(root: Path, denoised: Mapping[str, Any] | None) -> dict[tuple[int, int], float]:
    """SDR after denoise of the sources of held-out mixtures."""
    table = _csv(root / "metrics/denoise" / HELD_OUT_FILE)
    if denoised is None or table is None or denoised["method"] == NONE:
        return {}
    rows = table[table["method"] == denoised["method"]]
    # Where a method was held out in two settings, the last is the one that is taken.
    return {
        (int(row.mixture), int(row.source)): float(row.sdr) for row in rows.itertuples(index=False)
    }


def _denoise(root: Path, denoised: Mapping[str, Any] | None) -> Denoise | Absent:
    sweep = _csv(root / "metrics/denoise" / SWEEP_FILE)
    held_out = _csv(root / "metrics/denoise" / HELD_OUT_FILE)
    if denoised is None or sweep is None or held_out is None:
        return Absent(_why_not("denoise") or "Nothing was denoised yet; `dvc repro` does it.")
    shown = ("sdr", "sir", "sar", "si_sdr")
    before = {name: denoised["before"][name] for name in shown}
    methods = []
    for name, found in denoised["methods"].items():
        change = {key: _interval(found["change"][key]) for key in shown}
        changes = held_out[held_out["method"] == name].groupby("mixture")["sdr_change"].mean()
        chosen = name == denoised["method"] and found["setting"] == denoised["setting"]
        methods.append(
            DenoiseMethod(
                name,
                _setting(found["setting"]),
                {key: _sum(before[key], change[key]) for key in shown},
                change,
                [float(value) for value in changes.dropna()],
                chosen,
            )
        )
    footnote = denoised["footnote"]
    notebook = footnote["mean_over_std"]
    return Denoise(
        ", ".join(filter(None, [denoised["method"], _setting(denoised["setting"])])),
        denoised["reason"],
        denoised["mixtures"]["held_out"],
        before,
        methods,
        list(_sweeps(sweep)),
        f"Means over mixtures, of all their sources. For comparison alone, {footnote['about']}: "
        f"{_plain(notebook['before'])} before, {_plain(notebook['after'])} after.",
    )


def _sweeps(table: pd.DataFrame) -> Iterator[Sweep]:
    """The sweep as heat maps of two knobs each."""
    knobs = {
        "lms": ("taps", "rate"),
        "nlms": ("taps", "rate"),
        "rls": ("taps", "forgetting"),
        "renormalise": ("power", ""),
    }
    for method, (rows, columns) in knobs.items():
        cells = list(_cells(table[table["method"] == method], rows, columns))
        if cells:
            yield Sweep(method, rows, columns, cells)
    for iterations, part in table[table["method"] == "wiener"].groupby("iterations"):
        cells = list(_cells(part, "power", "frames"))
        yield Sweep(f"wiener, {iterations:g} iterations", "power", "frames", cells)


def _cells(
    table: pd.DataFrame, rows: str, columns: str
) -> Iterator[tuple[float, float | None, float | None]]:
    for row in table.to_dict("records"):
        change = row["sdr_change"]
        yield (
            float(row[rows]),
            float(row[columns]) if columns else None,
            None if pd.isna(change) else float(change),
        )


def _localization(found: Mapping[str, Any] | None) -> list[Table] | Absent:
    if found is None:
        return Absent(_why_not("evaluate") or "Nothing was localized yet; `dvc repro` does it.")
    if not sum(found["scenes"].values()):
        return Absent("It is measured on synthetic videos alone, whose truth is known.")
    kinds = list(KINDS)
    rows: list[list[str | float | None]] = [
        [label, *(found[key].get(kind) for kind in kinds)]
        for key, label in (
            ("regions_right", "Right number of regions"),
            ("pointing", "Every player pointed at"),
            ("pointing_by_sound", "and by the region that sounds like it"),
        )
    ]
    columns = [
        Column(""),
        *(Column(f"{kind} ({found['scenes'][kind]})", "share") for kind in kinds),
    ]
    overlap = found["overlap"]
    measured: list[list[str | float | None]] = [
        [MEASURES[name], found["duets"].get(name)] for name in MEASURES if name in found["duets"]
    ]
    return [
        Table(columns, rows, "What the model finds without being told what is there"),
        Table(
            [Column(""), Column("of the players", "share")],
            [
                ["Box overlaps by 0.3 or more", overlap.get("above_0.3")],
                ["Box overlaps by 0.5 or more", overlap.get("above_0.5")],
            ],
            "Intersection of the region's box and the player's over their union",
        ),
        Table([Column("duets by region"), Column("dB", "decibels")], measured, "Their sounds"),
    ]


def _parameters(root: Path) -> Parameters | Absent:
    try:
        text = (root / "params.yaml").read_text(encoding="utf-8")
        values = dict(flattened(YAML(typ="safe", pure=True).load(text)))
    except (OSError, UserError):
        return Absent("params.yaml cannot be read.")
    against, changed = "git HEAD", list[ParamChange]()
    try:
        changed = changed_params("HEAD", WORKSPACE, root)
    except UserError:
        against = "nothing: there is no params.yaml in git"
    before = {change.key: change for change in changed}
    meanings = _meanings(text)
    items = [
        Parameter(
            key,
            _yaml(value),
            _side(before[key], "old") if key in before else None,
            meanings.get(key, ""),
        )
        for key, value in values.items()
    ]
    gone = [key for key in before if key not in values]
    items += [Parameter(key, "", _side(before[key], "old")) for key in gone]
    return Parameters(items, against)


def _side(change: ParamChange, side: str) -> str:
    described = change.as_dict()
    return _yaml(described[side]) if side in described else ""


def _meanings(text: str) -> dict[str, str]:
    """The comment behind each key of params.yaml."""
    meanings, above = {}, list[tuple[int, str]]()
    for line in text.splitlines():
        content, _, comment = line.partition(" #")
        key, colon, _ = content.partition(":")
        if not colon or not key.strip() or key.lstrip().startswith(("#", "-")):
            continue
        indent = len(key) - len(key.lstrip())
        above = [(depth, name) for depth, name in above if depth < indent]
        above.append((indent, key.strip()))
        if comment:
            meanings[".".join(name for _, name in above)] = comment.strip()
    return meanings


def _data(root: Path) -> list[Table] | Absent:
    names = ("download", "extract", "index")
    download, extract, index = (_json(root / f"metrics/details/{name}.json") for name in names)
    # The numbers are empty where prepared data took the place of the stage's outputs.
    if not download:
        return Absent(_why_not("download") or "The stage `download` has not run.")
    extracted = (extract or {}).get("category", {})
    sides = (index or {}).get("category", {})
    columns = [
        Column("category"),
        *(
            Column(name, "count")
            for name in ("there", "gone", "failed", "extracted", "training", "validation")
        ),
    ]
    rows: list[list[str | float | None]] = [
        [
            category,
            *(counts[name] for name in ("done", "unavailable", "failed")),
            extracted.get(category, 0),
            *(sides.get(side, {}).get(category, 0) for side in ("train", "validation")),
        ]
        for category, counts in download["category"].items()
    ]
    sums = [sum(row[n] for row in rows) for n in range(1, len(columns))]  # type: ignore[misc]
    tables = [
        Table(
            columns,
            [["all", *sums], *rows],
            "Videos",
            f"{download['hours']:.2f} hours, {download['bytes'] / 2**20:.0f} MiB, source "
            f"{download['source']}",
        )
    ]
    for name, found in (("extract", extract), ("index", index)):
        reasons = (found or {}).get("left_out", {}).get("reasons", {})
        if reasons:
            left_out = [[video, reason] for video, reason in sorted(reasons.items())]
            tables.append(Table([Column("video"), Column("why")], left_out, f"Left out by {name}"))
    return tables


def _timing() -> list[Table]:
    notes = {name: read_note(name) for name in STAGES[:-1]}
    rows: list[list[str | float | None]] = [
        [name, note["seconds"], note["peak_mib"] * 2**20, note["ended"]]
        for name, note in notes.items()
        if {"seconds", "peak_mib", "ended"} <= note.keys()
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine: list[list[str | float | None]] = [
        ["processor", _processor()],
        ["cores", f"{psutil.cpu_count()}"],
        ["memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"],
        ["GPU", gpu],
        ["system", f"{platform.system()} {platform.machine()}"],
        ["Python", platform.python_version()],
        ["PyTorch", torch.__version__],
    ]
    columns = [
        Column("stage"),
        Column("seconds", "seconds"),
        Column("largest process", "bytes"),
        Column("ended"),
    ]
    note = "Of the last run of each stage on this machine; one whose result came from the cache "
    note += "did not run."
    tables = [Table(columns, rows, "Stages", note)] if rows else []
    return [*tables, Table([Column("what"), Column("")], machine, "Machine")]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision(root: Path) -> str:
    """Branch and commit, and whether anything differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("log", "-1", "--format=%h %cs %s")
    if not commit:
        return "not in git"
    branch = git("rev-parse", "--abbrev-ref", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{branch}, {commit}" + (", and changes since" if changed else "")


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _csv(path: Path, separator: str = ",") -> pd.DataFrame | None:
    try:
        return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    except (OSError, ValueError):
        return None


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _interval(found: Mapping[str, float] | None) -> Interval | None:
    return None if found is None else Interval(**found)


def _sum(before: float | None, change: Interval | None) -> float | None:
    return None if before is None or change is None else before + change.mean


def _setting(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def _plain(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"
