"""The picture of a separated mixture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sop.dataset.index import Video
from sop.evaluate.records import Record, record_paths, write_record
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Params
from sop.report.example import write_example
from tests.support.experiment import with_values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SCORES = pd.DataFrame({"mixture": [0, 0], "sdr": [4.0, 5.0], "sdr_mixture": [0.1, -0.1]})


@pytest.fixture(scope="module")
def player(tiny_params: Params) -> PixelPlayer:
    player = build(tiny_params.model, tiny_params.spectrogram, seed=0).eval()
    torch.nn.init.constant_(player.synthesizer.bias, 0.5)
    return player


@pytest.fixture(scope="module")
def videos(tiny_videos: list[Video]) -> dict[str, Video]:
    """The videos of a mixture, by name."""
    return {video.name: video for video in tiny_videos[:2]}


def record_of(videos: Sequence[str], params: Params, number: int = 0, level: float = 0.1) -> Record:
    random = np.random.default_rng(number)
    sources = random.normal(0, level, (2, params.mixture.audio_samples)).astype(np.float32)
    frames = 1 + sources.shape[1] // params.spectrogram.stft_hop
    masks = random.uniform(0, 1, (2, 256, frames)).astype(np.float32)
    return Record(number, tuple(videos), sources, masks)


def test_picture(
    tmp_path: Path, player: PixelPlayer, videos: dict[str, Video], tiny_params: Params
) -> None:
    path = tmp_path / "inner" / "example.png"
    write_record(tmp_path, record_of([*videos], tiny_params))
    shown = record_paths(tmp_path)
    write_example(path, player, shown, SCORES, videos, tiny_params)
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1040, 496)
        assert "Software" not in image.info
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 1000
    assert [file.name for file in path.parent.iterdir()] == ["example.png"]
    again = tmp_path / "again.png"
    write_example(again, player, shown, SCORES, videos, tiny_params)
    assert again.read_bytes() == path.read_bytes()


def test_picture_of_a_model_with_motion(
    tmp_path: Path, videos: dict[str, Video], tiny_params: Params
) -> None:
    values = {"model.motion": "synchrony", "extract.motion_rate": 16.0}
    params = with_values(tiny_params, values)
    player = build(params.model, params.spectrogram, seed=0).eval()
    torch.nn.init.normal_(
        player.synchrony.filter.weight, generator=torch.Generator().manual_seed(0)
    )
    write_record(tmp_path, record_of([*videos], params))
    pictures = []
    for seed in (0, 1):
        tracks = np.random.default_rng(seed).integers(0, 256, (2, 48, 44, 58), dtype=np.uint8)
        moving = {}
        for track, (name, video) in zip(tracks, videos.items(), strict=True):
            moving[name] = replace(video, motion=tmp_path / f"{len(moving)}.npy")
            np.save(moving[name].motion, track)
        path = tmp_path / f"{seed}.png"
        write_example(path, player, record_paths(tmp_path), SCORES, moving, params)
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    # Other motion, other places that sound: only the heat maps, in the second column.
    changed = np.flatnonzero(np.abs(pictures[1] - pictures[0]).any(axis=(0, 2)))
    assert len(changed) > 20
    assert changed.min() > 190
    assert changed.max() < 416


def test_picture_of_silence(
    tmp_path: Path, player: PixelPlayer, videos: dict[str, Video], tiny_params: Params
) -> None:
    path = tmp_path / "example.png"
    write_record(tmp_path, record_of([*videos], tiny_params, level=0))
    write_example(path, player, record_paths(tmp_path), SCORES, videos, tiny_params)
    with Image.open(path) as image:
        assert image.size == (1040, 496)


def test_picture_is_of_the_median_mixture(
    tmp_path: Path, player: PixelPlayer, videos: dict[str, Video], tiny_params: Params
) -> None:
    for number in range(4):
        write_record(tmp_path, record_of([*videos], tiny_params, number))
    scores = pd.DataFrame(
        {
            "mixture": np.repeat(range(4), 2),
            "sdr": [15.0, 25.0, 1.0, -1.0, 9.0, 11.0, 3.0, 7.0],
            "sdr_mixture": 0.0,
        }
    )
    shown = record_paths(tmp_path)[:3]
    drawn = tmp_path / "drawn.png"
    write_example(drawn, player, shown, scores, videos, tiny_params)
    # The fourth is not shown; of the others the third is neither the best nor the worst.
    expected = tmp_path / "expected.png"
    write_example(expected, player, shown[2:], scores, videos, tiny_params)
    assert drawn.read_bytes() == expected.read_bytes()


def test_no_picture(
    tmp_path: Path, player: PixelPlayer, videos: dict[str, Video], tiny_params: Params
) -> None:
    """Nothing is measured or shown, or a video is missing or unreadable."""
    write_record(tmp_path, record_of([*videos], tiny_params))
    path, shown = tmp_path / "example.png", record_paths(tmp_path)
    first, second = videos
    unreadable = Video(tmp_path / "none.wav", tmp_path / "none.zip", 24)
    write_example(path, player, [], SCORES, videos, tiny_params)
    write_example(path, player, shown, SCORES[:0], videos, tiny_params)
    write_example(path, player, shown, SCORES, {first: videos[first]}, tiny_params)
    write_example(path, player, shown, SCORES, videos | {second: unreadable}, tiny_params)
    assert not path.exists()
