"""The resume checkpoint: state of an interrupted training run, and what it must match."""

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
from sop.runtime.errors import NotWritable, UserError

logger = logging.getLogger(__name__)

# The script whose imports are the code of a training run.
TRAINER = Path("sop/train/trainer.py")

# Parameters of `train` that do not change the trained model.
WITHOUT_INFLUENCE = {"devices"}


def run_identity(
    params: Params, training: Sequence[Video], validation: Sequence[Video]
) -> dict[str, str]:
    """Return everything that determines the result of a run, by name.

    A checkpoint may be resumed only by a run of the same identity.

    Args:
        params: all parameters.
        training: training videos.
        validation: validation videos.
    """
    parts = params.model_dump(include={"mixture", "spectrogram"})
    rates = {"frame_rate", "sample_rate", "motion_rate"}
    # The card of the model names it.
    parts["dataset.source"] = params.dataset.source
    parts["extract"] = params.extract.model_dump(include=rates)
    train = params.train.model_dump(exclude=WITHOUT_INFLUENCE)
    for section, values in (("model", params.model.model_dump()), ("train", train)):
        parts |= {f"{section}.{name}": value for name, value in values.items()}
    return {
        **{name: json.dumps(value, sort_keys=True) for name, value in parts.items()},
        "data": _data_hash(training, validation),
        "code": code_hash(TRAINER),
        "PyTorch": str(torch.__version__),
    }


class ResumeCheckpoint:
    """The file from which an interrupted run is resumed.

    Args:
        path: the file.
        identity: identity of the current run; see `run_identity`.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path = path
        self.identity = identity

    def load(self) -> dict[str, Any] | None:
        """Return the saved state; None, with a log message, if there is none for this run."""
        if not self.path.is_file():
            return None
        try:
            content = load_checkpoint(self.path)
            earlier, state = content["identity"], content["state"]
            changes = [
                _change(name, earlier, self.identity)
                for name in sorted(earlier.keys() | self.identity.keys())
                if earlier.get(name) != self.identity.get(name)
            ]
        except (UserError, KeyError, AttributeError) as error:
            logger.info(f"train: {self.path} is not readable ({error}); starting from step 0")
            return None
        if changes:
            logger.info(
                f"train: the run that was interrupted at step {state.get('step')} cannot be "
                f"resumed because of changes: {'; '.join(changes)}; starting from step 0"
            )
            return None
        return dict(state)

    def save(self, state: dict[str, Any]) -> bool:
        """Save a state; return False, and keep the previous file, if that fails."""
        try:
            save_checkpoint(self.path, {"identity": self.identity, "state": state})
        except NotWritable as error:
            logger.info(f"train: {error}; keeping the previous checkpoint")
            return False
        return True


def _change(name: str, earlier: dict[str, str], now: dict[str, str]) -> str:
    if name in ("data", "code"):
        return f"{name} changed"
    return f"{name} {earlier.get(name, 'unset')} -> {now.get(name, 'unset')}"


def _data_hash(training: Sequence[Video], validation: Sequence[Video]) -> str:
    """Hash lists, file sizes and extraction manifests instead of reading all data."""
    videos = [*training, *validation]
    lines = [f"{len(training)} {len(validation)}"]
    lines += [
        f"{video.audio} {video.frames} {video.frame_count} {video.audio.stat().st_size} "
        f"{video.frames.stat().st_size if video.frames.is_file() else ''}"
        for video in videos
        if video.audio.is_file()
    ]
    paths = [path for video in videos for path in (video.audio, video.frames, video.motion)]
    folders = sorted({path.parents[1] for path in paths if path is not None})
    manifests = [folder / "manifest.json" for folder in folders]
    lines += [path.read_text(encoding="utf-8") for path in manifests if path.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
