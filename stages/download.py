"""Stage `download`: bring the videos of the chosen source into one folder."""

from pathlib import Path

from sop.dataset.download import download
from sop.dataset.sources import Places
from sop.errors import run
from sop.files import write_json
from sop.params import load_params


def main() -> None:
    params = load_params()
    places = Places(
        lists=Path("data/lists"),
        unfinished=Path("data/unfinished"),
        hashes=Path("data/hashes.sqlite"),
    )
    summary = download(params, Path("data/videos"), places)
    write_json(Path("metrics/download.json"), summary)


if __name__ == "__main__":
    run(main)
