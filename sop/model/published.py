"""The published model: its three files, fetched, and our model written as such files."""

import logging
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten
from typing import Literal

import torch
from torch import nn

from sop.model.checkpoint import load_checkpoint, load_net, published_names
from sop.model.pixelplayer import PixelPlayer, build
from sop.params import (
    PUBLISHED_WIDTH,
    Params,
    PublishedParams,
    WeightsParams,
    unlike_published,
)
from sop.runtime.errors import UserError
from sop.runtime.files import replacing
from sop.runtime.hashes import sha256
from sop.runtime.progress import LOG_INTERVAL_SECONDS

logger = logging.getLogger(__name__)

FOLDER = Path("data/published")

Net = Literal["sound", "frame", "synthesizer"]

FILES: dict[Net, str] = {
    "sound": "sound_best.pth",
    "frame": "frame_best.pth",
    "synthesizer": "synthesizer_best.pth",
}
# What the published nets are called here.
OURS: dict[Net, str] = {"sound": "sound", "frame": "vision", "synthesizer": "synthesizer"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}

VALUES = (
    f"model.sound unet7, sound_width {PUBLISHED_WIDTH}, vision resnet18dilated, "
    f"vision_width {PUBLISHED_WIDTH}, synthesizer linear, channels 32"
)

# The largest file has 121 MB; no other answer of a server needs to be read to its end.
FILE_BYTES = 1 << 30
SILENCE_SECONDS = 30.0
LIMIT_SECONDS = 3600.0


def load_published(net: nn.Module, name: str, params: PublishedParams) -> None:
    """Fill a net with the published model's weights.

    Args:
        net: of a `PixelPlayer`.
        name: what it is called there.
        params: the published model.

    Raises:
        UserError: the file cannot be had, is no checkpoint, or is of another architecture.
    """
    path = fetch(THEIRS[name], params)
    state = load_checkpoint(path)
    try:
        load_net(net, state, str(path))
    except UserError as error:
        raise UserError(f"{error}: the published model has {VALUES}") from None


def published_player(params: Params) -> tuple[PixelPlayer, Params]:
    """The published model, and parameters that say that each of its nets is.

    Args:
        params: what the model and its surroundings are like.

    Raises:
        UserError: as `load_published` says, or the parameters are of another model.
    """
    if unlike := unlike_published(params.model, THEIRS):
        raise UserError(
            f"params.yaml does not fit the published model: set {', '.join(unlike)}, or "
            "`python -m sop preset music`"
        )
    weights = WeightsParams(sound="published", vision="published", synthesizer="published")
    model = params.model.model_copy(update={"weights": weights})
    player = build(model, params.spectrogram, params.seed)
    for name in THEIRS:
        load_published(getattr(player, name), name, model.published)
    return player.eval(), params.model_copy(update={"model": model})


def fetch(name: Net, params: PublishedParams, folder: Path = FOLDER) -> Path:
    """A file of the published model, fetched unless it is there already.

    Args:
        name: of the net, a key of `FILES`.
        params: where the model is, and the SHA-256 of its files.
        folder: holds a folder for each model.

    Raises:
        UserError: it cannot be fetched, is no checkpoint, or not the expected one.
    """
    place = folder / params.model / FILES[name]
    expected = params.sha256.get(name)
    found = sha256(place) if place.is_file() else None
    if found is not None and expected not in (None, found):
        logger.info(f"{place}: its SHA-256 is {found}, expected {expected}; it is fetched anew")
        found = None
    if found is None:
        found = _fetch(name, params, place)
    if expected is None:
        logger.info(
            f"{place}: its SHA-256 is {found}; to insist on it, set model.published.sha256.{name}"
        )
    return place


def export_published(player: PixelPlayer, folder: Path) -> list[Path]:
    """Write a model as the published code does, and can read it: three plain state dicts.

    Args:
        player: the model.
        folder: receives the files, in the place of older ones.

    Returns:
        The files.

    Raises:
        UserError: they cannot be written.
    """
    for name, file in FILES.items():
        net = getattr(player, OURS[name])
        ours = net.state_dict()
        state = {
            theirs: ours[own].cpu().contiguous() for theirs, own in published_names(net).items()
        }
        try:
            with replacing(folder / file) as partial:
                # The published code is from before PyTorch's present format.
                torch.save(state, partial, _use_new_zipfile_serialization=False)
        except OSError as error:
            raise UserError(f"{folder / file}: cannot be written ({error.strerror})") from None
    return [folder / file for file in FILES.values()]


def _fetch(name: Net, params: PublishedParams, place: Path) -> str:
    """Fetch a file to its place, if it is a checkpoint and the expected one; its SHA-256."""
    url = f"{params.url.rstrip('/')}/{params.model}/{FILES[name]}"
    expected = params.sha256.get(name)
    logger.info(f"fetching {url}")
    try:
        with replacing(place) as partial:
            _download(url, partial)
            found = sha256(partial)
            if expected not in (None, found):
                raise ValueError(
                    f"its SHA-256 is {found}, expected {expected} by model.published.sha256.{name}"
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
    # A server may send what would garble a terminal.
    reason = shorten("".join(c if c.isprintable() else " " for c in reason), 300)
    choices = "scratch, imagenet" if name == "frame" else "scratch"
    raise UserError(
        f"{url}: not fetched ({reason}); put the file at {place} by hand, or set "
        f"model.weights.{OURS[name]} to {choices} or the path of a checkpoint"
    )


def _download(url: str, path: Path) -> None:
    """Write what an address answers to `path`.

    Raises:
        OSError, HTTPException, ValueError: it is not all of a file of acceptable size.
    """
    began = said = time.monotonic()
    with urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as answer, path.open("wb") as file:
        announced: int | None = answer.length
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server answers with a web page")
        while file.tell() <= FILE_BYTES and (block := answer.read1(1 << 20)):
            file.write(block)
            now = time.monotonic()
            if now - began > LIMIT_SECONDS:
                raise ValueError(f"it takes longer than {LIMIT_SECONDS:.0f} s")
            if now - said > LOG_INTERVAL_SECONDS:
                said = now
                of = f" of {announced / 1e6:.1f}" if announced else ""
                logger.info(f"{url.rpartition('/')[2]}: {file.tell() / 1e6:.1f}{of} MB")
        size = file.tell()
    if size > FILE_BYTES:
        raise ValueError(f"it is larger than {FILE_BYTES / 1e6:.0f} MB")
    if announced is not None and size < announced:
        raise ValueError(f"it ends after {size} of {announced} bytes")
