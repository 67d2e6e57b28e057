"""Stage `train`: learn to separate mixtures of the training videos."""

from pathlib import Path

from dvclive.live import Live

from sop.dataset.index import TRAIN, VALIDATION, read_index
from sop.errors import run
from sop.params import load_params
from sop.training import train


def main() -> None:
    params = load_params()
    index = Path("data/index")
    with Live("metrics/train", save_dvc_exp=False, dvcyaml=None) as live:
        train(
            params,
            training=read_index(index / TRAIN),
            validation=read_index(index / VALIDATION),
            checkpoint=Path("data/model/last.pt"),
            live=live,
        )


if __name__ == "__main__":
    run(main)
