"""Stage `denoise`: filter the separated sounds, if that helps, and measure what it is worth."""

from pathlib import Path

from sop.denoise.results import write_denoised
from sop.denoise.selection import denoise, summary
from sop.evaluate.records import record_paths
from sop.params import load_params
from sop.runtime.metrics_files import write_metrics
from sop.runtime.stage import run_stage

# Of the metrics, what experiments are not compared by.
DETAILS = ("before", "footnote", "lms_rates_bounded", "methods", "reason", "reasons", "setting")


def main() -> None:
    params = load_params()
    records = record_paths(Path("data/evaluate"))
    denoised = denoise(records, params)
    write_denoised(
        denoised,
        records,
        params,
        sounds=Path("data/denoise"),
        plots=Path("metrics/denoise"),
    )
    write_metrics("denoise", summary(denoised), DETAILS)
    print(denoised.choice.candidate or "none", denoised.choice.reason, sep=": ")


if __name__ == "__main__":
    run_stage("denoise", main)
