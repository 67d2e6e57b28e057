"""The command `summary`."""

import argparse
import json
from pathlib import Path
from typing import Any

from sop.report.wording import counted
from sop.runtime.errors import UserError

DETAILS = Path("metrics/details")

MEASURES = ("sdr", "sir", "sar", "si_sdr", "sdr_mixture", "sdr_improvement")

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
    metrics, denoise = _read(DETAILS / "evaluate.json"), DETAILS / "denoise.json"
    print(f"{'':18}{'mean':>8}{'median':>8}  dB")
    for name in MEASURES:
        print(f"{name:18}{metrics[name]['mean']:8.2f}{metrics[name]['median']:8.2f}")
    print(f"\n{'category':18}{'SDR':>8}{'gain':>8}{'SIR':>8}{'SAR':>8}  dB, means")
    for category, values in metrics["category"].items():
        columns = (values[name]["mean"] for name in ("sdr", "sdr_improvement", "sir", "sar"))
        print(f"{category:18}" + "".join(f"{value:8.2f}" for value in columns))
    mixtures = metrics["mixtures"]
    print(f"\n{counted(mixtures['counted'], 'mixture')} evaluated, {mixtures['left_out']} left out")
    for number, reason in mixtures["reasons"].items():
        print(f"  mixture {number}: {reason}")
    if denoise.exists():
        _print_denoised(_read(denoise))
    print(NEXT_STEPS)
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        if isinstance(found := json.loads(path.read_text(encoding="utf-8")), dict) and found:
            return found
        raise ValueError("no metrics")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`, which writes it") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable ({error}); run `dvc repro`, which replaces it"
        ) from None


def _print_denoised(metrics: dict[str, Any]) -> None:
    """Print the method that the stage `denoise` chose and what it changed."""
    setting = [f"{name} {value:g}" for name, value in metrics["setting"].items()]
    print(f"\ndenoise: {', '.join([metrics['method'], *setting])} ({metrics['reason']})")
    for name in ("sdr", "sir", "sar"):
        change = metrics["change"][name]
        if change is not None and metrics["method"] != "none":
            print(
                f"  {name.upper()} {metrics['before'][name]:.2f} to {metrics['after'][name]:.2f} "
                f"dB, change {change['mean']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})"
                f", {counted(metrics['mixtures']['held_out'], 'held-out mixture')}"
            )
