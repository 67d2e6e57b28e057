from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sop.inference.embedding import Embedding
from sop.inference.localization import Competition, Localization, Localizer, pool_region, regions_at
from sop.model.spectrogram import stft_power
from sop.params import SpectrogramParams
from sop.runtime.errors import UserError
from tests.support.planted import CLOSED, COLUMNS, HIGH_HZ, LOW_HZ, OPEN, RATE, ROWS, tone

SPECTROGRAM = SpectrogramParams(stft_frame=1022, stft_hop=512, log_frequency=False)
TWO_TONES = tone(LOW_HZ, 3.0) + tone(HIGH_HZ, 3.0)

Patch = tuple[slice, slice]
LEFT: Patch = (slice(0, 3), slice(0, 2))
RIGHT: Patch = (slice(0, 2), slice(5, 8))


def embedding_of(audio: np.ndarray, low: list[Patch], high: list[Patch]) -> Embedding:
    """One window whose cells let low sound, high sound or nothing through."""
    audio = audio[: len(audio) // 512 * 512].astype(np.float32)
    frames = 1 + len(audio) // 512
    is_low = np.arange(512) * RATE / 1022 < 1200
    components = np.zeros((2, 512, frames), np.float32)
    components[0, is_low], components[1, ~is_low] = OPEN - CLOSED, OPEN - CLOSED
    cells = np.zeros((1, ROWS, COLUMNS, 2), np.float32)
    for channel, patches in enumerate((low, high)):
        for patch in patches:
            cells[(0, *patch, channel)] = 1
    return Embedding(
        audio=audio,
        sample_rate=RATE,
        spectrogram=SPECTROGRAM,
        components=components,
        cells=cells,
        scale=np.ones(2, np.float32),
        crossfade=np.ones((1, frames), np.float32),
        bias=CLOSED,
        activation="sigmoid",
    )


def tall_embedding_of(
    audio: np.ndarray, low: Sequence[Patch], high: Sequence[Patch] = ()
) -> Embedding:
    """The same in a picture of ten rows, whose cells can be close to each other."""
    embedding = embedding_of(audio, [], [])
    cells = np.zeros((1, 10, COLUMNS, 2), np.float32)
    for channel, patches in enumerate((low, high)):
        for patch in patches:
            cells[(0, *patch, channel)] = 1
    return replace(embedding, cells=cells)


def localized(embedding: Embedding, regions: int | None = None) -> Localization:
    localizer = Localizer()
    localizer.update(embedding)
    return localizer.localize(regions)


def cells_of(*patches: Patch) -> np.ndarray:
    cells = np.zeros((ROWS, COLUMNS), bool)
    for patch in patches:
        cells[patch] = True
    return cells


def test_two_regions() -> None:
    where = localized(embedding_of(TWO_TONES + tone(LOW_HZ, 3.0), [LEFT], [RIGHT]))
    assert len(where.regions) == 2
    np.testing.assert_array_equal(where.regions[0].cells, cells_of(LEFT))
    np.testing.assert_array_equal(where.regions[1].cells, cells_of(RIGHT))
    assert where.regions[0].energy == pytest.approx(0.8, abs=0.02)
    assert where.regions[1].energy == pytest.approx(0.2, abs=0.02)
    assert where.energy.shape == (ROWS, COLUMNS)
    silent = ~cells_of(LEFT, RIGHT)
    assert where.energy[silent].max() < 1e-3


def test_box() -> None:
    left, right = localized(embedding_of(TWO_TONES + tone(LOW_HZ, 3.0), [LEFT], [RIGHT])).regions
    assert left.box == (0, 0, 2 / COLUMNS, 1)
    assert right.box == (5 / COLUMNS, 0, 1, 2 / ROWS)


def test_same_sound_at_close_and_at_distant_places() -> None:
    near = (slice(0, 1), slice(0, 1)), (slice(2, 3), slice(0, 1))
    far = (slice(0, 1), slice(0, 1)), (slice(0, 1), slice(4, 5))
    sound = tone(LOW_HZ, 3.0)
    assert [r.cells.sum() for r in localized(tall_embedding_of(sound, near)).regions] == [2]
    assert [r.cells.sum() for r in localized(tall_embedding_of(sound, far)).regions] == [1, 1]


def test_two_sounds_at_close_places() -> None:
    above, below = (slice(0, 1), slice(0, 1)), (slice(2, 3), slice(0, 1))
    where = localized(tall_embedding_of(TWO_TONES, (above,), (below,)))
    assert len(where.regions) == 2


def test_one_region() -> None:
    where = localized(embedding_of(TWO_TONES, [], [RIGHT]))
    assert len(where.regions) == 1
    np.testing.assert_array_equal(where.regions[0].cells, cells_of(RIGHT))


def test_place_without_its_sound_is_no_region() -> None:
    where = localized(embedding_of(tone(LOW_HZ, 3.0), [LEFT], [RIGHT]))
    assert [region.cells.tolist() for region in where.regions] == [cells_of(LEFT).tolist()]


@pytest.mark.parametrize("audio", [np.zeros(3 * RATE), tone(LOW_HZ, 3.0, level=5e-4)])
def test_silence_has_no_regions(audio: np.ndarray) -> None:
    where = localized(embedding_of(audio, [LEFT], [RIGHT]))
    assert where.regions == ()
    assert where.energy.shape == (ROWS, COLUMNS)
    assert where.colours.shape == (ROWS, COLUMNS, 3)
    with pytest.raises(UserError, match="--regions 2"):
        localized(embedding_of(audio, [LEFT], [RIGHT]), 2)


def test_no_segment() -> None:
    assert Localizer().localize().regions == ()


@pytest.mark.parametrize("regions", [1, 2])
def test_requested_number_of_regions(regions: int) -> None:
    where = localized(embedding_of(TWO_TONES, [LEFT], [RIGHT]), regions)
    assert len(where.regions) == regions


def test_similar_sounds_have_similar_colours() -> None:
    colours = localized(embedding_of(TWO_TONES, [LEFT], [RIGHT])).colours.astype(int)
    assert colours.shape == (ROWS, COLUMNS, 3)
    left, right, silent = (
        colours[cells] for cells in (cells_of(LEFT), cells_of(RIGHT), ~cells_of(LEFT, RIGHT))
    )
    for alike in (left, right, silent):
        assert np.ptp(alike[:, 0]) <= 2
    assert abs(left[0, 0] - right[0, 0]) > 100


@pytest.mark.parametrize("step", [9, 33])
def test_segments_do_not_change_the_result(step: int) -> None:
    whole = embedding_of(np.random.default_rng(0).uniform(-0.5, 0.5, 6 * RATE), [LEFT], [RIGHT])
    localizer = Localizer()
    frames = whole.components.shape[2]
    for first in range(0, frames, step):
        last = min(first + step, frames)
        parts: dict[str, Any] = vars(whole) | {
            "audio": whole.audio[first * 512 : (last - 1) * 512],
            "components": whole.components[:, :, first:last],
            "crossfade": whole.crossfade[:, first:last],
        }
        localizer.update(Embedding(**parts), power_of(whole)[:, first:last])
    cut, uncut = localizer.localize(), localized(whole)
    np.testing.assert_allclose(cut.energy, uncut.energy, rtol=1e-4)
    assert len(cut.regions) == len(uncut.regions) == 2
    for one, other in zip(cut.regions, uncut.regions, strict=True):
        np.testing.assert_array_equal(one.cells, other.cells)


def power_of(embedding: Embedding) -> np.ndarray:
    return stft_power(embedding.audio, embedding.spectrogram)


def test_pool_region() -> None:
    cells = np.arange(2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2)
    where = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_array_equal(pool_region(cells, where, "maxpool"), cells[:, 0, 2])
    np.testing.assert_array_equal(pool_region(cells, where, "avgpool"), cells[:, 0, 1])


def test_regions_at() -> None:
    regions = regions_at([(0, 0), (0.49, 0.5), (1, 1)], (2, 4))
    assert [np.argwhere(region.cells).tolist() for region in regions] == [
        [[0, 0]],
        [[1, 1]],
        [[1, 3]],
    ]


def compete(*masks: np.ndarray, power: np.ndarray) -> list[int]:
    """Return the indices of the regions that remain of those with these masks, in two segments."""
    regions = regions_at([(0.05 + 0.1 * n, 0.5) for n in range(len(masks))], (1, 10))
    competition = Competition(regions)
    for segment in (slice(0, 3), slice(3, None)):
        together = np.stack(masks).astype(np.float32)[..., segment]
        competition.update(together, power[:, segment].astype(np.float32))
    winners = {id(region) for region in competition.winners()}
    return [n for n, region in enumerate(regions) if id(region) in winners]


def test_soft_region_with_bins_of_its_own_remains() -> None:
    power = np.ones((8, 7))
    power[:4] = 0.05
    low, high = np.full((8, 7), 0.1), np.full((8, 7), 0.1)
    low[:4], high[4:] = 0.9, 0.9
    assert compete(low, high, power=power) == [0, 1]


def test_region_whose_bins_another_claims_more_is_left_out() -> None:
    power = np.random.default_rng(0).random((8, 7))
    heard, unheard = np.full((8, 7), 0.9), np.full((8, 7), 0.5)
    assert compete(unheard, heard, power=power) == [1]
    assert compete(np.zeros((8, 7)), heard, power=power) == [1]


def test_equal_regions_remain() -> None:
    same = np.full((8, 7), 0.6)
    assert compete(same, same, power=np.ones((8, 7))) == [0, 1]
