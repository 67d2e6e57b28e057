"""Folders of extracted sounds and frames, and the parameters of their index."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from sop.dataset.index import Index, build_index
from sop.params import IndexParams, SplitParams

RATE = 8000
FRAME_RATE = 8.0
DRAWN = SplitParams(folder="protocols", train=None, validation=None, test=None, leaks="drop")
PARAMS = IndexParams(
    seed=1,
    min_seconds=1.0,
    train_fraction=0.5,
    split=DRAWN,
    stills=True,
    duets=False,
    duet_categories={},
)
OF_SOURCE = {
    "acoustic_guitar_violin": ("acoustic_guitar", "violin"),
    "flute_violin": ("flute", "violin"),
}


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "JPEG")
    return content.getvalue()


JPEG = jpeg()


class Extracted:
    """A folder of sounds and one of frames."""

    def __init__(self, root: Path) -> None:
        self.audio, self.frames = root / "audio", root / "frames"
        self.audio.mkdir(parents=True)

    def add(self, name: str, seconds: float = 2.0, frames: int | None = None) -> None:
        count = round(seconds * FRAME_RATE) if frames is None else frames
        self.add_sound(f"{name}.wav", seconds)
        path = self.frames / f"{name}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(1, count + 1):
                archive.writestr(f"{number:06d}.jpg", JPEG)

    def add_sound(self, name: str, seconds: float = 2.0) -> Path:
        path = self.audio / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * RATE))
        soundfile.write(path, samples, RATE)
        return path

    def add_loose(self, folder: str, count: int = 16) -> Path:
        path = self.frames / folder
        path.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            (path / f"{number:06d}.jpg").write_bytes(JPEG)
        return path

    def index(self, seed: int = 1, lists: Any = None, **changes: Any) -> Index:
        params = PARAMS.model_copy(update={"seed": seed, **changes})
        return build_index(self.audio, self.frames, params, FRAME_RATE, OF_SOURCE, lists)
