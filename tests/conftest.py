"""What tests share: the published numbers, real clips, and small real data."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from sop.params import Params, load_params

ROOT = Path(__file__).parent.parent


class Reference(NamedTuple):
    """The published implementation's numbers, and the recipe of their weights and inputs."""

    expected: dict[str, np.ndarray]
    recipe: ModuleType


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
