from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sop.inference.recording import decoded_recording
from sop.runtime.errors import LeftOut
from tests.support.flashes import PARAMS


def test_motion_is_decoded_with_a_motion_rate(
    tmp_path: Path, clock_video: Callable[..., Path], read_clock: Callable[[np.ndarray], int]
) -> None:
    video = clock_video(tmp_path / "clock.mp4", "16", 4.0)
    params = PARAMS.model_copy(update={"motion_rate": 16.0, "motion_height": 36})
    with decoded_recording(video, params) as recording:
        motion = recording.motion(1.0, 24, 30)
        beyond = recording.motion(3.75, 8, 30)
    assert motion.shape == (24, 30, 40)
    assert motion.dtype == np.uint8
    assert [read_clock(frame) for frame in motion] == list(range(16, 40))
    assert [read_clock(frame) for frame in beyond] == [60, 61, 62, 63, 63, 63, 63, 63]


def test_recording_without_a_motion_rate_has_no_motion(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    video = make_video(tmp_path / "a.mp4")
    with decoded_recording(video, PARAMS) as recording:
        assert recording.frames(1.0, 2, 1, 24).shape == (2, 24, 32, 3)
        with pytest.raises(LeftOut, match=r"no motion track; set extract\.motion_rate") as caught:
            recording.motion(1.0, 4, 24)
        assert "\n" not in str(caught.value)
