"""A copy of the project with a small experiment, for tests that run DVC."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.support.experiment import ROOT

SMALL = {
    "dataset.synthetic.solos": 2,
    "dataset.synthetic.duets": 1,
    "dataset.synthetic.same_duets": 0,
    "dataset.synthetic.talkers": 0,
    "dataset.synthetic.talker_pairs": 0,
    "dataset.synthetic.resting_solos": 0,
    "dataset.synthetic.resting_duets": 0,
    "dataset.synthetic.seconds": 3.0,
    "dataset.synthetic.width": 64,
    "dataset.synthetic.height": 48,
    "index.min_seconds": 2.0,
    "index.train_fraction": 0.5,
    "mixture.audio_samples": 16383,
    "mixture.margin_seconds": 0.5,
    "mixture.frame_stride": 2,
    "mixture.image_size": 32,
    "spectrogram.stft_hop": 512,
    "model.sound_width": 2,
    "model.vision_width": 2,
    "model.channels": 2,
    # After so few steps a binary mask may still be empty everywhere, and silence has no SDR.
    "model.mask": "ratio",
    "train.loss": "l1",
    "train.epochs": 1,
    "train.repeats": 1,
    "train.batch_size": 4,
    "train.evaluate_mixtures": 2,
    "evaluate.mixtures": 4,
    "evaluate.shown": 2,
    "localize.scenes": 1,
    "denoise.taps": [4, 16],
    "denoise.nlms_rates": [0.01],
    "denoise.rls_forgetting": [0.999],
    "report.players": 1,
}


class Project:
    """A copy of this repository with a small experiment in it.

    Args:
        folder: folder of the copy.
        without: beginnings of the paths that are not copied; by default also the results.
    """

    def __init__(
        self, folder: Path, without: tuple[str, ...] = ("metrics/", "tests/", "docs/", "dvc.lock")
    ) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if not name.startswith(without) and (ROOT / name).is_file():
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place)
        self.set(SMALL)
        self.git("init", "--quiet")
        self.git("config", "user.name", "test")
        self.git("config", "user.email", "test@localhost")
        self.commit("the experiment")

    def copy(self, folder: Path) -> "Project":
        """The same project elsewhere, with all that it made."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = copy.copy(self)
        other.folder = folder
        return other

    def set(self, values: dict[str, object]) -> None:
        yaml_file = YAML()
        path = self.folder / "params.yaml"
        params = yaml_file.load(path.read_text())
        for key, value in values.items():
            *sections, last = key.split(".")
            section = params
            for name in sections:
                section = section[name]
            section[last] = value
        yaml_file.dump(params, path)

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.folder, check=True)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        # Two threads and two readers of clips on two cores would wait for each other.
        environment["OMP_NUM_THREADS"] = "1"
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the stages that ran."""
        done = self.dvc("repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"Running stage '(\w+)'", done.stdout)

    def metrics(self) -> dict[str, object]:
        return json.loads((self.folder / "metrics/details/evaluate.json").read_text())
