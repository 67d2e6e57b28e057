"""Stage `denoise`: choose a denoising method, apply it to the separated sounds, and measure it."""

from pathlib import Path

from sop.denoise.results import denoise_summary, write_denoised
from sop.denoise.selection import denoise
from sop.denoise.settings import NONE
from sop.evaluate.records import record_paths
from sop.params import load_params
from sop.runtime.log import say
from sop.runtime.metrics_files import write_metrics
from sop.runtime.stage import run_stage

# Keys of the metrics by which experiments are compared.
COMPARED = (
    "method",
    "after.sdr",
    "after.silent_estimates",
    "after.sir",
    "after.sar",
    "change.sdr.mean",
)


def main() -> None:
    params = load_params()
    records = record_paths(Path("data/evaluate"))
    denoised = denoise(records, params)
    write_denoised(
        denoised, records, params, sounds=Path("data/denoise"), plots=Path("metrics/denoise")
    )
    write_metrics("denoise", denoise_summary(denoised), COMPARED)
    say(f"{denoised.chosen or NONE}: {denoised.reason}")


if __name__ == "__main__":
    run_stage("denoise", main, __doc__)
