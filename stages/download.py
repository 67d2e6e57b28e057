"""Stage `download`: download or render the videos of the chosen source into one folder."""

from pathlib import Path

from sop.download.download import download
from sop.download.sources import CachePaths
from sop.params import load_params
from sop.runtime.metrics_files import write_metrics
from sop.runtime.stage import run_stage


def main() -> None:
    params = load_params()
    caches = CachePaths(
        lists=Path("data/lists"), partial=Path("data/partial"), hashes=Path("data/hashes.sqlite")
    )
    summary = download(params, Path("data/videos"), caches)
    write_metrics("download", summary, ("hours",))


if __name__ == "__main__":
    run_stage("download", main, __doc__)
