"""The model of the paper: its weights, fetched once, in the form of a model of this project."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sop.catalogue.names import PUBLISHED, cache_folder
from sop.model.card import DataCard, ModelCard
from sop.model.checkpoint import load_checkpoint, load_net, save_player, with_later_keys
from sop.model.pixelplayer import build
from sop.params import NETS, PUBLISHED_WIDTH, InferenceParams, Net, validate
from sop.runtime.errors import NotWritable, UserError
from sop.runtime.hashes import sha256
from sop.runtime.web import downloading
from sop.train.published import FILES, MAX_FILE_BYTES, STALL_SECONDS

logger = logging.getLogger(__name__)

MODEL = (
    "MUSIC-2mix-LogFreq-resnet18dilated-unet7-linear-frames3stride24-maxpool-binary-"
    "weightedLoss-channels32-epoch100-step40_80"
)

# Tried in this order. The first is the server of the authors, which refuses at times; the last one
# is an archive of it.
ADDRESSES = (
    "http://sound-of-pixels.csail.mit.edu/release",
    "https://sound-of-pixels.csail.mit.edu/release",
    "https://web.archive.org/web/2021id_/http://sound-of-pixels.csail.mit.edu/release",
)

# As in presets/music.yaml; keys that came later have the values of models without them.
PARAMS: Mapping[str, Mapping[str, Any]] = {
    "extract": {
        "frame_rate": 8.0,
        "frame_height": 246,
        "jpeg_quality": 3,
        "sample_rate": 11025,
        "timeout_seconds": 3600.0,
        "memory_limit_mib": 1024,
    },
    "mixture": {
        "sources": 2,
        "same_category": True,
        "audio_samples": 65535,
        "margin_seconds": 8.0,
        "frames": 3,
        "frame_stride": 24,
        "image_size": 224,
    },
    "spectrogram": {"stft_frame": 1022, "stft_hop": 256, "log_frequency": True},
    "model": {
        "sound": "unet7",
        "sound_width": PUBLISHED_WIDTH,
        "vision": "resnet18dilated",
        "vision_width": PUBLISHED_WIDTH,
        "synthesizer": "linear",
        "channels": 32,
        "image_pooling": "maxpool",
        "image_activation": "sigmoid",
        "sound_activation": "none",
        "output_activation": "sigmoid",
        "mask": "binary",
        "weights": dict.fromkeys(NETS, "published"),
        "published": {
            "url": "http://sound-of-pixels.csail.mit.edu/release/",
            "model": MODEL,
            "sha256": dict.fromkeys(NETS),
        },
    },
}

CARD = ModelCard(
    title="The Sound of Pixels, as published",
    data=DataCard(source="MUSIC, with duets"),
    protocol="not measured here; Zhao et al., The Sound of Pixels, ECCV 2018, has the authors' "
    "results",
    licence="see https://github.com/hangzhaomit/Sound-of-Pixels",
)


def published_folder() -> Path:
    """Return the folder of the fetched files."""
    return cache_folder() / PUBLISHED


def fetch_published(expected: Mapping[str, str], addresses: Sequence[str] = ADDRESSES) -> Path:
    """Return the file of the published model; fetch what is missing.

    Args:
        expected: SHA-256 of the file of each net; a net that is not in it is not checked.
        addresses: where to look, in this order.

    Raises:
        UserError: a file cannot be fetched or has another SHA-256, or is not the published one.
    """
    folder = published_folder()
    files = {net: _fetch(net, folder, expected.get(net), addresses) for net in NETS}
    model = folder / f"{PUBLISHED}.pt"
    newest = max(path.stat().st_mtime_ns for path in files.values())
    if model.is_file() and model.stat().st_mtime_ns > newest:
        return model
    params = validate(InferenceParams, with_later_keys(PARAMS), PUBLISHED)
    player = build(params.model, params.spectrogram, 0)
    for net, path in files.items():
        try:
            load_net(getattr(player, net), load_checkpoint(path), str(path))
        except UserError as error:
            raise UserError(f"{error}: remove it, so that it is fetched again") from None
    save_player(model, player, params, 0, CARD)
    return model


def _fetch(net: Net, folder: Path, expected: str | None, addresses: Sequence[str]) -> Path:
    """Return the file of a net; fetch it if it is missing or another one."""
    path = folder / FILES[net]
    found = sha256(path) if path.is_file() else None
    if found is not None and expected in (None, found):
        return path
    if found is not None:
        logger.info(f"{path}: its SHA-256 is {found}, not {expected}; fetching it again")
    refusals = []
    for address in addresses:
        url = f"{address}/{MODEL}/{FILES[net]}"
        logger.info(f"fetching {url}")
        try:
            with downloading(url, path, MAX_FILE_BYTES, STALL_SECONDS, "") as partial:
                found = sha256(partial)
                if expected not in (None, found):
                    raise ValueError(f"its SHA-256 is {found}, not {expected}")
                load_checkpoint(partial)
        except NotWritable:
            raise
        except UserError as error:
            refusals.append(str(error).removesuffix("; "))
            continue
        if expected is None:
            logger.info(
                f"{path}: its SHA-256 is {found}; `--model '{PUBLISHED}#{net}={found}'` requires it"
            )
        return path
    raise UserError(
        f"{'; '.join(refusals)}; try again later, or save {', '.join(FILES.values())} of "
        f"{MODEL} by hand in {folder}"
    )
