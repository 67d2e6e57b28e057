"""Stage `evaluate`: separate mixtures of validation or test videos, and measure the sounds."""

from pathlib import Path

from sop.dataset.index import read_index, reported_list, reported_model
from sop.evaluate import listed
from sop.evaluate.motion import measure_motion, plain_kind
from sop.evaluate.records import evaluation_rule
from sop.evaluate.results import write_results
from sop.evaluate.validation import evaluation_summary, separate_mixtures
from sop.model.checkpoint import load_player
from sop.params import load_params
from sop.runtime.device import choose_device
from sop.runtime.files import require_file
from sop.runtime.log import say
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
    index, motion = Path("data/index"), Path("data/motion")
    model = reported_model(index, Path("data/model"))
    require_file(model, "model; run `dvc repro train`")
    player, _ = load_player(model)
    player = player.to(device)
    videos = read_index(reported_list(index), motion)
    rows, mixtures = [], None
    if settings.pairs is not None:
        path = Path(params.index.split.folder) / settings.pairs
        rows = listed.read_mixtures(path, index, params.mixture.sources)
        everything = list(listed.evaluated_videos(index, motion).values())
        mixtures = listed.listed_mixtures(rows, everything, params)
    protocol, problems = listed.check_protocol(index, motion, rows)
    for problem in problems:
        say(f"warning: {problem}")
    count = settings.mixtures if mixtures is None else len(mixtures)
    separations = separate_mixtures(
        player,
        videos,
        params,
        count,
        settings.seed,
        evaluation_rule(params),
        device,
        plain_kind(settings),
        mixtures,
    )
    scores = write_results(
        progress(separations, "evaluate", count, unit="mixture"),
        params,
        sounds=Path("data/evaluate"),
        plots=Path("metrics/evaluate"),
    )
    summary = evaluation_summary(scores)
    summary |= measure_motion(player, videos, params, scores, device, mixtures)
    write_metrics("evaluate", summary | protocol, (*COMPARED, *listed.COMPARED))


if __name__ == "__main__":
    run_stage("evaluate", main, __doc__)
