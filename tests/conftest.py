"""What tests share: the published numbers, real clips, and small real data."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from sop.dataset.extraction import extract
from sop.dataset.index import Video, count_frames
from sop.dataset.parallel import Workers
from sop.dataset.synthetic import plan, render
from sop.params import Params, load_params, validate

ROOT = Path(__file__).parent.parent

TINY = {
    "workers": 1,
    "device": "cpu",
    "dataset.synthetic.solos": 2,
    "dataset.synthetic.duets": 0,
    "dataset.synthetic.seconds": 3.0,
    "dataset.synthetic.width": 96,
    "dataset.synthetic.height": 72,
    "dataset.synthetic.frame_rate": 16,
    "extract.frame_rate": 8,
    "extract.frame_height": 48,
    "extract.sample_rate": 11025,
    "index.shortest_seconds": 2.0,
    "mixture.sources": 2,
    "mixture.same_category": False,
    "mixture.audio_samples": 16383,
    "mixture.margin_seconds": 0.5,
    "mixture.frames": 2,
    "mixture.frame_stride": 2,
    "mixture.image_size": 32,
    "spectrogram.stft_frame": 1022,
    "spectrogram.stft_hop": 512,
    "spectrogram.log_frequency": True,
    "model.sound": "unet5",
    "model.sound_width": 4,
    "model.vision": "resnet18dilated",
    "model.vision_width": 4,
    "model.synthesizer": "linear",
    "model.channels": 8,
    "model.image_pooling": "maxpool",
    "model.image_activation": "sigmoid",
    "model.sound_activation": "none",
    "model.output_activation": "sigmoid",
    "model.mask": "binary",
    "model.weights": {"sound": "scratch", "vision": "scratch", "synthesizer": "scratch"},
    "train.loss": "bce",
    "train.weighted_loss": True,
    "train.background": 0.0,
    "train.repeats": 1,
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.parts": 1,
    "train.devices": 1,
    "train.precision": "float32",
    "train.average": None,
    "train.optimizer": "sgd",
    "train.learning_rate": {"sound": 1e-3, "vision": 1e-4, "synthesizer": 1e-3},
    "train.schedule": "steps",
    "train.learning_rate_steps": [40, 80],
    "train.evaluate_every": 1,
    "train.evaluate_mixtures": 2,
    "evaluate.mixtures": 4,
    "evaluate.shown": 2,
    "evaluate.mask_threshold": 0.5,
    "evaluate.localized": 1,
}


class Reference(NamedTuple):
    """The published implementation's numbers, and the recipe of their weights and inputs."""

    expected: dict[str, np.ndarray]
    recipe: ModuleType


@pytest.fixture(scope="session")
def reference() -> Reference:
    folder = Path(os.environ.get("SOP_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no numbers of the published implementation in {folder} (SOP_REFERENCE)")
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    with np.load(folder / "expected.npz") as expected:
        return Reference(dict(expected), recipe)


@pytest.fixture(scope="session")
def music_clips() -> list[Path]:
    folder = ROOT.parent / "shared" / "music-clips"
    if not folder.is_dir():
        pytest.skip(f"no real clips in {folder}")
    return sorted(folder.glob("*/*.mp4"))


@pytest.fixture(scope="session")
def default_params() -> Params:
    return load_params(ROOT / "params.yaml")


def with_values(params: Params, values: dict[str, Any]) -> Params:
    """Parameters with the values of dotted keys replaced, valid as a whole."""
    tree = params.model_dump()
    for key, value in values.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = value
    return validate(tree, "params.yaml")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small arrays wait longer for a second, busy core than they take on the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_params(default_params: Params) -> Params:
    """Parameters of an experiment of seconds, whatever params.yaml says."""
    return with_values(default_params, TINY)


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory, tiny_params: Params) -> list[Video]:
    """Two rendered solos of each instrument, extracted; the first of all instruments come first."""
    folder = tmp_path_factory.mktemp("tiny")
    planned = plan(tiny_params.dataset.synthetic, seed=7)
    for video in planned:
        render(video, tiny_params.dataset.synthetic, 7, folder / "videos")
    audio, frames = folder / "audio", folder / "frames"
    extract(
        tiny_params.extract, folder / "videos", audio, frames, Workers(2), folder / "hashes.sqlite"
    )
    return [
        Video(
            audio / video.category / f"{video.name}.wav",
            frames / video.category / f"{video.name}.zip",
            count_frames(frames / video.category / f"{video.name}.zip"),
        )
        for video in planned
    ]
