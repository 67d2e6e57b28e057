"""Stage `extract`: turn every video into one sound file, one zip of frames and a motion track."""

from pathlib import Path

from sop.extract.extraction import extract
from sop.params import load_params
from sop.runtime.metrics_files import write_metrics
from sop.runtime.parallel import Workers
from sop.runtime.stage import run_stage


def main() -> None:
    params = load_params()
    summary = extract(
        params.extract,
        Path("data/videos"),
        Path("data/audio"),
        Path("data/frames"),
        Workers(params.worker_count, params.cluster.scheduler),
        Path("data/hashes.sqlite"),
        Path("data/motion"),
    )
    write_metrics("extract", summary, ("left_out.count",))


if __name__ == "__main__":
    run_stage("extract", main, __doc__)
