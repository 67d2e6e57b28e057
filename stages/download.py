"""Stage `download`: bring the videos of the chosen source into one folder."""

from pathlib import Path

from sop.download.download import download
from sop.download.sources import Places
from sop.params import load_params
from sop.runtime.metrics_files import write_metrics
from sop.runtime.stage import run_stage


def main() -> None:
    params = load_params()
    places = Places(
        lists=Path("data/lists"),
        unfinished=Path("data/unfinished"),
        hashes=Path("data/hashes.sqlite"),
    )
    summary = download(params, Path("data/videos"), places)
    write_metrics("download", summary, details=("category", "reasons"))


if __name__ == "__main__":
    run_stage("download", main)
