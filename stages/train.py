"""Stage `train`: train the model on mixtures of the training videos."""

from contextlib import nullcontext
from pathlib import Path

from sop.dataset.index import TRAIN, VALIDATION, read_index
from sop.params import load_params
from sop.runtime.stage import run_stage, stage_lock
from sop.train.distributed import is_launched, launch, process_count, process_group
from sop.train.trainer import RunFolders, Trainer


def main() -> int:
    params = load_params()
    processes = process_count(params.train.devices, params.device)
    if processes > 1 and not is_launched():
        return launch("stages.train", processes)
    index, motion = Path("data/index"), Path("data/motion")
    # Of all processes that train together, one writes files.
    with (
        process_group(params.device) as group,
        stage_lock("train") if group.is_main else nullcontext(),
    ):
        Trainer(
            params,
            training=read_index(index / TRAIN, motion),
            validation=read_index(index / VALIDATION, motion),
            folders=RunFolders(Path("data/model"), Path("data/training"), Path("metrics/train")),
            group=group,
        ).run()
    return 0


if __name__ == "__main__":
    run_stage("train", main, __doc__, locked=False)
