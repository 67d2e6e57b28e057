"""Stage `denoise`: filter the separated sounds, if that helps, and measure what it is worth."""

from pathlib import Path

from sop.denoising import denoise, summary
from sop.metrics_files import write_metrics
from sop.params import load_params
from sop.records import record_paths
from sop.report.denoised import write_denoised
from sop.stage import run_stage


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
    write_metrics("denoise", summary(denoised))
    print(denoised.choice.candidate or "none", denoised.choice.reason, sep=": ")


if __name__ == "__main__":
    run_stage("denoise", main)
