"""Write a model as a folder to share: weights, a card as model hubs read it, and its metrics."""

import hashlib
import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sop.catalogue.names import EXPORTED_FILE
from sop.model.card import MetricCard, ModelCard
from sop.model.checkpoint import LoadedModel, export_player
from sop.runtime.errors import UserError
from sop.runtime.files import write_json, write_text
from sop.runtime.plain_yaml import parse_yaml

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"

EVALUATION = Path("metrics/details/evaluate.json")
LOCALIZATION = Path("metrics/details/localization.json")

MAX_METRICS_BYTES = 64 << 20

# Measures of metrics/details/evaluate.json in the card, with their names.
MEASURES = {
    "sdr": "SDR",
    "sir": "SIR",
    "sar": "SAR",
    "si_sdr": "SI-SDR",
    "sdr_mixture": "SDR of the unprocessed mixture",
    "sdr_improvement": "SDR improvement",
}

_TAGS = ["source-separation", "audio-visual", "sound-of-pixels", "pytorch"]


def export_model(
    model: LoadedModel, source: Path, folder: Path, title: str, licence: str
) -> tuple[list[str], str]:
    """Write a model, its card and its metrics to a folder that `--model` reads.

    Args:
        model: the model.
        source: its file; metrics are added if they are of it.
        folder: destination; existing files of these names are replaced.
        title: name of the model on its card.
        licence: licence of the weights, as model hubs name it; empty if the user gives none.

    Returns:
        Names of the files, and why there are no metrics; empty if there are.

    Raises:
        NotWritable: a file cannot be written.
        UserError: a file of metrics is damaged.
    """
    reason = why_not_measured(source)
    metrics: Mapping[str, Any] = {}
    protocol = ""
    if not reason:
        metrics = {path.stem: _read(path) for path in (EVALUATION, LOCALIZATION) if path.exists()}
        protocol = _protocol(metrics["evaluate"])
    card = model.card.model_copy(
        update={
            "title": title,
            "licence": licence or model.card.licence,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "revision": revision(),
            "metrics": _measured(metrics.get("evaluate", {})) or model.card.metrics,
            "protocol": protocol or model.card.protocol,
        }
    )
    export_player(folder / EXPORTED_FILE, replace(model, card=card))
    write_text(folder / CARD_FILE, card_page(card, model))
    files = [EXPORTED_FILE, CARD_FILE]
    if metrics:
        write_json(folder / METRICS_FILE, metrics)
        files.append(METRICS_FILE)
    return files, reason


def card_page(card: ModelCard, model: LoadedModel) -> str:
    """Return the card as Markdown with a YAML header, as model hubs read it."""
    header: dict[str, Any] = {}
    if card.licence:
        header["license"] = card.licence
    header |= {"pipeline_tag": "audio-to-audio", "tags": _TAGS}
    if card.metrics:
        source = card.data.source if card.data else "unknown"
        dataset = {"type": source, "name": f"{source}, validation or test videos"}
        results = [
            {"type": metric.name, "value": metric.value, "name": f"{metric.name} ({metric.unit})"}
            for metric in card.metrics
        ]
        task = {"type": "audio-to-audio", "name": "Audio source separation"}
        result = {"task": task, "dataset": dataset, "metrics": results}
        header["model-index"] = [{"name": card.title, "results": [result]}]
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(header, text)
    lines = [f"# {_markdown(card.title)}", "", "Separates the sounds of a video by looking at it."]
    lines += ["", "```bash", "sop separate VIDEO --model DIR", "```", "", "`DIR` is this folder."]
    lines += ["", "## Card", "", "| | |", "| --- | --- |"]
    lines += [f"| {_markdown(name)} | {_markdown(value)} |" for name, value in facts(card, model)]
    if card.metrics:
        lines += ["", "## Results", "", "| measure | mean |", "| --- | --- |"]
        lines += [
            f"| {_markdown(metric.name)} | {metric.value:.2f} {_markdown(metric.unit)} |"
            for metric in card.metrics
        ]
        lines += ["", _markdown(card.protocol)]
    if card.data and card.data.categories:
        lines += [
            "",
            "## Training videos",
            "",
            "| category | videos | hours |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {_markdown(name)} | {found.videos} | {found.hours:.2f} |"
            for name, found in card.data.categories.items()
        ]
    return f"---\n{text.getvalue()}---\n\n" + "\n".join(lines) + "\n"


def facts(card: ModelCard, model: LoadedModel) -> list[tuple[str, str]]:
    """Return the lines of a card: a name and a value each, without results and categories."""
    params = model.params
    weights = sum(parameter.numel() for parameter in model.player.parameters())
    nets = params.model
    found = [
        ("parameters", f"{weights / 1e6:.2f} million"),
        (
            "networks",
            f"{nets.sound} of width {nets.sound_width}, {nets.vision} of width "
            f"{nets.vision_width}, {nets.synthesizer}, {nets.channels} channels, motion "
            f"{nets.motion}",
        ),
        (
            "input",
            f"{params.extract.sample_rate} Hz, {params.extract.frame_rate:g} pictures per second, "
            f"{params.mixture.image_size} pixels",
        ),
    ]
    data = card.data
    if data is None:
        found.append(("trained on", "not recorded in this file"))
    else:
        count = "" if data.videos is None else f", {data.videos} videos"
        length = "" if data.hours is None else f", {data.hours:.2f} hours"
        kinds = f" of {len(data.categories)} categories" if data.categories else ""
        found.append(("trained on", f"{data.source}{count}{kinds}{length}"))
    if card.training is not None:
        settings = card.training
        found.append(
            (
                "training",
                f"{settings.epochs} epochs, {model.step} steps of {settings.batch_size} mixtures "
                f"of {settings.sources}, loss {settings.loss}, seed {settings.seed}",
            )
        )
    for name, value in (
        ("date", card.date),
        ("revision", card.revision),
        ("licence", card.licence or "not stated"),
    ):
        if value:
            found.append((name, value))
    return found


def why_not_measured(model: Path) -> str:
    """Return why the metrics in this folder are not those of a model; empty if they are.

    They are if DVC recorded that the stage `evaluate` measured these files.
    """
    if not EVALUATION.is_file():
        return f"{EVALUATION}: not there; `dvc repro evaluate` writes it"
    folder = model.parent
    try:
        stages = parse_yaml(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
        measured = {item["path"]: item["md5"] for item in stages["evaluate"]["deps"]}
        found = f"{_dvc_hash(folder)}.dir"
        of = Path("data/model")
        if folder.resolve() == of.resolve() and measured[of.as_posix()] == found:
            return ""
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return (
        f"{EVALUATION}: dvc.lock does not say that it is of {model}; run `dvc repro evaluate` in "
        "the project of the model"
    )


def revision() -> str:
    """Return the commit that is checked out here, with `+` if files differ; empty without git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        changed = commit and git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{commit}{'+' if changed else ''}"


def _dvc_hash(folder: Path) -> str:
    """Return the hash that DVC gives a folder: that of the list of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [
        {
            # Not for security: DVC identifies files by it.
            "md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            "relpath": path.relative_to(folder).as_posix(),
        }
        for path in files
    ]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_METRICS_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no mapping")
        return values
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({error}); run `dvc repro` again") from None


def _measured(evaluation: Mapping[str, Any]) -> tuple[MetricCard, ...]:
    """Return the means of the measures that have one."""
    found = []
    for key, name in MEASURES.items():
        value = evaluation.get(key)
        mean = value.get("mean") if isinstance(value, dict) else None
        if isinstance(mean, (int, float)):
            found.append(MetricCard(name=name, value=round(float(mean), 4), unit="dB"))
    return tuple(found)


def _protocol(evaluation: Mapping[str, Any]) -> str:
    """Return how the metrics were measured, in one sentence."""
    counts = evaluation.get("mixtures")
    count = counts.get("counted") if isinstance(counts, dict) else None
    return (
        f"Means over the sources of {count if isinstance(count, int) else 'the'} mixtures of "
        "validation or test videos that were not used for training; BSS Eval as in mir_eval, in dB."
    )


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in one line of a table."""
    flat = " ".join(text.split())
    for mark in "\\`*_{}[]<>#|":
        flat = flat.replace(mark, f"\\{mark}")
    return flat
