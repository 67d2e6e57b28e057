"""Stage `localize`: find the sounding players in videos with known positions, and measure it."""

from pathlib import Path

from sop.dataset.index import DUETS, TRAIN, read_index, reported_list, reported_model
from sop.inference.separator import Separator
from sop.localize.boxes import plan_frames, read_boxes
from sop.localize.frames import measure_frames
from sop.localize.measures import localization_summary, measure_localization
from sop.localize.scenes import make_scene, plan_scenes
from sop.model.checkpoint import load_player
from sop.params import load_params
from sop.runtime.device import choose_device
from sop.runtime.errors import LeftOut
from sop.runtime.files import require_file
from sop.runtime.metrics_files import write_metrics
from sop.runtime.progress import progress
from sop.runtime.stage import run_stage

# Keys of the metrics by which experiments are compared.
COMPARED = (
    "pointing.duet",
    "pointing_by_sound.duet",
    "overlap.mean",
    "regions_right.mean",
    "distractor_success",
    "duets.sdr_improvement",
    # Only if there are such videos.
    "success",
    "who_is_heard",
    "same_duets.sdr_improvement",
    "talker_pairs.sdr_improvement",
    "shifted.who_is_heard",
    "trios.sdr_improvement",
    "quartets.sdr_improvement",
    "quintets.sdr_improvement",
    *(f"boxes.{kind}.{key}" for kind in ("solo", "duet") for key in ("pointing", "ciou.auc")),
)


def main() -> None:
    params = load_params()
    index, motion, videos = Path("data/index"), Path("data/motion"), Path("data/videos")
    model = reported_model(index, Path("data/model"))
    require_file(model, "model; run `dvc repro train`")
    player, _ = load_player(model)
    separator = Separator(player, params, choose_device(params.device))
    # With index.duets, the model was trained on some of them.
    duets = [] if params.index.duets else read_index(index / DUETS, motion)
    solos = read_index(reported_list(index), motion)
    planned = plan_scenes(duets, solos, videos, params.localize.scenes)
    results, left_out = [], {}
    for one in progress(planned, "localize", len(planned), unit="scene"):
        try:
            scene = make_scene(one, videos, params.extract)
            results.append(measure_localization(separator, scene))
        except LeftOut as reason:
            left_out[one.video.name] = str(reason)
    summary = localization_summary(results, left_out)
    if params.localize.boxes:
        frames = read_boxes(map(Path, params.localize.boxes))
        # Those that are in no list of this run, such as duets with index.duets, are left out.
        chosen = plan_frames(frames, [*duets, *solos], read_index(index / TRAIN, motion))
        summary["boxes"] = measure_frames(separator, chosen, params.extract)
    write_metrics("localization", summary, COMPARED)


if __name__ == "__main__":
    run_stage("localize", main, __doc__)
