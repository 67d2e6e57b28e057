"""The published model: download of its three files, and export of a model in their format."""

import logging
from pathlib import Path

import torch

from sop.model.checkpoint import load_checkpoint, published_names
from sop.model.pixelplayer import PixelPlayer
from sop.params import Net, PublishedParams
from sop.runtime.files import replacing
from sop.runtime.hashes import sha256
from sop.runtime.web import downloading

logger = logging.getLogger(__name__)

FOLDER = Path("data/published")

FILES: dict[Net, str] = {
    "sound": "sound_best.pth",
    "vision": "frame_best.pth",
    "synthesizer": "synthesizer_best.pth",
}

# The largest file has 121 MB.
MAX_FILE_BYTES = 1 << 30
STALL_SECONDS = 30.0


def download(net: Net, params: PublishedParams, folder: Path = FOLDER) -> Path:
    """Download a file of the published model, unless it already exists.

    Args:
        net: the net whose file is downloaded.
        params: address of the model, and the expected SHA-256 of its files.
        folder: contains one folder per model.

    Raises:
        UserError: the file cannot be downloaded, is not a checkpoint, or has another SHA-256.
    """
    path = folder / params.model / FILES[net]
    expected = params.sha256.get(net)
    found = sha256(path) if path.is_file() else None
    if found is None or expected not in (None, found):
        if found is not None:
            logger.info(f"{path}: its SHA-256 is {found}, not {expected}; downloading it again")
        url = f"{params.url.rstrip('/')}/{params.model}/{FILES[net]}"
        logger.info(f"downloading {url}")
        choices = "scratch, imagenet" if net == "vision" else "scratch"
        remedy = (
            f"save the file as {path}, or set model.weights.{net} to {choices} or the path of a "
            "checkpoint"
        )
        with downloading(url, path, MAX_FILE_BYTES, STALL_SECONDS, remedy) as partial:
            found = sha256(partial)
            if expected not in (None, found):
                raise ValueError(
                    f"its SHA-256 is {found}, expected {expected} by model.published.sha256.{net}"
                )
            load_checkpoint(partial)
    if expected is None:
        logger.info(
            f"{path}: its SHA-256 is {found}; to require it, set model.published.sha256.{net}"
        )
    return path


def export_published(player: PixelPlayer, folder: Path) -> list[Path]:
    """Write a model as the three plain state dicts that the published code writes and reads.

    Args:
        player: the model.
        folder: destination; existing files are replaced.

    Returns:
        The files.

    Raises:
        NotWritable: the files cannot be written.
    """
    for net, file in FILES.items():
        module = getattr(player, net)
        state = module.state_dict()
        renamed = {
            published: state[own].cpu().contiguous()
            for published, own in published_names(module).items()
        }
        with replacing(folder / file) as partial:
            # PyTorch of that time cannot read the current file format.
            torch.save(renamed, partial, _use_new_zipfile_serialization=False)
    return [folder / file for file in FILES.values()]
