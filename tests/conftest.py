"""What tests share: the published numbers, real clips, and small real data."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from sop.dataset.index import Video, count_frames
from sop.download.synthetic import plan, render
from sop.extract.extraction import extract
from sop.params import Params, load_params
from sop.runtime.log import show_log
from sop.runtime.parallel import Workers
from tests.support.experiment import ROOT, TINY, Reference, with_values

# Under `make test` a `make` that a test starts would print more, and share its jobs.
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(name, None)

pytest_plugins = ("tests.support.videos", "tests.support.pages", "tests.support.planted")


@pytest.fixture(autouse=True, scope="session")
def log() -> None:
    """What the library logs is printed, as by its programs."""
    show_log()


@pytest.fixture(scope="session")
def reference() -> Reference:
    folder = Path(os.environ.get("SOP_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no numbers of the published implementation in {folder} (SOP_REFERENCE)")
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    with np.load(folder / "expected.npz") as expected:
        return Reference(dict(expected), recipe)


@pytest.fixture(scope="session")
def music_clips() -> list[Path]:
    folder = ROOT.parent / "shared" / "music-clips"
    if not folder.is_dir():
        pytest.skip(f"no real clips in {folder}")
    return sorted(folder.glob("*/*.mp4"))


@pytest.fixture(scope="session")
def default_params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small arrays wait longer for a second, busy core than they take on the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_params(default_params: Params) -> Params:
    """Parameters of an experiment of seconds, whatever params.yaml says."""
    return with_values(default_params, TINY)


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory, tiny_params: Params) -> list[Video]:
    """Two rendered solos of each instrument, extracted; the first of all instruments come first."""
    folder = tmp_path_factory.mktemp("tiny")
    planned = plan(tiny_params.dataset.synthetic, seed=7)
    for video in planned:
        render(video, tiny_params.dataset.synthetic, 7, folder / "videos")
    audio, frames = folder / "audio", folder / "frames"
    extract(
        tiny_params.extract, folder / "videos", audio, frames, Workers(2), folder / "hashes.sqlite"
    )
    return [
        Video(
            audio / video.category / f"{video.name}.wav",
            frames / video.category / f"{video.name}.zip",
            count_frames(frames / video.category / f"{video.name}.zip"),
        )
        for video in planned
    ]
