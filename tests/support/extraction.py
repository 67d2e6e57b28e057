"""Folders of videos and of what is extracted from them."""

from pathlib import Path
from typing import Any

from sop.extract.extraction import extract
from sop.params import ExtractParams
from sop.runtime.parallel import Workers

LIMITS = {"timeout_seconds": 60.0, "memory_limit_mib": 512}
PARAMS = ExtractParams(
    frame_rate=8.0,
    frame_height=48,
    jpeg_quality=5,
    sample_rate=11025,
    motion_rate=None,
    motion_height=24,
    **LIMITS,
)


class Folders:
    """Videos, and what is made of them."""

    def __init__(self, root: Path) -> None:
        self.videos, self.audio, self.frames = root / "videos", root / "audio", root / "frames"
        self.motion = root / "motion"
        self.hashes = root / "hashes.sqlite"
        self.videos.mkdir(parents=True)

    def extract(self, **changes: Any) -> dict[str, Any]:
        params = PARAMS.model_copy(update=changes)
        places = (self.videos, self.audio, self.frames)
        return extract(params, *places, Workers(2), self.hashes, self.motion)

    def tree(self) -> dict[str, bytes]:
        return {
            f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
            for folder in (self.audio, self.frames, self.motion)
            for path in folder.rglob("*")
            if path.is_file()
        }

    def times(self) -> dict[str, int]:
        return {
            str(path.relative_to(folder.parent)): path.stat().st_mtime_ns
            for folder in (self.audio, self.frames, self.motion)
            for path in folder.glob("*/*")
        }


def from_nothing(folders: Folders, root: Path, **changes: Any) -> dict[str, bytes]:
    """The tree of the same videos extracted into empty folders."""
    fresh = Folders(root)
    fresh.videos.rmdir()
    fresh.videos.symlink_to(folders.videos)
    fresh.extract(**changes)
    return fresh.tree()
