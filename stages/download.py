"""Stage `download`: bring the videos of the chosen source into one folder."""

from pathlib import Path

from sop.dataset.download import download
from sop.errors import run
from sop.files import write_json
from sop.params import load_params


def main() -> None:
    params = load_params()
    summary = download(params, Path("data/videos"))
    write_json(Path("metrics/download.json"), summary)


if __name__ == "__main__":
    run(main)
