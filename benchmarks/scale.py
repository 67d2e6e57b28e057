"""What DVC and the stages take when nothing, or one video, is new among many.

Run: python -m benchmarks.scale [VIDEOS SECONDS]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.extract import ffmpeg, free_box
from benchmarks.machine import environment

ROOT = Path(__file__).parents[1]
CATEGORIES = 10

# Training and evaluation are there, so that `dvc repro` looks at every stage, and are short.
VALUES = {
    "dataset.source": "local",
    "mixture.audio_samples": 16383,
    "mixture.image_size": 32,
    "model.sound_width": 2,
    "model.vision_width": 2,
    "model.channels": 2,
    "model.mask": "ratio",
    "train.loss": "l1",
    "train.epochs": 1,
    "train.repeats": 1,
    "train.evaluate_mixtures": 2,
    "evaluate.mixtures": 4,
    "evaluate.shown": 0,
}


def main() -> None:
    """Print seconds for a first run, a run with nothing to do, and one with one new video."""
    videos, seconds = (int(text) for text in sys.argv[1:3]) if sys.argv[1:] else (700, 200)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        copy_repository(project)
        stand_in = make_stand_in(project, seconds)
        for number in range(videos):
            place(stand_in, project, number)
        print(f"| {videos} videos of {seconds} s | s |")
        print("| --- | --- |")
        report("the whole pipeline, from nothing", dvc(project, "repro"))
        report("dvc repro, nothing to do", min(dvc(project, "repro") for _ in range(3)))
        place(stand_in, project, videos)
        report("one video added, dvc repro extract", dvc(project, "repro", "extract"))
        set_values(project, {"workers": 1})
        report("the stages again by force, nothing to do", dvc(project, "repro", "-f", "extract"))
    print(f"\n{environment()}")


def report(what: str, seconds: float) -> None:
    """Print a row."""
    print(f"| {what} | {seconds:.1f} |", flush=True)


def copy_repository(project: Path) -> None:
    """What git knows of this repository, as a repository of its own without results."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith(("metrics/", "dvc.lock")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    set_values(project, VALUES)
    author = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "-qm", "benchmark"]):
        subprocess.run(["git", *command], cwd=project, check=True)


def set_values(project: Path, values: dict[str, object]) -> None:
    """Set parameters by dotted keys."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    for key, value in values.items():
        *sections, last = key.split(".")
        section = params
        for name in sections:
            section = section[name]
        section[last] = value
    yaml.dump(params, project / "params.yaml")


def make_stand_in(project: Path, seconds: int) -> Path:
    """A video that is long and small."""
    video = project / "stand-in.mp4"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=8", "-f", "lavfi", "-i", "sine=440:r=11025"),
        *("-t", str(seconds), "-pix_fmt", "yuv420p", "-preset", "ultrafast", video),
    )
    return video


def place(stand_in: Path, project: Path, number: int) -> None:
    """One more video, its bytes unlike all others'."""
    category = project / "videos" / f"category{number % CATEGORIES}"
    category.mkdir(exist_ok=True)
    (category / f"{number:05d}.mp4").write_bytes(stand_in.read_bytes() + free_box(number))


def dvc(project: Path, *arguments: str) -> float:
    """Seconds that a dvc command takes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
