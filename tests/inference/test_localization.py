from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sop.inference.embedding import Embedding
from sop.inference.localization import Listener, Localization, pool, regions_of
from sop.model.spectrogram import stft_power
from sop.params import SpectrogramParams
from sop.runtime.errors import UserError
from tests.support.planted import COLUMNS, HIGH_HZ, LOW_HZ, NO, RATE, ROWS, YES, tone

SPECTROGRAM = SpectrogramParams(stft_frame=1022, stft_hop=512, log_frequency=False)
TWO_TONES = tone(LOW_HZ, 3.0) + tone(HIGH_HZ, 3.0)

Patch = tuple[slice, slice]
LEFT: Patch = (slice(0, 3), slice(0, 2))
RIGHT: Patch = (slice(0, 2), slice(5, 8))


def scene(audio: np.ndarray, low: list[Patch], high: list[Patch]) -> Embedding:
    """Cells of which some let low sound through, some high, and the others none; one window."""
    audio = audio[: len(audio) // 512 * 512].astype(np.float32)
    frames = 1 + len(audio) // 512
    is_low = np.arange(512) * RATE / 1022 < 1200
    components = np.zeros((2, 512, frames), np.float32)
    components[0, is_low], components[1, ~is_low] = YES - NO, YES - NO
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
        fades=np.ones((1, frames), np.float32),
        bias=NO,
        activation="sigmoid",
    )


def tall(audio: np.ndarray, low: Sequence[Patch], high: Sequence[Patch] = ()) -> Embedding:
    """The same in a picture of ten rows, where things can be near."""
    embedding = scene(audio, [], [])
    cells = np.zeros((1, 10, COLUMNS, 2), np.float32)
    for channel, patches in enumerate((low, high)):
        for patch in patches:
            cells[(0, *patch, channel)] = 1
    return replace(embedding, cells=cells)


def found(embedding: Embedding, regions: int | None = None) -> Localization:
    listener = Listener()
    listener.hear(embedding)
    return listener.localize(regions)


def cells_of(*patches: Patch) -> np.ndarray:
    cells = np.zeros((ROWS, COLUMNS), bool)
    for patch in patches:
        cells[patch] = True
    return cells


def test_two_sounds_of_two_places_are_two_regions() -> None:
    where = found(scene(TWO_TONES + tone(LOW_HZ, 3.0), [LEFT], [RIGHT]))
    assert len(where.regions) == 2
    np.testing.assert_array_equal(where.regions[0].cells, cells_of(LEFT))
    np.testing.assert_array_equal(where.regions[1].cells, cells_of(RIGHT))
    assert where.regions[0].energy == pytest.approx(0.8, abs=0.02)
    assert where.regions[1].energy == pytest.approx(0.2, abs=0.02)
    assert where.energy.shape == (ROWS, COLUMNS)
    silent = ~cells_of(LEFT, RIGHT)
    assert where.energy[silent].max() < 1e-3


def test_box_is_in_shares_of_the_picture() -> None:
    left, right = found(scene(TWO_TONES + tone(LOW_HZ, 3.0), [LEFT], [RIGHT])).regions
    assert left.box == (0, 0, 2 / COLUMNS, 1)
    assert right.box == (5 / COLUMNS, 0, 1, 2 / ROWS)


def test_the_same_sound_at_two_near_places_is_one_region_and_at_far_ones_two() -> None:
    near = (slice(0, 1), slice(0, 1)), (slice(2, 3), slice(0, 1))
    far = (slice(0, 1), slice(0, 1)), (slice(0, 1), slice(4, 5))
    sound = tone(LOW_HZ, 3.0)
    assert [r.cells.sum() for r in found(tall(sound, near)).regions] == [2]
    assert [r.cells.sum() for r in found(tall(sound, far)).regions] == [1, 1]


def test_two_sounds_at_near_places_are_two_regions() -> None:
    above, below = (slice(0, 1), slice(0, 1)), (slice(2, 3), slice(0, 1))
    where = found(tall(TWO_TONES, (above,), (below,)))
    assert len(where.regions) == 2


def test_one_place_is_one_region() -> None:
    where = found(scene(TWO_TONES, [], [RIGHT]))
    assert len(where.regions) == 1
    np.testing.assert_array_equal(where.regions[0].cells, cells_of(RIGHT))


def test_a_place_whose_sound_does_not_occur_is_none() -> None:
    where = found(scene(tone(LOW_HZ, 3.0), [LEFT], [RIGHT]))
    assert [region.cells.tolist() for region in where.regions] == [cells_of(LEFT).tolist()]


@pytest.mark.parametrize("audio", [np.zeros(3 * RATE), tone(LOW_HZ, 3.0, level=5e-4)])
def test_silence_has_no_regions(audio: np.ndarray) -> None:
    where = found(scene(audio, [LEFT], [RIGHT]))
    assert where.regions == ()
    assert where.energy.shape == (ROWS, COLUMNS)
    assert where.colours.shape == (ROWS, COLUMNS, 3)
    with pytest.raises(UserError, match="--regions 2"):
        found(scene(audio, [LEFT], [RIGHT]), 2)


def test_nothing_heard_is_silence() -> None:
    assert Listener().localize().regions == ()


@pytest.mark.parametrize("regions", [1, 2])
def test_number_of_regions_can_be_forced(regions: int) -> None:
    where = found(scene(TWO_TONES, [LEFT], [RIGHT]), regions)
    assert len(where.regions) == regions


def test_alike_sounds_have_alike_colours() -> None:
    colours = found(scene(TWO_TONES, [LEFT], [RIGHT])).colours.astype(int)
    assert colours.shape == (ROWS, COLUMNS, 3)
    left, right, silent = (
        colours[cells] for cells in (cells_of(LEFT), cells_of(RIGHT), ~cells_of(LEFT, RIGHT))
    )
    for alike in (left, right, silent):
        assert np.ptp(alike[:, 0]) <= 2
    assert abs(left[0, 0] - right[0, 0]) > 100


@pytest.mark.parametrize("step", [9, 33])
def test_listening_does_not_depend_on_how_stretches_are_cut(step: int) -> None:
    whole = scene(np.random.default_rng(0).uniform(-0.5, 0.5, 6 * RATE), [LEFT], [RIGHT])
    listener = Listener()
    frames = whole.components.shape[2]
    for first in range(0, frames, step):
        last = min(first + step, frames)
        parts: dict[str, Any] = vars(whole) | {
            "audio": whole.audio[first * 512 : (last - 1) * 512],
            "components": whole.components[:, :, first:last],
            "fades": whole.fades[:, first:last],
        }
        listener.hear(Embedding(**parts), power_of(whole)[:, first:last])
    cut, uncut = listener.localize(), found(whole)
    np.testing.assert_allclose(cut.energy, uncut.energy, rtol=1e-4)
    assert len(cut.regions) == len(uncut.regions) == 2
    for one, other in zip(cut.regions, uncut.regions, strict=True):
        np.testing.assert_array_equal(one.cells, other.cells)


def power_of(embedding: Embedding) -> np.ndarray:
    return stft_power(embedding.audio, embedding.spectrogram)


def test_pooling_takes_the_largest_or_the_mean() -> None:
    cells = np.arange(2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2)
    where = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_array_equal(pool(cells, where, "maxpool"), cells[:, 0, 2])
    np.testing.assert_array_equal(pool(cells, where, "avgpool"), cells[:, 0, 1])


def test_places_are_cells() -> None:
    regions = regions_of([(0, 0), (0.49, 0.5), (1, 1)], (2, 4))
    assert [np.argwhere(region.cells).tolist() for region in regions] == [
        [[0, 0]],
        [[1, 1]],
        [[1, 3]],
    ]
