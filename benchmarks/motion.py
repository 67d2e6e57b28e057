"""Motion tracks: what they add to extraction and to reading, against frames at the same rate.

Run: python -m benchmarks.motion
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.extract import SOURCE, ffmpeg, timed
from benchmarks.machine import environment
from sop.dataset.clips import Crop, read_frames, read_motion
from sop.dataset.index import Video, count_frames
from sop.dataset.mixtures import CROP_ZOOM, MixtureReader, TrainingMixtures, collate
from sop.extract.extraction import extract_video
from sop.params import ExtractParams, Params, load_params, validate
from sop.runtime.device import keep_freed_memory

RATE = 16.0
SECONDS = 60
VIDEOS = 4
ROUNDS = 5
CLIPS = 200
BATCH = 16
SEED = 1


def main() -> None:
    """Print what tracks cost, measured in turn on the same videos."""
    torch.set_num_threads(1)
    keep_freed_memory()
    params = with_motion(load_params())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        video = root / "video.mp4"
        coded = ("-t", SECONDS, "-pix_fmt", "yuv420p", "-preset", "medium", "-c:a", "aac")
        ffmpeg(*SOURCE, *map(str, coded), video)
        of_extraction(video, root, params.extract)
        of_a_clip(video, root, params)
        of_mixtures(video, root, params)
    print(f"\n{environment()}")


def with_motion(params: Params) -> Params:
    """Return the parameters with motion tracks and a model that reads them."""
    values = params.model_dump()
    values["extract"]["motion_rate"] = RATE
    values["model"]["motion"] = "synchrony"
    return validate(Params, values, "params.yaml")


def of_extraction(video: Path, root: Path, params: ExtractParams) -> None:
    """One decode with and without a track, and the size of both."""
    audio, frames, track = root / "a.wav", root / "a.zip", root / "a.npy"
    ways: dict[str, Callable[[], object]] = {
        "without tracks": lambda: extract_video(video, audio, frames, params),
        f"with tracks of {RATE:g} per second": lambda: extract_video(
            video, audio, frames, params, track
        ),
        "the tracks alone": lambda: extract_video(video, None, None, params, track),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            found[name].append(timed(work))
    print(f"| extract_video, {SECONDS} s of 640x360 H.264, best of {ROUNDS} | s | s of CPU |")
    print("| --- | --- | --- |")
    for name, figures in found.items():
        wall, cpu = (min(column) for column in zip(*figures, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    print("\n| MiB per minute | |")
    print("| --- | --- |")
    for name, path in (("sound", audio), ("frames", frames), ("motion track", track)):
        print(f"| {name} | {path.stat().st_size / 2**20 / SECONDS * 60:.2f} |")


def of_a_clip(video: Path, root: Path, params: Params) -> None:
    """The motion frames of a clip from a track, and from JPEGs of the same rate and size."""
    extract, mixture = params.extract, params.mixture
    track = root / "clip.npy"
    count = MixtureReader(mixture, extract, motion=True).motion_frames
    extract_video(video, None, None, extract, track)
    zips = {}
    for height in (extract.motion_height, extract.frame_height):
        dense = extract.model_copy(update={"frame_rate": RATE, "frame_height": height})
        zips[height] = root / f"{height}.zip"
        extract_video(video, None, zips[height], dense)
    rng, size = np.random.default_rng(SEED), mixture.motion_size
    begins = rng.uniform(0, SECONDS - 2, CLIPS)
    crop = Crop(CROP_ZOOM, 0.3, 0.6, mirrored=True)

    def from_track(begin: float) -> None:
        read_motion(track, begin, count, RATE, size, crop)

    def from_zip(path: Path) -> Callable[[float], None]:
        def read(begin: float) -> None:
            first = 1 + int(begin * RATE)
            read_frames(path, range(first, first + count), size, crop)

        return read

    ways: dict[str, Callable[[float], None]] = {"track": from_track}
    ways |= {f"JPEGs of {height} pixels": from_zip(path) for height, path in zips.items()}
    best = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        for name, read in ways.items():
            began = time.perf_counter()
            for begin in begins:
                read(begin)
            best[name] = min(best[name], (time.perf_counter() - began) / CLIPS)
    print(f"\n| {count} motion frames of {size} pixels from | ms, best of {ROUNDS} |")
    print("| --- | --- |")
    for name, seconds in best.items():
        print(f"| {name} | {1e3 * seconds:.2f} |")


def of_mixtures(video: Path, root: Path, params: Params) -> None:
    """Training mixtures that one process reads, with and without motion."""
    videos = []
    for number in range(VIDEOS):
        places = [root / str(number) / f"v{ending}" for ending in (".wav", ".zip", ".npy")]
        extract_video(video, *places[:2], params.extract, places[2])
        videos.append(Video(*places[:2], count_frames(places[1]), motion=places[2]))
    best = {"without motion": 0.0, "with motion": 0.0}
    for _ in range(ROUNDS):
        for name in best:
            reader = MixtureReader(params.mixture, params.extract, name == "with motion")
            mixtures = TrainingMixtures(videos, reader, CLIPS, BATCH, SEED)
            began = time.perf_counter()
            for first in range(0, CLIPS - BATCH, BATCH):
                collate([mixtures[number] for number in range(first, first + BATCH)])
            read = (CLIPS - BATCH) // BATCH * BATCH
            best[name] = max(best[name], read / (time.perf_counter() - began))
    print(f"\n| mixtures of params.yaml, one process, best of {ROUNDS} | mixtures/s |")
    print("| --- | --- |")
    for name, speed in best.items():
        print(f"| {name} | {speed:.0f} |")


if __name__ == "__main__":
    main()
