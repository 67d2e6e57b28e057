from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sop.inference.separator import Separator
from sop.localize.measures import localization_summary, measure_localization
from sop.localize.scenes import LocalizationScene
from sop.params import Params
from sop.runtime.errors import LeftOut
from tests.support.experiment import with_values
from tests.support.planted import HIGH_HZ, LOW_HZ, ArrayRecording, plant, separator_of, tone

LEFT, RIGHT = (0.0, 0.2, 0.4, 1.0), (0.6, 0.0, 1.0, 0.8)
LOW, HIGH = tone(LOW_HZ, 3.0, level=0.2), tone(HIGH_HZ, 3.0, level=0.1)


@pytest.fixture
def planted(tiny_params: Params) -> Separator:
    changes = {"spectrogram.log_frequency": False, "mixture.image_size": 32}
    return plant(separator_of(with_values(tiny_params, changes)))


def duet(low: np.ndarray = LOW, high: np.ndarray = HIGH) -> LocalizationScene:
    stems = np.stack([low, high]).astype(np.float32)
    return LocalizationScene(
        "a_b/a_b_000", "duet", ArrayRecording(low + high), (LEFT, RIGHT), stems
    )


def test_players_are_found_by_place_and_sound(planted: Separator) -> None:
    found = measure_localization(planted, duet())
    assert found.regions == 2
    assert found.placed == found.pointed == (True, True)
    assert min(found.overlaps) > 0.5
    assert found.scores["sdr"].min() > 20
    assert found.scores["sdr_improvement"].min() > 10


def test_swapped_players_are_placed_but_not_pointed(planted: Separator) -> None:
    found = measure_localization(planted, replace(duet(), boxes=(RIGHT, LEFT)))
    assert found.placed == (True, True)
    assert found.pointed == (False, False)
    assert found.overlaps == (0, 0)


def test_missed_player_is_measured_with_the_mixture(tiny_params: Params) -> None:
    changes = {"spectrogram.log_frequency": False, "mixture.image_size": 32}
    blind = plant(separator_of(with_values(tiny_params, changes)), high=None)
    found = measure_localization(blind, duet())
    assert found.regions == 1
    assert found.pointed == found.placed == (True, False)
    assert found.overlaps[1] == 0
    assert found.scores["sdr_improvement"][1] == pytest.approx(0, abs=1e-6)


def test_duet_with_a_silent_stem_is_left_out(planted: Separator) -> None:
    with pytest.raises(LeftOut, match="a_b/a_b_000: player 2 is silent"):
        measure_localization(planted, duet(high=0 * HIGH))


def test_silent_sounds_of_regions_are_counted(planted: Separator) -> None:
    found = measure_localization(planted, duet())
    assert found.silent == 0
    scores = {**found.scores, "sar": np.array([20.0, np.nan])}
    summary = localization_summary([replace(found, scores=scores, silent=1)], {})
    assert summary["duets"]["silent_estimates"] == 1
    assert summary["duets"]["sar"] == 20


def test_summary_counts_what_is_right(planted: Separator) -> None:
    right, swapped = duet(), replace(duet(), boxes=(RIGHT, LEFT))
    silence = LocalizationScene(
        "a/a_000", "silent", ArrayRecording(np.zeros(3 * 11025)), (), right.stems[:0]
    )
    found = [measure_localization(planted, scene) for scene in (right, swapped, silence)]
    summary = localization_summary(found, {"b/b_000": "damaged"})
    assert summary["scenes"] == {"silent": 1, "solo": 0, "distractor": 0, "duet": 2}
    assert summary["pointing"] == {"solo": None, "distractor": None, "duet": 1}
    assert summary["pointing_by_sound"]["duet"] == 0.5
    assert summary["overlap"]["above_0.5"] == 0.5
    assert summary["regions_right"] == {
        "silent": 1,
        "solo": None,
        "distractor": None,
        "duet": 1,
        "mean": 1,
    }
    assert summary["duets"]["sdr_improvement"] > 10
    assert summary["left_out"] == {"b/b_000": "damaged"}


def test_summary_without_scenes() -> None:
    summary = localization_summary([], {})
    assert summary["regions_right"]["mean"] is None
    assert summary["overlap"] == {"mean": None, "above_0.3": None, "above_0.5": None}
    assert summary["duets"]["sdr"] is None


def unheard(player: int, **changes: Any) -> LocalizationScene:
    """A duet of one instrument of which only this player is heard."""
    boxes = (LEFT, RIGHT)
    sound = (LOW, HIGH)[player]
    scene = LocalizationScene(
        *("a_a/a_a_000", "unheard_same", ArrayRecording(sound), (boxes[player],)),
        sound[None].astype(np.float32),
        mute_boxes=(boxes[1 - player],),
    )
    return replace(scene, **changes)


@pytest.mark.parametrize("player", [0, 1])
def test_loudest_place_is_on_the_player_that_is_heard(planted: Separator, player: int) -> None:
    scene = unheard(player)
    assert measure_localization(planted, scene).heard_found is True
    swapped = replace(scene, boxes=scene.mute_boxes, mute_boxes=scene.boxes)
    assert measure_localization(planted, swapped).heard_found is False
    both = replace(scene, mute_boxes=scene.boxes)
    assert measure_localization(planted, both).heard_found is False
    alone = replace(scene, mute_boxes=())
    assert measure_localization(planted, alone).heard_found is None


def test_summary_of_other_kinds_of_scenes(planted: Separator) -> None:
    low, high = unheard(0), unheard(1)
    wrong = unheard(0, boxes=high.boxes, mute_boxes=low.boxes)
    same = replace(duet(), kind="same_duet")
    late = replace(wrong, shifted=True)
    found = [measure_localization(planted, one) for one in (low, high, high, wrong, same, late)]
    summary = localization_summary(found, {})
    basic = {"silent": 0, "solo": 0, "distractor": 0, "duet": 0}
    assert summary["scenes"] == basic | {"same_duet": 1, "unheard_same": 4}
    assert summary["regions_right"]["unheard_same"] == 1
    assert summary["pointing"]["unheard_same"] == 0.75
    assert summary["success"] == {"same_duet": 1, "unheard_same": 0.75}
    assert summary["who_is_heard"] == {"unheard_same": 0.75}
    assert summary["duets"]["sdr"] is None
    assert summary["same_duets"]["sdr_improvement"] > 10
    assert "talker_pairs" not in summary
    assert summary["shifted"] == {
        "pointing": {"unheard_same": 0},
        "pointing_by_sound": {"unheard_same": 0},
        "regions_right": {"unheard_same": 1},
        "success": {"unheard_same": 0},
        "who_is_heard": {"unheard_same": 0},
    }


def test_summary_of_today_has_no_other_keys(planted: Separator) -> None:
    summary = localization_summary([measure_localization(planted, duet())], {})
    assert summary.keys() == {
        *("scenes", "pointing", "pointing_by_sound", "overlap", "regions_right"),
        *("distractor_success", "duets", "left_out"),
    }
