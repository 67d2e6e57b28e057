"""A small experiment, and the numbers of the published implementation."""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sop.params import Params, validate

ROOT = Path(__file__).parents[2]

TINY = {
    "workers": 1,
    "device": "cpu",
    "dataset.synthetic.solos": 2,
    "dataset.synthetic.duets": 0,
    "dataset.synthetic.same_duets": 0,
    "dataset.synthetic.talkers": 0,
    "dataset.synthetic.talker_pairs": 0,
    "dataset.synthetic.resting_solos": 0,
    "dataset.synthetic.resting_duets": 0,
    "dataset.synthetic.seconds": 3.0,
    "dataset.synthetic.width": 96,
    "dataset.synthetic.height": 72,
    "dataset.synthetic.frame_rate": 16,
    "extract.frame_rate": 8,
    "extract.frame_height": 48,
    "extract.sample_rate": 11025,
    "extract.motion_rate": None,
    "index.min_seconds": 2.0,
    "index.split": {
        **{"folder": "protocols", "train": None, "validation": None, "test": None},
        "leaks": "drop",
    },
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
    "model.sound_init": "published",
    "model.vision": "resnet18dilated",
    "model.vision_width": 4,
    "model.synthesizer": "linear",
    "model.channels": 8,
    "model.motion": "none",
    "model.image_pooling": "maxpool",
    "model.image_activation": "sigmoid",
    "model.sound_activation": "none",
    "model.output_activation": "sigmoid",
    "model.mask": "binary",
    "model.weights": {"sound": "scratch", "vision": "scratch", "synthesizer": "scratch"},
    "train.loss": "bce",
    "train.weighted_loss": True,
    "train.spectrum_weight": 0.0,
    "train.background_weight": 0.0,
    "train.repeats": 1,
    "train.epochs": 1,
    "train.same_category_share": None,
    "train.silent_share": 0.0,
    "train.shifted_share": 0.0,
    "train.share_ramp": 0.0,
    "train.motion_start": 0.0,
    "train.batch_size": 4,
    "train.micro_batches": 1,
    "train.devices": 1,
    "train.precision": "float32",
    "train.ema_decay": None,
    "train.optimizer": "sgd",
    "train.learning_rate": {"sound": 1e-3, "vision": 1e-4, "synthesizer": 1e-3},
    "train.schedule": "steps",
    "train.learning_rate_steps": [40, 80],
    "train.evaluate_every": 1,
    "train.evaluate_mixtures": 2,
    "evaluate.pairs": None,
    "evaluate.mixtures": 4,
    "evaluate.shown": 2,
    "evaluate.same_category": 0,
    "evaluate.silent": 0,
    "evaluate.mask_threshold": 0.5,
    "evaluate.mask_power": None,
    "localize.scenes": 1,
    "localize.boxes": [],
}


class Reference(NamedTuple):
    """Numbers of the published implementation, and the recipe of their weights and inputs."""

    expected: dict[str, np.ndarray]
    recipe: ModuleType


def with_values(params: Params, values: dict[str, Any]) -> Params:
    """Return validated parameters with the values of dotted keys replaced."""
    tree = params.model_dump()
    for key, value in values.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = value
    return validate(Params, tree, "params.yaml")


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    """Assert that two nets have the same parameters and buffers, to the last bit."""
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, expected[name]), name
