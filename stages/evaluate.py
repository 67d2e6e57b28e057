"""Stage `evaluate`: separate validation mixtures and localize players, and measure both."""

from pathlib import Path

from sop.dataset.index import DUETS, VALIDATION, read_index
from sop.evaluate.localization_metrics import localization_summary, measure_localization, scenes
from sop.evaluate.results import write_results
from sop.evaluate.validation import evaluation_summary, separate_mixtures
from sop.inference.separator import Separator
from sop.model.checkpoint import load_player
from sop.params import load_params
from sop.runtime.device import choose_device
from sop.runtime.errors import LeftOut
from sop.runtime.metrics_files import write_metrics
from sop.runtime.progress import progress
from sop.runtime.stage import run_stage


def main() -> None:
    params = load_params()
    device = choose_device(params.device)
    player, _ = load_player(Path("data/model/last.pt"))
    index = Path("data/index")
    videos = read_index(index / VALIDATION)
    count = params.evaluate.mixtures
    separations = separate_mixtures(
        player.to(device), videos, params, count, params.evaluate.mask_threshold, device
    )
    scores = write_results(
        progress(separations, "evaluate", count, unit="mixture"),
        params,
        sounds=Path("data/evaluate"),
        plots=Path("metrics/evaluate"),
    )
    write_metrics("evaluate", evaluation_summary(scores), details=("category", "reasons"))

    limit = params.evaluate.localization_scenes
    duets = [] if params.index.duets else read_index(index / DUETS)
    with_truth = list(scenes(duets[:limit], videos[:limit], Path("data/videos"), params.extract))
    separator = Separator(player, params, device)
    results, left_out = [], {}
    for scene in progress(with_truth, "localize", len(with_truth), unit="scene"):
        try:
            results.append(measure_localization(separator, scene))
        except LeftOut as reason:
            left_out[scene.name] = str(reason)
    summary = localization_summary(results, left_out)
    write_metrics("localization", summary, details=("scenes",))


if __name__ == "__main__":
    run_stage("evaluate", main)
