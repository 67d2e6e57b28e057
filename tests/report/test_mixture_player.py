"""The pixel player of the report plays what was evaluated."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sop.dataset.index import Video
from sop.dataset.mixtures import MixtureReader
from sop.evaluate.records import Record
from sop.evaluate.validation import separate_mixtures
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from sop.player.player import PlayerClip, write_player
from sop.report.mixture_player import mixture_clip
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def evaluated(
    params: Params, videos: list[Video]
) -> tuple[PixelPlayer, Record, np.ndarray, np.ndarray]:
    """A model with varied masks, and one of its mixtures: record, frames, separated sounds."""
    player = build(params.model, params.spectrogram, seed=3).eval()
    # With the usual initial weights, all masks are nearly constant.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in player.sound.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.xavier_normal_(module.weight)
    torch.nn.init.constant_(player.synthesizer.scale, 30)
    mixture = next(iter(separate_mixtures(player, videos, params, 1, 1234, 0.5, CPU)))
    names = tuple(video.name for video in mixture.videos)
    record = Record(mixture.number, names, mixture.sources, mixture.masks)
    frames = MixtureReader(params.mixture, params.extract).middle(mixture.videos).frames
    return player, record, frames, mixture.estimates


@pytest.mark.parametrize("pooling", ["maxpool", "avgpool", "attention"])
def test_masks_of_the_videos_are_the_evaluated_ones(
    tiny_params: Params, tiny_videos: list[Video], pooling: str
) -> None:
    params = with_values(
        tiny_params, {"model.image_pooling": pooling, "model.image_activation": "none"}
    )
    player, record, frames, _ = evaluated(params, tiny_videos)
    clip = mixture_clip(player, record, frames, params)
    features = np.stack([region.features for region in clip.regions], axis=1)
    expected = record.linear_masks(params).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(clip.embedding.masks(features), expected, atol=1e-4)


def samples(page: Any, expression: str) -> np.ndarray:
    code = f"""() => {{
      const bytes = new Uint8Array(Float32Array.from({expression}).buffer);
      let text = "";
      for (const byte of bytes) text += String.fromCharCode(byte);
      return btoa(text);
    }}"""
    return np.frombuffer(base64.b64decode(page.evaluate(code)), "<f4")


def sdr(reference: np.ndarray, sound: np.ndarray) -> float:
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - sound).sum())


@pytest.mark.parametrize(("mask", "loss"), [("binary", "bce"), ("ratio", "l1")])
def test_page_plays_the_evaluated_sounds(
    browser: Any,
    video: Path,
    tmp_path: Path,
    tiny_params: Params,
    tiny_videos: list[Video],
    mask: str,
    loss: str,
) -> None:
    values = {"model.image_pooling": "attention", "model.mask": mask, "train.loss": loss}
    params = with_values(tiny_params, values | {"model.image_activation": "none"})
    player, record, frames, estimates = evaluated(params, tiny_videos)
    clip: PlayerClip = mixture_clip(player, record, frames, params)
    page = browser.new_page()
    page.goto(write_player(tmp_path, clip, video).as_uri())
    page.evaluate("player.ready")
    heard = [samples(page, f"player.regionSound({k})") for k in range(3)]
    for estimate, sound in zip(estimates, heard, strict=False):
        # The page has the component maps with 8 bits.
        assert sdr(estimate, sound[: len(estimate)]) > 25
    mixture = record.sources.sum(axis=0)[: len(heard[0])]
    np.testing.assert_allclose(sum(heard), mixture, atol=1e-3)
    page.close()
