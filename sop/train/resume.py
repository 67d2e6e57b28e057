"""Going on with a training run that was stopped: what is kept of it, and whether it may."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sop.dataset.index import Video
from sop.model.checkpoint import load_checkpoint, save_checkpoint
from sop.params import Params
from sop.runtime.code import code_hash
from sop.runtime.errors import UserError

logger = logging.getLogger(__name__)

# The script whose code decides the result of a training run.
TRAINER = Path("sop/train/trainer.py")

# Changing these changes nothing of what is learned.
WITHOUT_INFLUENCE = {"checkpoint_seconds", "log_every", "devices"}


def identity(
    params: Params, training: Sequence[Video], validation: Sequence[Video]
) -> dict[str, str]:
    """All that a run follows from, by name: two runs alike in it are the same run.

    Args:
        params: all parameters.
        training: videos to learn from.
        validation: videos to measure on.
    """
    sections = params.model_dump(
        include={"seed", "extract", "mixture", "spectrogram", "model", "train"}
    )
    extract = sections.pop("extract")
    train = {k: v for k, v in sections.pop("train").items() if k not in WITHOUT_INFLUENCE}
    parts = {
        "extract": {name: extract[name] for name in ("frame_rate", "sample_rate")},
        **{f"train.{name}": value for name, value in train.items()},
        **{f"model.{name}": value for name, value in sections.pop("model").items()},
        **sections,
    }
    return {
        **{name: json.dumps(value, sort_keys=True) for name, value in parts.items()},
        "data": _hash(_data(training, validation)),
        "code": code_hash(TRAINER),
        "PyTorch": str(torch.__version__),
    }


class Unfinished:
    """A training run that has begun and not ended, as one file.

    Args:
        path: the file.
        run: identity of the run that may go on from it.
    """

    def __init__(self, path: Path, run: dict[str, str]) -> None:
        self.path = path
        self.run = run

    def load(self) -> dict[str, Any] | None:
        """What `save` was given; None where there is nothing to go on from, and then says why."""
        if not self.path.is_file():
            return None
        try:
            content = load_checkpoint(self.path)
            earlier, state = content["run"], content["state"]
            differs = sorted(
                name
                for name in earlier.keys() | self.run.keys()
                if earlier.get(name) != self.run.get(name)
            )
        except (UserError, KeyError, AttributeError) as error:
            logger.info(f"train: {self.path} is not readable ({error}); starting anew")
            return None
        if differs:
            changes = "; ".join(_change(name, earlier, self.run) for name in differs)
            logger.info(
                f"train: a run was stopped at step {state.get('step')} and is not continued, "
                f"it was another: {changes}; starting anew"
            )
            return None
        return dict(state)

    def save(self, state: dict[str, Any]) -> bool:
        """Keep a state; whether that worked. Where not, the one before is still there."""
        try:
            save_checkpoint(self.path, {"run": self.run, "state": state})
        except (OSError, RuntimeError) as error:
            # Torch's writer reports a full disk as a RuntimeError of its own.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.info(f"train: {self.path} cannot be written ({reason}); the one before stays")
            return False
        return True

    def remove(self) -> None:
        """Forget the run: it has ended."""
        self.path.unlink(missing_ok=True)


def _change(name: str, earlier: dict[str, str], now: dict[str, str]) -> str:
    if name in ("data", "code"):
        return f"{name} changed"
    return f"{name} {earlier.get(name, 'unset')} -> {now.get(name, 'unset')}"


def _data(training: Sequence[Video], validation: Sequence[Video]) -> list[str]:
    """What tells data apart without reading them all: lists, sizes, and extraction's manifests."""
    videos = [*training, *validation]
    lines = [f"{len(training)} {len(validation)}"]
    lines += [
        f"{video.audio} {video.frames} {video.frame_count} {video.audio.stat().st_size} "
        f"{video.frames.stat().st_size if video.frames.is_file() else ''}"
        for video in videos
        if video.audio.is_file()
    ]
    folders = sorted({path.parents[1] for video in videos for path in (video.audio, video.frames)})
    manifests = [folder / "manifest.json" for folder in folders]
    return lines + [path.read_text(encoding="utf-8") for path in manifests if path.is_file()]


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
