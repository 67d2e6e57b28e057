"""Stage `train`: learn to separate mixtures of the training videos."""

from contextlib import nullcontext
from pathlib import Path

from sop.dataset.index import TRAIN, VALIDATION, read_index
from sop.params import load_params
from sop.runtime.stage import run_stage
from sop.train.distributed import is_launched, joined, launch, processes_wanted
from sop.train.monitor import opened
from sop.train.trainer import train


def main() -> int:
    params = load_params()
    processes = processes_wanted(params.train.devices, params.device)
    if processes > 1 and not is_launched():
        return launch("stages.train", processes)
    index = Path("data/index")
    with (
        joined(params.device) as team,
        opened("metrics/train") if team.leads else nullcontext() as live,
    ):
        train(
            params,
            training=read_index(index / TRAIN),
            validation=read_index(index / VALIDATION),
            models=Path("data/model"),
            unfinished=Path("data/training"),
            team=team,
            live=live,
        )
    return 0


if __name__ == "__main__":
    run_stage("train", main)
