import json
from pathlib import Path
from typing import Any

import pytest

from sop.dataset.index import Video
from sop.localize.boxes import BoxedFrame, Instrument, plan_frames, read_boxes
from sop.params import Params
from sop.runtime.errors import UserError
from sop.validate.checks import check_boxes
from tests.support.experiment import with_values

CELLO = {"box": [224, 0, 239, 358], "normbox": [0.35, 0.25, 0.5, 0.5], "category_id": 1}


def written(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "solotest.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def frames(*numbers: tuple[int, int], video: str = "-_-TDDxoaAc") -> dict[str, Any]:
    """Frames of one video, by second and number."""
    return {
        f"{video}_0_1000/frame_{second:03d}/{number:05d}.jpg": {
            "bbox": [CELLO],
            "wdith": 640,
            "height": 360,
        }
        for second, number in numbers
    }


def test_box_becomes_edges_within_the_picture(tmp_path: Path) -> None:
    values = frames((13, 411))
    (value,) = values.values()
    beyond = {"normbox": [-0.1, 0.5, 0.3, 0.7], "category_id": 3}
    empty = {"normbox": [0.2, 0.5, 0.0, 0.7], "category_id": 3}
    value["bbox"] += [beyond, empty]
    (frame,) = read_boxes([written(tmp_path, values)])
    assert frame.video == "-_-TDDxoaAc"
    first, second = frame.instruments
    assert first == Instrument(1, (0.35, 0.25, 0.85, 0.75))
    assert second.category == 3
    assert second.box == (0, 0.5, pytest.approx(0.2), 1)


@pytest.mark.parametrize("rate", [25, 30000 / 1001, 30])
def test_times_follow_from_the_numbers_of_frames(rate: float, tmp_path: Path) -> None:
    numbers = [30, 411, 1284, 3480, 5067, 9817]
    values = frames(*((int(number / rate), number) for number in numbers))
    read = read_boxes([written(tmp_path, values)])
    for frame, number in zip(read, numbers, strict=True):
        assert frame.seconds == pytest.approx(number / rate, abs=0.5)
        assert int(frame.seconds) == int(number / rate)


def test_numbers_that_fit_no_rate_leave_the_middle_of_the_second(tmp_path: Path) -> None:
    values = frames((3, 30), (4, 400)) | frames((0, 0), video="b")
    assert [one.seconds for one in read_boxes([written(tmp_path, values)])] == [3.5, 4.5, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "expected an object with a key for each frame"),
        ({"a/b.jpg": {"bbox": []}}, "'a/b.jpg' is not the name of a frame"),
        ({"a_30_1000/frame_1/1.jpg": {"bbox": []}}, "is not the name of a frame"),
        ({"a_0_9/frame_1/1.jpg": {}}, "expected bbox, a list of objects"),
        ({"a_0_9/frame_1/1.jpg": []}, "expected bbox, a list of objects"),
        ({"a_0_9/frame_1/1.jpg": {"bbox": {}}}, "expected bbox, a list of objects"),
        ({"a_0_9/frame_1/1.jpg": {"bbox": [{"normbox": [0, 0, 1]}]}}, "expected bbox"),
        ({"a_0_9/frame_1/1.jpg": {"bbox": [CELLO | {"normbox": [0, 0, 1e400, 1]}]}}, "expected"),
        ({"a_0_9/frame_1/1.jpg": {"bbox": [CELLO | {"category_id": None}]}}, "expected bbox"),
        ({"a_0_9/frame_1/1.jpg": {"bbox": [CELLO | {"category_id": 1e400}]}}, "expected bbox"),
    ],
)
def test_files_of_another_format(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"solotest\.json") as caught:
        read_boxes([written(tmp_path, values)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_reported_before_any_work(tiny_params: Params, tmp_path: Path) -> None:
    missing = with_values(tiny_params, {"localize.boxes": [str(tmp_path / "none.json")]})
    with pytest.raises(UserError, match=r"none\.json"):
        check_boxes(missing)
    check_boxes(tiny_params)


def test_boxes_need_whole_videos(tiny_params: Params) -> None:
    with pytest.raises(UserError, match=r"localize\.boxes does not fit dataset\.fetch"):
        with_values(
            tiny_params,
            {
                "dataset.source": "music",
                "dataset.fetch.clip_seconds": [0.0, 10.0],
                "localize.boxes": ["solotest.json"],
            },
        )


def test_only_frames_of_videos_that_were_not_trained_on_are_chosen() -> None:
    def frame(video: str, seconds: float, instruments: int = 1) -> BoxedFrame:
        return BoxedFrame(video, seconds, (Instrument(1, (0, 0, 1, 1)),) * instruments)

    new, old = (Video(Path(f"audio/cello/{name}.wav"), Path("x.zip"), 8) for name in ("new", "old"))
    boxed = [frame("new", 3.0), frame("new", 1.0), frame("old", 1.0), frame("other", 1.0)]
    planned = plan_frames([*boxed, frame("new", 2.0, 0)], [new], [old])
    assert [(video.name, one.seconds) for video, one in planned.frames] == [
        ("cello/new", 1.0),
        ("cello/new", 3.0),
    ]
    assert planned.left_out == {
        "no box": 1,
        "video not in the data set": 1,
        "video used for training": 1,
    }
