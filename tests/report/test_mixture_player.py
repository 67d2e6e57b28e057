"""The pixel player of the report plays what was evaluated."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sop.dataset.index import Video
from sop.dataset.mixtures import Mixture, MixtureReader
from sop.evaluate.records import Record, evaluation_rule
from sop.evaluate.validation import separate_mixtures
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from sop.player.player import PlayerClip, write_player
from sop.report.mixture_files import MixtureFileWriter
from sop.report.mixture_player import mixture_clip
from tests.support.experiment import with_values
from tests.support.pages import correlation, samples

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


class Evaluated(NamedTuple):
    """A model with varied masks, and one of its mixtures."""

    player: PixelPlayer
    record: Record
    mixture: Mixture
    estimates: np.ndarray

    def clip(self, params: Params) -> PlayerClip:
        frames, motion = self.mixture.frames, self.mixture.motion
        return mixture_clip(self.player, self.record, frames, params, motion)


def evaluated(params: Params, videos: list[Video]) -> Evaluated:
    player = build(params.model, params.spectrogram, seed=3).eval()
    # With the usual initial weights, all masks are nearly constant.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for module in player.sound.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.xavier_normal_(module.weight)
        if player.synchrony is not None:
            torch.nn.init.normal_(player.synchrony.filter.weight)
    torch.nn.init.constant_(player.synthesizer.scale, 30)
    mixture = next(
        iter(separate_mixtures(player, videos, params, 1, 1234, evaluation_rule(params), CPU))
    )
    names = tuple(video.name for video in mixture.videos)
    record = Record(mixture.number, names, mixture.sources, mixture.masks)
    reader = MixtureReader(params.mixture, params.extract, params.model.motion != "none")
    return Evaluated(player, record, reader.middle(mixture.videos), mixture.estimates)


@pytest.mark.parametrize("pooling", ["maxpool", "avgpool", "attention"])
def test_masks_of_the_videos_are_the_evaluated_ones(
    tiny_params: Params, tiny_videos: list[Video], pooling: str
) -> None:
    params = with_values(
        tiny_params, {"model.image_pooling": pooling, "model.image_activation": "none"}
    )
    found = evaluated(params, tiny_videos)
    clip = found.clip(params)
    features = np.stack([region.features for region in clip.regions], axis=1)
    expected = found.record.linear_masks(params).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(clip.embedding.masks(features), expected, atol=1e-4)


def sdr(reference: np.ndarray, sound: np.ndarray) -> float:
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - sound).sum())


@pytest.fixture
def moving_videos(tmp_path: Path, tiny_videos: list[Video]) -> list[Video]:
    """The videos with random motion."""
    random = np.random.default_rng(2)
    moving = []
    for n, video in enumerate(tiny_videos):
        moving.append(replace(video, motion=tmp_path / f"{n}.npy"))
        np.save(tmp_path / f"{n}.npy", random.integers(0, 256, (48, 44, 58), dtype=np.uint8))
    return moving


MOTION = {
    "extract.motion_rate": 16.0,
    "model.motion": "synchrony",
    "model.image_pooling": "attention",
    "model.image_activation": "none",
}


def test_masks_of_moving_videos_are_the_evaluated_ones(
    tiny_params: Params, moving_videos: list[Video]
) -> None:
    params = with_values(tiny_params, MOTION)
    found = evaluated(params, moving_videos)
    clip = found.clip(params)
    features = np.stack([region.features for region in clip.regions], axis=1)
    envelopes = np.stack([region.envelopes for region in clip.regions])
    expected = found.record.linear_masks(params).numpy()
    masks = clip.embedding.masks(features, envelopes=envelopes)
    np.testing.assert_allclose(masks, expected, atol=1e-4)
    # Without the motion, the masks differ.
    still = replace(clip.embedding, motion=None).masks(features)
    assert np.abs(still - expected).mean() > 0.05
    # The envelopes of a video are a weighted mean of those of its half of the picture.
    cells = clip.embedding.motion.cells
    for mean, half in zip(envelopes, np.split(cells, 2, axis=-1), strict=True):
        assert np.all(mean <= half.max(axis=(-2, -1)) + 1e-5)
        assert np.all(mean >= half.min(axis=(-2, -1)) - 1e-5)
        assert correlation(half.mean(axis=(-2, -1)).ravel(), mean.ravel()) > 0.9


def test_files_of_a_mixture_with_motion(
    tmp_path: Path, tiny_params: Params, moving_videos: list[Video]
) -> None:
    params = with_values(tiny_params, MOTION)
    found = evaluated(params, moving_videos)
    videos = {video.name: video for video in found.mixture.videos}
    originals = moving_videos[0].audio.parents[2] / "videos"
    writer = MixtureFileWriter(tmp_path, params, videos, originals, found.player, found.record)
    written = writer.write(None, with_player=True)
    page = (tmp_path / written.mixture["player"]).read_text("utf-8")
    assert '"motion":{"envelopes":5,"maps":24,"lead":12,"tail":3,"heats":' in page
    # The player links back to its mixture in the report.
    [link] = re.findall(r'<a href="([^"]*)"', page)
    target, mixture = link.split("#")
    report = (tmp_path / written.mixture["player"]).parent / target
    assert report.resolve() == (tmp_path / "index.html").resolve()
    assert mixture == f"mixture-{found.record.number}"
    assert all((tmp_path / source["heat"]).exists() for source in written.sources)


@pytest.mark.parametrize("motion", [{}, MOTION], ids=["still", "moving"])
@pytest.mark.parametrize(
    ("mask", "loss", "power"),
    [("binary", "bce", None), ("ratio", "l1", None), ("binary", "bce", 2.0)],
)
def test_page_plays_the_evaluated_sounds(
    browser: Any,
    video: Path,
    tmp_path: Path,
    tiny_params: Params,
    moving_videos: list[Video],
    mask: str,
    loss: str,
    power: float | None,
    motion: dict[str, Any],
) -> None:
    values = {"model.image_pooling": "attention", "model.mask": mask, "train.loss": loss}
    values |= {"evaluate.mask_power": power}
    params = with_values(tiny_params, values | {"model.image_activation": "none"} | motion)
    found = evaluated(params, moving_videos)
    page = browser.new_page()
    page.goto(write_player(tmp_path, found.clip(params), video).as_uri())
    page.evaluate("player.ready")
    heard = [samples(page, f"player.regionSound({k})") for k in range(3)]
    for estimate, sound in zip(found.estimates, heard, strict=False):
        # The page has the component maps with 8 bits.
        assert sdr(estimate, sound[: len(estimate)]) > 25
    mixture = found.record.sources.sum(axis=0)[: len(heard[0])]
    np.testing.assert_allclose(sum(heard), mixture, atol=1e-3)
    page.close()
