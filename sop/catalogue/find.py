"""Find the file of a model by its name, and list the models that are there."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sop.catalogue.names import (
    DEFAULT,
    PUBLISHED,
    SUFFIXES,
    ModelName,
    cache_folder,
    download_address,
    file_of_address,
    require_model,
)
from sop.catalogue.published import fetch_published, published_folder
from sop.model.checkpoint import load_model, model_file
from sop.runtime.errors import UserError
from sop.runtime.files import is_litter
from sop.runtime.hashes import sha256
from sop.runtime.web import downloading
from sop.train.published import FILES, MAX_FILE_BYTES, STALL_SECONDS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine."""

    name: str
    """What `--model` takes."""
    path: Path
    """Its file."""


def find_model(text: str) -> tuple[ModelName, Path]:
    """Return the parts of a name and the file of the model; fetch it if it is not here yet.

    Args:
        text: `published`, an http(s) address, or the path of a file or of a folder of
            `sop export`; see `parse_name`.

    Raises:
        UserError: there is no such model, or it cannot be fetched.
    """
    name = require_model(text)
    if name.kind == PUBLISHED:
        return name, fetch_published(name.sha256)
    if name.kind == "address":
        return name, _fetch(name)
    return name, model_file(Path(text))


def list_models() -> Iterator[FoundModel]:
    """Yield the models of this project and those that were fetched."""
    for path in sorted(DEFAULT.parent.glob("*.pt")):
        if path.is_file() and not is_litter(path):
            yield FoundModel(str(path), path)
    if all((published_folder() / file).is_file() for file in FILES.values()):
        yield FoundModel(PUBLISHED, published_folder() / f"{PUBLISHED}.pt")
    for path in sorted(_fetched_folder().glob("*/*")):
        if path.suffix in SUFFIXES and path.is_file() and not is_litter(path):
            yield FoundModel(str(path), path)


def _fetched_folder() -> Path:
    return cache_folder() / "models"


def _fetch(name: ModelName) -> Path:
    """Return the file of an address, which is fetched once."""
    key = hashlib.sha256(name.text.encode()).hexdigest()[:16]
    path = _fetched_folder() / key / file_of_address(name.text)
    expected = name.sha256.get("sha256")
    found = sha256(path) if path.is_file() else None
    if found is not None and expected in (None, found):
        return path
    url = download_address(name.text)
    logger.info(f"fetching {url}")
    remedy = f"check the address, or save the file as {path}"
    with downloading(url, path, MAX_FILE_BYTES, STALL_SECONDS, remedy) as partial:
        found = sha256(partial)
        if expected not in (None, found):
            raise ValueError(f"its SHA-256 is {found}, not {expected}")
        try:
            load_model(partial)
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"{partial}: ")) from None
    if expected is None:
        logger.info(
            f"{path}: its SHA-256 is {found}; `--model '{name.text}#sha256={found}'` requires it"
        )
    return path
