"""The published model: download of its three files, and export of a model in their format."""

import logging
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn

from sop.model.checkpoint import load_checkpoint, load_net, published_names
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import (
    NETS,
    PUBLISHED_WIDTH,
    Net,
    Params,
    PublishedParams,
    WeightsParams,
    differences_from_published,
)
from sop.runtime.errors import UserError
from sop.runtime.files import replacing
from sop.runtime.hashes import sha256
from sop.runtime.progress import LOG_INTERVAL_SECONDS

logger = logging.getLogger(__name__)

FOLDER = Path("data/published")

FILES: dict[Net, str] = {
    "sound": "sound_best.pth",
    "vision": "frame_best.pth",
    "synthesizer": "synthesizer_best.pth",
}

ARCHITECTURE = (
    f"model.sound unet7, sound_width {PUBLISHED_WIDTH}, vision resnet18dilated, "
    f"vision_width {PUBLISHED_WIDTH}, synthesizer linear, channels 32"
)

# The largest file has 121 MB. A server that sends more is not read to the end.
MAX_FILE_BYTES = 1 << 30
STALL_TIMEOUT_SECONDS = 30.0
TIMEOUT_SECONDS = 3600.0


def load_published(module: nn.Module, net: Net, params: PublishedParams) -> None:
    """Load the weights of the published model into a net.

    Args:
        module: the net.
        net: name of the net in a `PixelPlayer`.
        params: the published model.

    Raises:
        UserError: the file cannot be downloaded, is not a checkpoint, or is of another
            architecture.
    """
    path = download(net, params)
    state = load_checkpoint(path)
    try:
        load_net(module, state, str(path))
    except UserError as error:
        raise UserError(f"{error}: the published model has {ARCHITECTURE}") from None


def published_player(params: Params) -> tuple[PixelPlayer, Params]:
    """Return the published model, and parameters whose `model.weights` are `published`.

    Args:
        params: all parameters; their `model` must describe the published model.

    Raises:
        UserError: the parameters describe another model, or loading fails; see `load_published`.
    """
    if differences := differences_from_published(params.model, NETS):
        raise UserError(
            f"params.yaml does not fit the published model: set {', '.join(differences)}, or run "
            "`sop preset music`"
        )
    weights = WeightsParams(sound="published", vision="published", synthesizer="published")
    model = params.model.model_copy(update={"weights": weights})
    player = build(model, params.spectrogram, params.seed)
    for net in NETS:
        load_published(getattr(player, net), net, model.published)
    return player.eval(), params.model_copy(update={"model": model})


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
    if found is not None and expected not in (None, found):
        logger.info(f"{path}: its SHA-256 is {found}, expected {expected}; downloading it again")
        found = None
    if found is None:
        found = _download_checked(net, params, path)
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
        UserError: the files cannot be written.
    """
    for net, file in FILES.items():
        module = getattr(player, net)
        state = module.state_dict()
        renamed = {
            published: state[own].cpu().contiguous()
            for published, own in published_names(module).items()
        }
        try:
            with replacing(folder / file) as partial:
                # PyTorch of that time cannot read the current file format.
                torch.save(renamed, partial, _use_new_zipfile_serialization=False)
        except OSError as error:
            raise UserError(f"{folder / file}: cannot be written ({error.strerror})") from None
    return [folder / file for file in FILES.values()]


def _download_checked(net: Net, params: PublishedParams, path: Path) -> str:
    """Download a file, keep it if it is the expected checkpoint, and return its SHA-256."""
    url = f"{params.url.rstrip('/')}/{params.model}/{FILES[net]}"
    expected = params.sha256.get(net)
    logger.info(f"downloading {url}")
    try:
        with replacing(path) as partial:
            _download(url, partial)
            found = sha256(partial)
            if expected not in (None, found):
                raise ValueError(
                    f"its SHA-256 is {found}, expected {expected} by model.published.sha256.{net}"
                )
            try:
                load_checkpoint(partial)
            except UserError as error:
                raise ValueError(str(error).removeprefix(f"{partial}: ")) from None
        return found
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
    # A server may send control characters.
    reason = shorten("".join(c if c.isprintable() else " " for c in reason), 300)
    choices = "scratch, imagenet" if net == "vision" else "scratch"
    raise UserError(
        f"{url}: cannot be downloaded ({reason}); save the file as {path}, or set "
        f"model.weights.{net} to {choices} or the path of a checkpoint"
    )


def _download(url: str, path: Path) -> None:
    """Write the content of an address to a file.

    Raises:
        OSError, HTTPException, ValueError: the content is incomplete, too large or a web page.
    """
    began = logged = time.monotonic()
    with urllib.request.urlopen(url, timeout=STALL_TIMEOUT_SECONDS) as answer, path.open("wb") as f:
        announced: int | None = answer.length
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server answers with a web page")
        while f.tell() <= MAX_FILE_BYTES and (block := answer.read1(1 << 20)):
            f.write(block)
            now = time.monotonic()
            if now - began > TIMEOUT_SECONDS:
                raise ValueError(f"it takes longer than {TIMEOUT_SECONDS:.0f} s")
            if now - logged > LOG_INTERVAL_SECONDS:
                logged = now
                total = f" of {announced / 1e6:.1f}" if announced else ""
                logger.info(f"{url.rpartition('/')[2]}: {f.tell() / 1e6:.1f}{total} MB")
        size = f.tell()
    if size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES / 1e6:.0f} MB")
    if announced is not None and size < announced:
        raise ValueError(f"it ends after {size} of {announced} bytes")
