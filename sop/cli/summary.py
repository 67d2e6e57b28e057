"""The command `summary`."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sop.report.wording import counted
from sop.runtime.errors import UserError
from sop.runtime.log import say

DETAILS = Path("metrics/details")

MEASURES = ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement")

UNKNOWN = "-"
"""Stands for a value that is undefined, or that metrics of an older version lack."""

NEXT_STEPS = """
Where to look next
  data/report/index.html         the whole run as a web page with sounds
  data/evaluate/, data/denoise/  mixtures and separated sounds
  metrics/report/example.png     a mixture, the sound of each pixel, spectrograms
  dvc plots show                 training curves, SDR by category
  dvc metrics diff               changes since the last commit
  sop compare                    test whether the changes are better or chance
  params.yaml                    edit, then run `dvc repro` again"""


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    text = "print the metrics of the last evaluation and where its outputs are"
    parser = commands.add_parser("summary", help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the metrics of the stages `evaluate` and `denoise`."""
    lines = _read(DETAILS / "evaluate.json", _evaluated)
    denoise = DETAILS / "denoise.json"
    if denoise.exists():
        lines += _read(denoise, _denoised)
    say(*lines, *NEXT_STEPS.split("\n"))
    return 0


def _read(path: Path, describe: Callable[[dict[str, Any]], Iterator[str]]) -> list[str]:
    """Return what `describe` says about the metrics in a file.

    Raises:
        UserError: the file is missing or damaged, or another version of this project wrote it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found:
            raise ValueError("no metrics")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`, which writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not readable ({error}); run `dvc repro`, which replaces it"
        ) from None
    try:
        return list(describe(found))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path}: not the metrics that this version writes ({reason}); run `dvc repro`, which "
            "replaces it"
        ) from None


def _evaluated(metrics: dict[str, Any]) -> Iterator[str]:
    """Describe the metrics of the evaluation, and what was left out of it."""
    yield f"{'':18}{'mean':>8}{'median':>8}  dB"
    for name in MEASURES:
        yield f"{name:18}{_decibels(metrics[name]['mean'])}{_decibels(metrics[name]['median'])}"
        if name == "sdr":
            yield f"{'silent_estimates':18}{_silent(metrics):>8}"
    head = "".join(f"{name:>8}" for name in ("SDR", "silent", "gain", "SIR", "SAR"))
    yield from ("", f"{'category':18}{head}  dB, means")
    for category, values in metrics["category"].items():
        means = (values[name]["mean"] for name in ("sdr", "sdr_improvement", "sir", "sar"))
        sdr, *others = map(_decibels, means)
        yield f"{category:18}{sdr}{_silent(values):>8}{''.join(others)}"
    mixtures = metrics["mixtures"]
    counts = f"{counted(mixtures['counted'], 'mixture')} evaluated"
    yield from ("", f"{counts}, {mixtures['left_out']} left out")
    for number, reason in mixtures["reasons"].items():
        yield f"  mixture {number}: {reason}"
    if "shifted" in metrics:
        yield from _motion(metrics, metrics["shifted"])


def _motion(metrics: dict[str, Any], control: dict[str, Any]) -> Iterator[str]:
    """Describe mixtures of one category and silent sources, beside the same with late frames."""
    late = f"late {control['seconds']:g} s"
    yield from ("", f"{'what motion adds':28}{'in time':>9}{late:>12}{'change':>8}  dB")
    names = {
        "different": "different categories",
        "any": "any categories",
        "same_category": "one category",
    }
    plain, *others = [key for key in names if key in control]
    for key in (plain, *others):
        both = (metrics if key == plain else metrics[key], control[key])
        gains = [values["sdr_improvement"]["mean"] for values in both]
        row = f"{f'gain, {names[key]}':28}{_decibels(gains[0]):>9}{_decibels(gains[1]):>12}"
        # Over the mixtures that are measured both ways, which may be fewer.
        change = control[key]["change"]
        yield f"{row}{_decibels(change and change['mean'])}"
    names |= {"resting": "at rest"}
    for key, name in names.items():
        leak = metrics.get("silent_leak", {}).get(key)
        if leak is not None:
            after = control["silent_leak"].get(key, {}).get("median")
            row = f"{f'leak, {name}':28}{_decibels(leak['median']):>9}{_decibels(after):>12}"
            share, count = leak["below_20_db"], leak["mixtures"]["counted"]
            below = "" if share is None else f", {share:.0%} below -20 dB"
            yield f"{row}{'':8}  {counted(count, 'mixture')}{below}"


def _denoised(metrics: dict[str, Any]) -> Iterator[str]:
    """Describe the method that the stage `denoise` chose and what it changed."""
    setting = [f"{name} {value:g}" for name, value in metrics["setting"].items()]
    method = ", ".join([metrics["method"], *setting])
    yield from ("", f"denoise: {method} ({metrics['reason']})")
    for name in ("sdr", "sir", "sar"):
        change = metrics["change"][name]
        if change is not None and metrics["method"] != "none":
            interval = "too few mixtures for an interval"
            if change["low"] is not None:
                interval = f"{change['low']:+.2f} to {change['high']:+.2f}"
            yield (
                f"  {name.upper()} {metrics['before'][name]:.2f} to {metrics['after'][name]:.2f} "
                f"dB, change {change['mean']:+.2f} ({interval})"
                f", {counted(metrics['mixtures']['held_out'], 'held-out mixture')}"
            )
    if metrics["method"] != "none":
        before, after = (_silent(metrics[side]) for side in ("before", "after"))
        yield f"  silent estimates {before} to {after}"


def _silent(metrics: dict[str, Any]) -> int | str:
    """Return the number of silent estimates, which metrics of an older version lack."""
    found: int | str = metrics.get("silent_estimates", UNKNOWN)
    return found


def _decibels(value: float | None) -> str:
    return f"{UNKNOWN:>8}" if value is None else f"{value:8.2f}"
