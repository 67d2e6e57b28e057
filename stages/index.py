"""Stage `index`: split the extracted videos into lists for training, validation and test."""

from pathlib import Path

from sop.dataset.index import build_index, read_duets, read_split, write_index
from sop.params import load_params
from sop.runtime.metrics_files import write_metrics
from sop.runtime.stage import run_stage

# Metrics by which experiments are compared.
COMPARED = ("train", "validation", "test", "split.not_found", "split.overlap")


def main() -> None:
    params = load_params()
    index = build_index(
        Path("data/audio"),
        Path("data/frames"),
        params.index,
        frame_rate=params.extract.frame_rate,
        duets_of_source=read_duets(Path("metrics/details/download.json")),
        lists=read_split(params.index.split, Path("data/videos/splits.json")),
    )
    write_index(index, Path("data/index"))
    write_metrics("index", index.summary(), COMPARED)


if __name__ == "__main__":
    run_stage("index", main, __doc__)
