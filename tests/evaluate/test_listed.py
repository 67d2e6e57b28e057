"""Mixtures that a file lists, and checks of the lists that results are measured on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sop.dataset.index import SPLIT, Index, ListedSplit, Video, write_index
from sop.dataset.mixtures import MixtureReader
from sop.dataset.protocol import Sources
from sop.evaluate.listed import (
    check_protocol,
    clips_of,
    evaluated_videos,
    listed_mixtures,
    read_mixtures,
)
from sop.evaluate.motion import measure_motion, plain_kind
from sop.evaluate.records import evaluation_rule, read_record, record_paths
from sop.evaluate.results import write_results
from sop.evaluate.validation import Score, SkippedMixture, separate_mixtures
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from sop.runtime.errors import UserError
from sop.runtime.files import write_json
from tests.support.experiment import with_values

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def player(tiny_params: Params) -> PixelPlayer:
    player = build(tiny_params.model, tiny_params.spectrogram, seed=0).eval()
    torch.nn.init.constant_(player.synthesizer.bias, 0.5)
    return player


@pytest.fixture
def index(tmp_path: Path, tiny_videos: list[Video]) -> Path:
    """An index with the first four videos for test, of which the first is in training, too."""
    folder = tmp_path / "index"
    listed = {"test": [(video.name, [video.name]) for video in tiny_videos[:4]]}
    listed["test"].insert(2, ("flute/gone", []))
    split = ListedSplit(listed, {"train_test": [tiny_videos[0].name]}, {"train_test": 1}, 0)
    sides = (tiny_videos[6:], tiny_videos[4:6], ())
    train, validation, duets = (tuple(side) for side in sides)
    write_index(
        Index(
            (tiny_videos[0], *train),
            validation,
            duets,
            {},
            test=tuple(tiny_videos[:4]),
            split=split,
        ),
        folder,
    )
    return folder


def rows_of(index: Path, text: str, sources: int = 2) -> list[Sources]:
    path = index.parent / "pairs.csv"
    path.write_text(text)
    return read_mixtures(path, index, sources)


def mixtures_of(index: Path, text: str, params: Params) -> list[list[Video] | str]:
    videos = list(evaluated_videos(index, index.parent / "motion").values())
    return listed_mixtures(rows_of(index, text), videos, params)


def test_mixtures_are_those_of_the_file(
    index: Path, tiny_videos: list[Video], tiny_params: Params
) -> None:
    first, second, third, fourth = (video.name for video in tiny_videos[:4])
    text = f"{first}.wav, {second}.wav\n{fourth}, {third}\n{first}, nobody\n{second}, {second}\n"
    made = mixtures_of(index, text, tiny_params)
    assert [[v.name for v in one] for one in made[:2]] == [[first, second], [fourth, third]]
    assert made[2:] == [
        "nobody is not among the extracted videos",
        f"{second} is mixed with itself",
    ]
    with pytest.raises(
        UserError, match=r"evaluate.pairs: none of the listed mixtures \(1\) can.*nobody"
    ):
        mixtures_of(index, "nobody,noone", tiny_params)


def test_indices_count_the_rows_of_the_list(
    index: Path, tiny_videos: list[Video], tiny_params: Params
) -> None:
    """Also rows whose video is not there."""
    made = mixtures_of(index, "0 1\n3 4\n2 0\n", tiny_params)
    names = [video.name for video in tiny_videos]
    assert [[v.name for v in one] for one in made[:2]] == [names[:2], names[2:4]]
    assert made[2] == "flute/gone is not among the extracted videos"


def test_number_of_sources(index: Path, tiny_videos: list[Video]) -> None:
    names = ",".join(video.name for video in tiny_videos[:4])
    assert len(rows_of(index, names, 4)[0]) == 4
    assert len(rows_of(index, names, 2)[0]) == 2
    with pytest.raises(UserError, match=r"mixture 1 has 4 videos, mixture.sources is 5"):
        rows_of(index, names, 5)


def test_times_move_the_clip(index: Path, tiny_videos: list[Video], tiny_params: Params) -> None:
    """Videos of 3 s at 8 frames per second, clips of 1.49 s."""
    first, second = (video.name for video in tiny_videos[:2])
    [clips, beginning, late] = mixtures_of(
        index,
        f"{first},0.5,1.5,{second},2,3\n{first},0,{second}\n{first},3.5,5,{second},0,1",
        tiny_params,
    )
    assert not isinstance(clips, str)
    assert [video.centre for video in clips] == [9, 21]
    assert not isinstance(beginning, str)
    assert [video.centre for video in beginning] == [6, None]
    assert late == f"{first}: its clip begins at 3.5 s, the video has 3.0 s"
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    there = reader.middle(clips)
    plain = reader.middle([tiny_videos[0], tiny_videos[1]])
    assert not np.array_equal(there.audio, plain.audio)
    assert not np.array_equal(there.frames, plain.frames)


def test_listed_mixtures_are_measured_and_recorded(
    index: Path,
    tiny_videos: list[Video],
    tiny_params: Params,
    player: PixelPlayer,
    tmp_path: Path,
    one_thread: None,
) -> None:
    first, second = (video.name for video in tiny_videos[:2])
    text = f"{first},{second}\n{first},nobody\n{second},1,2,{first},0.5,1.5"
    mixtures = mixtures_of(index, text, tiny_params)
    made = separate_mixtures(
        player, tiny_videos, tiny_params, 3, 1, evaluation_rule(tiny_params), CPU, listed=mixtures
    )
    scores = write_results(made, tiny_params, tmp_path / "sounds", tmp_path / "plots")
    assert isinstance(scores[0], Score)
    assert scores[1] == SkippedMixture(1, "nobody is not among the extracted videos")
    records = [read_record(path) for path in record_paths(tmp_path / "sounds")]
    assert [record.number for record in records] == [0, 2]
    assert [record.centres for record in records] == [(), (13, 9)]
    by_name = {video.name: video for video in tiny_videos}
    reader = MixtureReader(tiny_params.mixture, tiny_params.extract)
    for record in records:
        again = reader.middle(clips_of(record, by_name))
        np.testing.assert_array_equal(again.audio, record.sources)
    assert clips_of(records[0], {}) == []


def test_control_repeats_the_listed_mixtures(
    index: Path,
    tiny_videos: list[Video],
    tiny_params: Params,
    player: PixelPlayer,
    one_thread: None,
) -> None:
    params = with_values(tiny_params, {"evaluate.silent": 2, "evaluate.mixtures": 50})
    first, second = (video.name for video in tiny_videos[:2])
    mixtures = mixtures_of(index, f"{first},{second}", params)
    settings = (1, evaluation_rule(params), CPU, plain_kind(params.evaluate), mixtures)
    plain = [one.score() for one in separate_mixtures(player, tiny_videos, params, 1, *settings)]
    made = measure_motion(player, tiny_videos, params, plain, CPU, mixtures)
    shifted = made["shifted"]["different"]
    assert shifted["mixtures"]["counted"] == 1
    # Only the frames are shifted: the sounds are those of the listed mixture.
    assert isinstance(plain[0], Score)
    expected = plain[0].measures["sdr_mixture"].mean()
    assert shifted["sdr_mixture"]["mean"] == pytest.approx(expected)


def test_repeated_rows_of_the_measured_list_are_counted(
    index: Path, tiny_videos: list[Video], tmp_path: Path
) -> None:
    """Although the index has each video once."""
    listed = json.loads((index / SPLIT).read_text())
    repeats = [f"{tiny_videos[0].name}.mp4", tiny_videos[1].name]
    write_json(index / SPLIT, listed | {"test": [*listed["test"], *repeats]})
    metrics, problems = check_protocol(index, tmp_path / "motion")
    assert metrics["protocol"]["test_videos"] == 4
    assert metrics["protocol"]["repeated_test_videos"] == 2
    assert "2 rows of the test list name the video of an earlier row" in problems


def test_counts_are_in_the_metrics_only_with_lists(
    index: Path, tiny_videos: list[Video], tmp_path: Path
) -> None:
    first, second = (video.name for video in tiny_videos[:2])
    rows = rows_of(index, f"{first},{second}\n{second},{first}\n{second},x\n{second},x")
    metrics, problems = check_protocol(index, tmp_path / "motion", rows)
    found = metrics["protocol"]
    assert found["measured_on"] == "test"
    expected = {
        **{"test_videos": 4, "test_videos_in_training": 1, "test_videos_in_validation": 0},
        **{"mixtures": 4, "distinct_mixtures": 2, "repeated_mixtures": 1, "swapped_mixtures": 1},
        **{"mixtures_with_training_videos": 2, "mixtures_with_unlisted_videos": 2},
    }
    assert {key: found[key] for key in expected} == expected
    assert f"1 of 4 test videos stands in the training list: {first}" in problems
    assert found["repeated_test_videos"] == 0
    drawn = tmp_path / "drawn"
    write_index(Index(tuple(tiny_videos[2:]), tuple(tiny_videos[:2]), (), {}), drawn)
    assert check_protocol(drawn, tmp_path / "motion") == ({}, [])
    assert check_protocol(drawn, tmp_path / "motion", rows)[0]["protocol"]["mixtures"] == 4
