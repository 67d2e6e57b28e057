"""Stage `evaluate`: separate validation mixtures with the trained model and measure the result."""

from pathlib import Path

from sop.dataset.index import VALIDATION, read_index
from sop.device import choose_device
from sop.errors import run
from sop.evaluation import separate_mixtures, summary
from sop.files import write_json
from sop.model.checkpoint import load_player
from sop.params import load_params
from sop.progress import track
from sop.report.results import write_results


def main() -> None:
    params = load_params()
    device = choose_device(params.device)
    player, _ = load_player(Path("data/model/last.pt"))
    videos = read_index(Path("data/index") / VALIDATION)
    count = params.evaluate.mixtures
    separations = separate_mixtures(
        player.to(device), videos, params, count, params.evaluate.mask_threshold, device
    )
    scores = write_results(
        track(separations, "evaluate", count, unit="mixture"),
        player,
        params,
        sounds=Path("data/evaluate"),
        plots=Path("metrics/evaluate"),
    )
    write_json(Path("metrics/evaluate.json"), summary(scores))


if __name__ == "__main__":
    run(main)
