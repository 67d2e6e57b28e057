"""Separators of models with motion."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sop.inference import localization
from sop.inference import separator as module
from sop.inference.embedding import HEAT_RATE, normalize_masks
from sop.inference.localization import Localizer, regions_at
from sop.inference.separator import Separator
from sop.localize.frames import localize_around
from sop.model.motion import ENVELOPES, LEAD, TAIL, attention, cell_weights
from sop.model.pixelplayer import normalize_frames
from sop.model.spectrogram import stft_power
from sop.params import Params
from tests.support.experiment import with_values
from tests.support.planted import RATE, ArrayRecording, separator_of

pytestmark = pytest.mark.usefixtures("one_thread")

HOP = 512
# Three motion frames in four spectrogram frames.
MOTION_RATE = 0.75 * RATE / HOP
# The pictures have 2 x 4 cells; see `ArrayRecording.frames`.
SHAPE = (2, 4)


class MovingRecording(ArrayRecording):
    """A recording whose motion frame i is a picture of its own; negative ones are the first."""

    def __init__(self, samples: int, brightness: bool = False) -> None:
        rng = np.random.default_rng(0)
        super().__init__(rng.uniform(-0.5, 0.5, samples))
        self.count = round(samples / RATE * MOTION_RATE)
        self.pictures = rng.integers(0, 256, (self.count, 16, 32), dtype=np.uint8)
        if brightness:
            self.pictures[:] = np.arange(self.count)[:, None, None]

    def motion(self, begin: float, count: int, size: int) -> np.ndarray:
        first = round(begin * MOTION_RATE)
        return self.pictures[np.clip(np.arange(first, first + count), 0, self.count - 1)]


class Brightness(nn.Module):
    """Instead of the motion net: every envelope of a cell is the brightness of its picture."""

    def forward(self, motion: Tensor) -> Tensor:
        return motion.float()[:, None].expand(-1, ENVELOPES, -1, -1, -1)


@pytest.fixture
def moving(tiny_params: Params) -> Separator:
    values = {
        "extract.motion_rate": MOTION_RATE,
        "mixture.motion_size": 16,
        "model.motion": "synchrony",
        "model.image_pooling": "attention",
    }
    separator = separator_of(with_values(tiny_params, values))
    generator = torch.Generator().manual_seed(1)
    for net in (separator.player.vision.head, separator.player.synchrony.filter):
        nn.init.normal_(net.weight, 0, 0.3, generator=generator)
    return separator


def test_segments_do_not_change_the_masks_of_motion(
    moving: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = MovingRecording(12 * RATE)
    at = tuple(regions_at([(0.1, 0.1), (0.9, 0.9)], SHAPE))
    found = []
    for windows in (3, 16):
        monkeypatch.setattr(module, "SEGMENT_WINDOWS", windows)
        where = moving.localize(recording, regions=2)
        segments = [embedding for _, embedding in moving.segments(recording)]
        masks = [
            np.concatenate([moving.region_masks(one, regions) for one in segments], axis=2)
            for regions in (at, where.regions)
        ]
        found.append((*masks, where.energy))
    assert len(found[0]) == 3
    for cut, whole in zip(*found, strict=True):
        np.testing.assert_allclose(cut, whole, atol=2e-4)
    # The masks of a cell follow its motion.
    motion = moving.embed(recording, 0, 64).motion
    assert motion is not None
    assert motion.cells.std(axis=1).min() > 1e-4


@pytest.mark.parametrize("cut", [1, LEAD - 1, 57])
def test_segments_have_the_envelopes_of_the_whole_recording(moving: Separator, cut: int) -> None:
    """At the seam, a segment also has the envelopes before its beginning and after its end."""
    recording = MovingRecording(5 * RATE)
    total = moving.frames(recording)
    whole, *parts = (
        moving.embed(recording, first, count).motion
        for first, count in ((0, total), (0, cut), (cut, total - cut))
    )
    around = whole.cells[:, : LEAD + cut + TAIL], whole.cells[:, cut:]
    for part, expected in zip(parts, around, strict=True):
        np.testing.assert_allclose(part.cells, expected, atol=1e-5)
    cells = whole.cells.reshape(ENVELOPES, -1, 8).transpose(2, 0, 1)
    every = slice(None)
    at_once = whole.logits(cells, every)
    pieces = [
        replace(part, maps=maps).logits(
            part.cells.reshape(ENVELOPES, -1, 8).transpose(2, 0, 1), every
        )
        for part, maps in zip(parts, np.split(whole.maps, [cut], axis=-1), strict=True)
    ]
    assert at_once.std() > 1e-3
    torch.testing.assert_close(torch.cat(pieces, dim=-1), at_once, rtol=1e-3, atol=1e-4)


def test_heat_follows_the_motion(moving: Separator) -> None:
    embedding = moving.embed(MovingRecording(6 * RATE), 5, 100)
    heat = embedding.heat()
    assert heat.shape == (round(100 * HOP / RATE * HEAT_RATE), *SHAPE)
    power = stft_power(embedding.audio, embedding.spectrogram)
    energy = (embedding.cell_masks() ** 2 * power).sum(axis=1)
    np.testing.assert_allclose(heat.sum(axis=0).ravel(), energy.sum(axis=1), rtol=1e-4)
    # The maps are of consecutive parts of at most one frame's difference in length.
    part = slice(*np.flatnonzero(np.arange(100) * len(heat) // 100 == 17)[[0, -1]] + [0, 1])
    assert part.stop - part.start in (2, 3)
    np.testing.assert_allclose(heat[17].ravel(), energy[:, part].sum(axis=1), rtol=1e-4)


def test_envelopes_are_those_of_their_moments(moving: Separator) -> None:
    moving.player.motion = Brightness()
    recording = MovingRecording(8 * RATE, brightness=True)
    motion = moving.embed(recording, 30, 20).motion
    assert motion is not None
    assert motion.cells.shape == (ENVELOPES, LEAD + 20 + TAIL, *SHAPE)
    # Motion frame i, of brightness i, shows second (i + 0.5) / MOTION_RATE; half a spectrogram
    # frame is as in training.
    columns = np.arange(30 - LEAD, 50 + TAIL)
    expected = (columns + 0.5) * HOP / RATE * MOTION_RATE - 0.5
    np.testing.assert_allclose(motion.cells[1, :, 1, 2], expected, atol=1e-3)


def test_recording_has_the_envelopes_of_a_training_clip(moving: Separator) -> None:
    player, frames = moving.player, 128
    recording = MovingRecording(frames * HOP)
    pictures = normalize_frames(torch.from_numpy(recording.frames(0, 2, 1, 32)))[None, None]
    motion = recording.motion(0, round(frames * 0.75), 16)
    with torch.inference_mode():
        magnitude = torch.ones(1, 256, frames)
        clip = player(magnitude, pictures, motion=torch.from_numpy(motion)[None, None]).envelopes
        weights = cell_weights(attention(player.vision(pictures[0])).flatten(1)).view(1, *SHAPE)
    found = moving.embed(recording, 0, frames).motion
    assert found is not None
    pooled = found.pool(weights.numpy())[:, :, LEAD:-TAIL]
    # At the ends a clip has zeros beyond it, and a recording still pictures.
    inner = slice(16, frames - 16)
    np.testing.assert_allclose(pooled[..., inner], clip[0].numpy()[..., inner], atol=1e-4)
    assert pooled[..., inner].std() > 1e-3


def test_pixel_and_region_of_one_cell_sound_the_same(moving: Separator) -> None:
    recording = MovingRecording(4 * RATE)
    embedding = moving.embed(recording, 0, 60)
    (region,) = regions_at([(0.3, 0.9)], SHAPE)
    masks = moving.region_masks(embedding, (region,))[0]
    cell = int(np.flatnonzero(region.cells)[0])
    alone = embedding.cell_masks()[cell][None]
    np.testing.assert_allclose(masks, normalize_masks(alone)[0], atol=1e-5)
    part = embedding.cell_masks(slice(13, 31))
    np.testing.assert_allclose(part, embedding.cell_masks()[:, :, 13:31], atol=1e-5)


def test_regions_compete_unless_their_number_is_given(
    moving: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = MovingRecording(4 * RATE)
    two = tuple(regions_at([(0.1, 0.1), (0.9, 0.9)], SHAPE))
    found = replace(Localizer().localize(), regions=two)
    monkeypatch.setattr(Localizer, "localize", lambda self, regions=None: found)
    assert moving.localize(recording, regions=2).regions == two
    # Both claim about half of everything.
    monkeypatch.setattr(localization, "MIN_KEPT_ENERGY", 0.0)
    assert moving.localize(recording).regions == two
    monkeypatch.setattr(localization, "MIN_KEPT_ENERGY", 1.0)
    (winner,) = moving.localize(recording).regions
    # The winner is the one whose mask has more energy in competition.
    embedding = moving.embed(recording, 0, moving.frames(recording))
    masks = [moving.region_masks(embedding, (region,))[0].astype(float) for region in two]
    power = moving.power(recording, 0, masks[0].shape[1])
    squares = np.square(masks)
    kept = [(s * s / squares.sum(axis=0) * power).sum() / (s * power).sum() for s in squares]
    assert winner is two[int(np.argmax(kept))]
    # So they do in the clip around a moment.
    assert len(localize_around(moving, recording, 1.0).regions) == 1
