"""The page of a model with motion: masks follow time, and the page computes them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sop.inference.embedding import Embedding, MotionEmbedding, normalize_masks
from sop.inference.localization import Region
from sop.inference.separator import region_envelopes
from sop.model.motion import ENVELOPES, LEAD, MAPS, TAIL
from sop.params import Activation, Params
from sop.player.player import PlayerClip, PlayerRegion, write_player
from tests.support.experiment import with_values
from tests.support.pages import (
    RATE,
    check,
    click,
    clip_of,
    correlation,
    noise,
    open_in,
    samples,
    wait_until,
)
from tests.support.planted import ArrayRecording, separator_of

pytestmark = pytest.mark.usefixtures("one_thread")

MOTION_RATE = 16.0
SECONDS = 6
PAGE_BYTES = 3e6


@pytest.fixture(scope="module")
def context(browser: Any) -> Any:
    return browser.new_context(viewport={"width": 1200, "height": 900})


class MovingRecording(ArrayRecording):
    """Random pictures and motion with the sound of two tones and noise."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)
        time = np.arange(RATE * SECONDS) / RATE
        tones = np.sin(2 * np.pi * 400 * time) + np.sin(2 * np.pi * 1900 * time)
        super().__init__(0.03 * tones + self.random.normal(0, 0.1, len(time)))

    def frames(self, seconds: float, count: int, stride: int, size: int) -> np.ndarray:
        return self._blocks(count, size // 10, 10, 3)

    def motion(self, begin: float, count: int, size: int) -> np.ndarray:
        return self._blocks(count, size // 10, 10, 1)[..., 0]

    def _blocks(self, count: int, side: int, size: int, channels: int) -> np.ndarray:
        """Return pictures of random blocks, `side` of them above and twice as many beside."""
        shape = (count, side, 2 * side, channels)
        blocks = self.random.integers(0, 256, shape, dtype=np.uint8)
        return blocks.repeat(size, axis=1).repeat(size, axis=2)


def random_motion(clip: PlayerClip) -> PlayerClip:
    """Give a clip random motion that the page stores exactly."""
    random = np.random.default_rng(4)
    _, rows, frames = clip.embedding.components.shape
    grid = clip.embedding.cells.shape[1:3]

    def levels(count: int, *shape: int) -> np.ndarray:
        values = random.integers(0, count, shape)
        values.reshape(len(values), -1)[:, :2] = 0, count - 1
        return (2 * values / count - 1).astype(np.float32)

    motion = MotionEmbedding(
        maps=levels(128, MAPS, rows, frames),
        cells=levels(256, ENVELOPES, LEAD + frames + TAIL, *grid),
        taps=random_taps(random),
    )
    regions = tuple(
        replace(region, envelopes=region_envelopes(motion, Region(region.cells, 0.0)))
        for region in clip.regions
    )
    return replace(clip, embedding=replace(clip.embedding, motion=motion), regions=regions)


def random_taps(random: np.random.Generator) -> np.ndarray:
    """Taps that give standard envelopes weights of a standard deviation of about 1."""
    size = LEAD + 1 + TAIL
    deviation = (ENVELOPES * size) ** -0.5
    return random.normal(0, deviation, (MAPS, ENVELOPES, size)).astype(np.float32)


def cell_sounds(embedding: Embedding) -> np.ndarray:
    """Python's sound of every cell, (h, w, samples)."""
    height, width = embedding.cells.shape[1:3]
    return embedding.sounds(embedding.cell_masks()).reshape(height, width, -1)


def region_sounds(clip: PlayerClip) -> np.ndarray:
    """Python's sounds of the regions and the rest."""
    features = np.stack([region.features for region in clip.regions], axis=1)
    envelopes = np.stack([region.envelopes for region in clip.regions])
    return clip.embedding.sounds(
        normalize_masks(clip.embedding.masks(features, envelopes=envelopes))
    )


def without_motion(embedding: Embedding) -> Embedding:
    return replace(embedding, motion=None)


@pytest.fixture(scope="module")
def moving(default_params: Params) -> PlayerClip:
    """Six seconds, embedded by networks of the default sizes with random weights."""
    values = {"extract.motion_rate": MOTION_RATE, "model.motion": "synchrony"}
    separator = separator_of(with_values(default_params, values))
    recording = MovingRecording()
    embedding = separator.embed(recording, 0, separator.frames(recording))
    # Outputs of untrained networks are small; scale them to those of trained networks.
    motion = MotionEmbedding(
        maps=standard(embedding.motion.maps, (1, 2)),
        cells=standard(embedding.motion.cells, (1, 2, 3)),
        taps=random_taps(np.random.default_rng(5)),
    )
    embedding = replace(
        embedding,
        components=standard(embedding.components, (1, 2)),
        cells=standard(embedding.cells, (0, 1, 2)),
        bias=-1.0,
        motion=motion,
    )
    width = embedding.cells.shape[2]
    regions = []
    for k, name in enumerate(("left", "right")):
        chosen = np.zeros(embedding.cells.shape[1:3], bool)
        chosen[3:, k * width // 2 : (k + 1) * width // 2] = True
        envelopes = region_envelopes(motion, Region(chosen, 0.0))
        features = embedding.cells[:, chosen].mean(axis=1)
        regions.append(PlayerRegion(name, chosen, features, envelopes))
    return clip_of(embedding, tuple(regions), "Moving")


@pytest.fixture(scope="module")
def moving_page(
    context: Any, tmp_path_factory: pytest.TempPathFactory, moving: PlayerClip, video: Path
) -> Iterator[Any]:
    page = open_in(context, tmp_path_factory.mktemp("moving"), moving, video)
    yield page
    check(page)
    page.close()


def standard(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    centred = values - values.mean(axis=axes, keepdims=True)
    return (centred / centred.std(axis=axes, keepdims=True)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "log_frequency", "frame", "hop"),
    [("sigmoid", True, 1022, 256), ("softmax", True, 1022, 512), ("none", False, 510, 200)],
)
def test_page_computes_the_same_as_python(
    context: Any,
    tmp_path: Path,
    video: Path,
    activation: Activation,
    log_frequency: bool,
    frame: int,
    hop: int,
) -> None:
    clip = random_motion(noise(activation, log_frequency, frame, hop, seconds=1.0))
    page = open_in(context, tmp_path, clip, video)
    expected = cell_sounds(clip.embedding)
    for row, column in ((0, 0), (2, 1), (1, 3)):
        sound = samples(page, f"player.soundAt({(column + 0.5) / 4}, {(row + 0.5) / 3})")
        np.testing.assert_allclose(sound, expected[row, column], atol=3e-4)
    for k, sound in enumerate(region_sounds(clip)):
        np.testing.assert_allclose(samples(page, f"player.regionSound({k})"), sound, atol=3e-4)
    check(page)
    page.close()


@pytest.mark.slow
def test_sound_of_clicked_pixels(moving_page: Any, moving: PlayerClip) -> None:
    page = moving_page
    expected = cell_sounds(moving.embedding)
    still = cell_sounds(without_motion(moving.embedding))
    height, width = expected.shape[:2]
    for row, column in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        click(page, (column + 0.7) / width, (row + 0.2) / height)
        wait_until(
            page, f"player.selected().row === {row} && player.selected().column === {column}"
        )
        sound = samples(page, "player.selected().samples")
        assert correlation(sound, expected[row, column]) >= 0.999
        # A page that ignored the motion would not pass.
        assert correlation(still[row, column], expected[row, column]) < 0.95


def test_regions_and_rest_sum_to_the_mixture(moving_page: Any, moving: PlayerClip) -> None:
    expected = region_sounds(moving)
    sounds = [samples(moving_page, f"player.regionSound({k})") for k in range(len(expected))]
    for sound, wanted in zip(sounds, expected, strict=True):
        assert correlation(sound, wanted) >= 0.999
    mixture = samples(moving_page, "player.mixture()")
    np.testing.assert_allclose(sum(sounds), mixture[: len(sounds[0])], atol=1e-4)


def test_page_says_what_it_computes(moving_page: Any) -> None:
    about = moving_page.locator("#about").inner_text()
    assert "16 component maps" in about
    assert "24 maps of the mixture that are weighted by the motion of each place" in about
    assert "at this moment" in moving_page.locator("#legend").inner_text()


@pytest.mark.parametrize("rate", [RATE, 16000])
def test_size_of_a_page_of_noise(tmp_path: Path, video: Path, rate: int) -> None:
    """A clip with as many samples as six seconds at a rate."""
    clip = random_motion(noise(channels=16, seconds=SECONDS * rate / RATE, grid=(10, 14)))
    embedding, random = clip.embedding, np.random.default_rng(0)
    # Unlike outputs of networks, neighbouring values are unrelated.
    components, maps = (
        random.normal(size=values.shape).astype(np.float32)
        for values in (embedding.components, embedding.motion.maps)
    )
    motion = replace(embedding.motion, maps=maps)
    clip = replace(clip, embedding=replace(embedding, components=components, motion=motion))
    assert write_player(tmp_path, clip, video).stat().st_size < PAGE_BYTES


def test_heat_follows_the_motion(context: Any, tmp_path: Path, video: Path) -> None:
    clip = random_motion(noise(seconds=3.0))
    # The left half of the picture plays in the first second, and the right half in the last.
    heat = np.zeros((30, 3, 4), np.float32)
    heat[:10, :, :2] = heat[20:, :, 2:] = 4
    page = open_in(context, tmp_path, replace(clip, heat=heat), video)
    pixel = """async ([x, seconds]) => {
      const [video] = document.getElementsByTagName("video");
      const sought = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
      video.currentTime = seconds;
      await sought;
      const canvas = document.getElementById("overlay");
      return canvas.getContext("2d").getImageData(x, 1, 1, 1).data[3];
    }"""
    shown = [[page.evaluate(pixel, [x, at]) for x in (0, 3)] for at in (0.5, 1.5, 2.5)]
    bright, dark = 200, 50
    assert shown == [[bright, dark], [dark, dark], [dark, bright]]
    # Between two maps, the overlay is between them.
    assert dark < page.evaluate(pixel, [0, 1.0]) < bright
    # Discard the browser's warnings about reading the canvas.
    page.mistakes.clear()
    page.close()


def test_invalid_motion(tmp_path: Path, video: Path) -> None:
    clip = random_motion(noise())
    embedding, region = clip.embedding, clip.regions[0]
    motion = embedding.motion
    broken = [
        (replace(clip, regions=(replace(region, envelopes=None),)), "envelopes of region 0"),
        (replace(clip, embedding=without_motion(embedding)), "envelopes of region 0"),
        (
            replace(clip, regions=(replace(region, envelopes=region.envelopes[:, 1:]),)),
            "envelopes of region 0: shape",
        ),
        (
            replace(
                clip, embedding=replace(embedding, motion=replace(motion, maps=motion.maps[1:]))
            ),
            "maps: shape",
        ),
        (
            replace(
                clip,
                embedding=replace(embedding, motion=replace(motion, cells=motion.cells + np.inf)),
            ),
            "not finite",
        ),
    ]
    for wrong, reason in broken:
        with pytest.raises(ValueError, match=reason):
            write_player(tmp_path / "page", wrong, video)
