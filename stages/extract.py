"""Stage `extract`: turn every video into one sound file and one zip of frames."""

from pathlib import Path

from sop.dataset.extraction import extract
from sop.dataset.parallel import Workers
from sop.metrics_files import write_metrics
from sop.params import load_params
from sop.stage import run_stage


def main() -> None:
    params = load_params()
    summary = extract(
        params.extract,
        Path("data/videos"),
        Path("data/audio"),
        Path("data/frames"),
        Workers(params.worker_count, params.cluster.scheduler),
        Path("data/hashes.sqlite"),
    )
    write_metrics("extract", summary)


if __name__ == "__main__":
    run_stage("extract", main)
