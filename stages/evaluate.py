"""Stage `evaluate`: separate validation mixtures, and measure the sounds."""

from pathlib import Path

from sop.dataset.index import VALIDATION, read_index
from sop.evaluate.motion import measure_motion, plain_kind
from sop.evaluate.records import evaluation_rule
from sop.evaluate.results import write_results
from sop.evaluate.validation import evaluation_summary, separate_mixtures
from sop.model.checkpoint import load_player
from sop.params import load_params
from sop.runtime.device import choose_device
from sop.runtime.files import require_file
from sop.runtime.metrics_files import write_metrics
from sop.runtime.progress import progress
from sop.runtime.stage import run_stage

# Keys of the metrics by which experiments are compared.
COMPARED = (
    "sdr.mean",
    "silent_estimates",
    "sir.mean",
    "sar.mean",
    "si_sdr.mean",
    "sdr_improvement.mean",
    "loss",
    "mixtures.counted",
    # Only if they are measured.
    "same_category.sdr_improvement.mean",
    "silent_leak.different.median",
    "silent_leak.any.median",
    "silent_leak.same_category.median",
    "silent_leak.resting.median",
    "shifted.different.change.mean",
    "shifted.any.change.mean",
    "shifted.same_category.change.mean",
)


def main() -> None:
    params = load_params()
    settings, device = params.evaluate, choose_device(params.device)
    model = Path("data/model/last.pt")
    require_file(model, "model; run `dvc repro train`")
    player, _ = load_player(model)
    player = player.to(device)
    videos = read_index(Path("data/index") / VALIDATION, Path("data/motion"))
    separations = separate_mixtures(
        player,
        videos,
        params,
        settings.mixtures,
        settings.seed,
        evaluation_rule(params),
        device,
        plain_kind(settings),
    )
    scores = write_results(
        progress(separations, "evaluate", settings.mixtures, unit="mixture"),
        params,
        sounds=Path("data/evaluate"),
        plots=Path("metrics/evaluate"),
    )
    summary = evaluation_summary(scores) | measure_motion(player, videos, params, scores, device)
    write_metrics("evaluate", summary, COMPARED)


if __name__ == "__main__":
    run_stage("evaluate", main, __doc__)
