from pathlib import Path

import numpy as np
import pytest

from sop.dataset.index import Video
from sop.inference.localization import Localization, Region
from sop.inference.separator import Separator
from sop.localize.boxes import BoxedFrame, Instrument, PlannedFrames
from sop.localize.frames import (
    FrameResult,
    frames_summary,
    localize_around,
    measure_frame,
    measure_frames,
)
from sop.params import Params
from sop.runtime.errors import LeftOut
from tests.support.experiment import with_values
from tests.support.planted import HIGH_HZ, LOW_HZ, ArrayRecording, plant, separator_of, tone

SOLO = Video(Path("audio/cello/a.wav"), Path("a.zip"), 8)
DUET = Video(Path("audio/cello_flute/b.wav"), Path("b.zip"), 8, ("cello", "flute"))

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def found(*patches: tuple[slice, slice], loudness: float = 1.0) -> Localization:
    """Regions with the same energy in each cell of 4 x 4 cells, but more in the first one."""
    energy = np.zeros((4, 4))
    regions = []
    for patch in patches:
        cells = np.zeros((4, 4), bool)
        cells[patch] = True
        energy[patch] = loudness
        energy.flat[np.flatnonzero(cells)[0]] = 1.1 * loudness
        regions.append(Region(cells, 1.0))
    return Localization(energy, np.zeros((4, 4, 3), np.uint8), tuple(regions))


LEFT_HALF, RIGHT_HALF = (slice(0, 4), slice(0, 2)), (slice(0, 4), slice(2, 4))
CELLO, FLUTE = Instrument(1, LEFT), Instrument(12, RIGHT)


def test_solo_is_compared_with_the_energy_of_the_whole_picture() -> None:
    right = measure_frame(found(LEFT_HALF), [CELLO], SOLO)
    assert right.placed == (True,)
    assert right.overlaps == (1,)
    # A map of cells has soft edges: pixels above a tenth of the loudest reach into the next cell.
    assert right.ciou == pytest.approx(4 / 5, abs=0.05)
    wrong = measure_frame(found(RIGHT_HALF), [CELLO], SOLO)
    assert (wrong.placed, wrong.overlaps) == ((False,), (0,))
    assert wrong.ciou < 0.1
    everything = measure_frame(found(LEFT_HALF, RIGHT_HALF), [CELLO], SOLO)
    assert everything.ciou == pytest.approx(0.5)


def test_duet_is_compared_by_category() -> None:
    both = measure_frame(found(RIGHT_HALF, LEFT_HALF), [CELLO, FLUTE], DUET)
    assert both.placed == (True, True)
    assert both.overlaps == (1, 1)
    assert both.ciou == pytest.approx(0.83, abs=0.05)
    # The same regions, as one: the whole map fits neither instrument.
    one = measure_frame(found((slice(0, 4), slice(0, 4))), [CELLO, FLUTE], DUET)
    assert one.placed in ((True, False), (False, True))
    assert one.ciou == pytest.approx(0.25)
    nothing = measure_frame(found(), [CELLO, FLUTE], DUET)
    assert (nothing.placed, nothing.overlaps, nothing.ciou) == ((False, False), (0, 0), 0)


def test_boxes_of_one_category_are_one_map() -> None:
    upper, lower = Instrument(1, (0, 0, 0.5, 0.5)), Instrument(1, (0, 0.5, 0.5, 1))
    result = measure_frame(found(LEFT_HALF), [upper, lower], DUET)
    assert sorted(result.placed) == [False, True]
    assert sorted(result.overlaps) == [0, 0.5]
    assert result.ciou == measure_frame(found(LEFT_HALF), [CELLO], DUET).ciou


def test_measure_does_not_depend_on_the_level() -> None:
    quiet = measure_frame(found(LEFT_HALF, loudness=1e-9), [CELLO], SOLO)
    assert quiet == measure_frame(found(LEFT_HALF), [CELLO], SOLO)


def test_summary_has_the_curve_of_the_authors() -> None:
    def result(video: str, ciou: float, is_duet: bool = False) -> FrameResult:
        return FrameResult(video, is_duet, (True,), (ciou,), ciou)

    results = [result("a", 0.31), result("a", 0.51), result("b", 0.0), result("c", 1.0, True)]
    summary = frames_summary(results, {"no box": 2})
    solo, duet = summary["solo"], summary["duet"]
    assert (solo["videos"], solo["frames"], solo["pointing"]) == (2, 3, 1)
    assert solo["ciou"]["above_0.3"] == pytest.approx(2 / 3)
    assert solo["ciou"]["above_0.5"] == pytest.approx(1 / 3)
    # All are above 0; two until 0.3, and one until 0.5, as trapezia of width 0.05.
    area = 0.05 * ((1 + 2 / 3) / 2 + 5 * 2 / 3 + 1 / 2 + 3 / 3 + 1 / 6)
    assert solo["ciou"]["auc"] == pytest.approx(area)
    assert duet["ciou"] == {"mean": 1, "above_0.3": 1, "above_0.5": 1, "auc": pytest.approx(1)}
    assert summary["left_out"] == {"no box": 2}
    assert frames_summary([], {}) == {"left_out": {}}


@pytest.fixture
def planted(tiny_params: Params) -> Separator:
    changes = {"spectrogram.log_frequency": False, "mixture.image_size": 32}
    return plant(separator_of(with_values(tiny_params, changes)))


def test_only_the_clip_around_the_frame_counts(planted: Separator) -> None:
    """Low sound for five seconds, then high sound: each is found where it is."""
    recording = ArrayRecording(np.r_[tone(LOW_HZ, 5.0), tone(HIGH_HZ, 5.0)])
    for seconds, column in ((0.0, 0), (2.0, 0), (8.0, 5), (10.0, 5)):
        (region,) = localize_around(planted, recording, seconds).regions
        assert round(region.box[0] * 8) == column
    assert len(localize_around(planted, recording, 5.0).regions) == 2
    with pytest.raises(LeftOut, match="video ends before the frame"):
        localize_around(planted, recording, 10.1)


def test_frames_of_videos_on_disk(
    planted: Separator, tiny_videos: list[Video], tiny_params: Params
) -> None:
    video = tiny_videos[0]
    boxed = [BoxedFrame(video.audio.stem, seconds, (CELLO,)) for seconds in (1.0, 2.0, 99.0)]
    planned = PlannedFrames([(video, one) for one in boxed], {"no box": 3})
    measured = measure_frames(planted, planned, tiny_params.extract)
    assert (measured["solo"]["videos"], measured["solo"]["frames"]) == (1, 2)
    assert measured["left_out"] == {"no box": 3, "video ends before the frame": 1}
