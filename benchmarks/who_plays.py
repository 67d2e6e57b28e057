"""Picture of who plays when: two players of one instrument, separated with and without motion.

Run: python -m benchmarks.who_plays SCENE --motion MODEL --without MODEL --picture FILE

SCENE is a rendered duet, such as flute_flute/flute_flute_000, of the data in this folder; the
models are trained with and without motion.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sop.dataset.index import DUETS, read_index
from sop.evaluate.measures import Sounds
from sop.inference.separator import Separator
from sop.localize.scenes import LocalizationScene, make_scene, plan_scenes
from sop.params import load_params
from sop.runtime.files import replacing

INDEX, MOTION, VIDEOS = Path("data/index"), Path("data/motion"), Path("data/videos")
COLOURS = ("tab:blue", "tab:orange")
LEVEL_SECONDS = 0.1
FLOOR_DB = -40.0


def main() -> None:
    """Draw the levels of both players over time: true, with motion and without."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.who_plays", description=__doc__)
    parser.add_argument("scene")
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--without", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    params = load_params()
    duets = read_index(INDEX / DUETS, MOTION)
    videos = [video for video in duets if video.name == options.scene]
    planned = plan_scenes(videos, [], VIDEOS, 1)
    found = [one for one in planned if one.kind == "same_duet" and not one.shifted]
    if not found:
        raise SystemExit(f"{options.scene}: not a rendered duet of one instrument in {INDEX}")
    scene = make_scene(found[0], VIDEOS, params.extract)
    separated = {
        "with motion": separate(Separator.load(options.motion, "cpu"), scene),
        "without motion": separate(Separator.load(options.without, "cpu"), scene),
    }
    draw({"true sounds": scene.stems, **separated}, scene, options.picture)


def separate(separator: Separator, scene: LocalizationScene) -> Sounds:
    """Return the sounds of the two regions that the model finds, in the order of the players."""
    where = separator.localize(scene.recording, regions=2)
    if len(where.regions) < 2:
        raise SystemExit(f"{scene.name}: only one region is found; choose another scene")
    embedding = separator.embed(scene.recording, 0, separator.frames(scene.recording))
    sounds = embedding.sounds(separator.region_masks(embedding, where.regions))
    found = np.argsort([region.box[0] + region.box[2] for region in where.regions])
    players = np.argsort([left + right for left, _, right, _ in scene.boxes])
    ordered = np.empty((2, sounds.shape[1]), np.float32)
    ordered[players] = sounds[found]
    return ordered


def levels(sounds: Sounds, rate: int) -> Sounds:
    """Return the level of each sound over time, in dB relative to the loudest, (N, T)."""
    size = round(LEVEL_SECONDS * rate)
    count = sounds.shape[1] // size
    energy = np.square(sounds[:, : count * size].reshape(len(sounds), count, size)).mean(axis=2)
    decibels: Sounds = 10 * np.log10(np.maximum(energy / energy.max(), 10 ** (FLOOR_DB / 10)))
    return decibels


def draw(sounds: dict[str, Sounds], scene: LocalizationScene, path: Path) -> None:
    """Write the picture: a frame with both players, and their levels over time."""
    rate = scene.recording.sample_rate
    figure = Figure(figsize=(12, 2.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + len(sounds), width_ratios=(1.1, *[2] * len(sounds)))
    middle = scene.recording.samples / rate / 2
    draw_frame(axes[0], scene.recording.frames(middle, 1, 1, 88)[0], scene)
    for axis, (title, those) in zip(axes[1:], sounds.items(), strict=True):
        values = levels(those, rate)
        seconds = (np.arange(values.shape[1]) + 0.5) * LEVEL_SECONDS
        for number, (level, colour) in enumerate(zip(values, COLOURS, strict=True), 1):
            axis.plot(seconds, level, color=colour, label=f"player {number}")
        axis.set(title=title, xlabel="seconds", ylim=(FLOOR_DB, 2))
    axes[1].set_ylabel("dB")
    axes[1].legend(loc="lower left", fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def draw_frame(axis: Axes, frame: NDArray[np.uint8], scene: LocalizationScene) -> None:
    """Draw a frame with the boxes of the players."""
    height, width = frame.shape[:2]
    axis.imshow(frame)
    axis.set_axis_off()
    for (left, top, right, bottom), colour in zip(scene.boxes, COLOURS, strict=True):
        size = (right - left) * width, (bottom - top) * height
        axis.add_patch(Rectangle((left * width, top * height), *size, fill=False, color=colour))


if __name__ == "__main__":
    main()
