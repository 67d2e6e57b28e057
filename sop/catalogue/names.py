"""Names of models: the published one, an address, or a path.

Nothing here imports PyTorch, so that a command can refuse a wrong name at once.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from sop.runtime.errors import UserError

# The model that training writes.
DEFAULT = Path("data/model/last.pt")

PUBLISHED = "published"

NETS = ("sound", "vision", "synthesizer")

# Names another folder for fetched models.
CACHE_VARIABLE = "SOP_CACHE"

SUFFIXES = (".pt", ".safetensors")
EXPORTED_FILE = "model.safetensors"

MAX_NAME = 2000


@dataclass(frozen=True)
class ModelName:
    """What a user calls a model."""

    text: str
    """The name without hashes."""
    kind: str
    """`published`, `address` or `path`."""
    sha256: dict[str, str]
    """Expected SHA-256 of its files: by net for `published`, otherwise under `sha256`."""

    @property
    def shown(self) -> str:
        """Short name for results: without folders, and without what an address may hide."""
        if self.kind == "address":
            return file_of_address(self.text)
        return self.text if self.kind == PUBLISHED else Path(self.text).resolve().name


def parse_name(text: str) -> ModelName:
    """Return the parts of a name.

    Args:
        text: `published`, an http(s) address or a path. Of the first two, the SHA-256 may follow:
            `https://host/model.pt#sha256=HEX`, `published#sound=HEX&vision=HEX`.

    Raises:
        UserError: it is empty, or what follows is no SHA-256.
    """
    if not text:
        raise UserError("--model: empty; name a file or folder")
    if len(text) > MAX_NAME:
        raise UserError(f"--model: longer than {MAX_NAME} characters")
    name, mark, rest = text.partition("#")
    is_address = re.match(r"https?://", name) is not None
    if not is_address and (name != PUBLISHED or Path(PUBLISHED).exists()):
        return ModelName(text, "path", {})
    allowed = ("sha256",) if is_address else NETS
    hashes = dict(parse_qsl(rest, keep_blank_values=True)) if mark else {}
    valid = all(
        key in allowed and re.fullmatch("[0-9a-f]{64}", value) for key, value in hashes.items()
    )
    if not valid or (mark and not hashes):
        raise UserError(
            f"--model {text}: after # must follow {' or '.join(f'{key}=' for key in allowed)} and "
            "64 hexadecimal digits"
        )
    if is_address and not urlsplit(name).hostname:
        raise UserError(f"--model {text}: no address; as in https://host/model.pt")
    return ModelName(name, "address" if is_address else PUBLISHED, hashes)


def require_model(text: str) -> ModelName:
    """Return the parts of the name of a model that may exist.

    Raises:
        UserError: it is a path at which there is no model, or not a name.
    """
    name = parse_name(text)
    if name.kind != "path":
        return name
    path = Path(text)
    try:
        if path.is_dir():
            if not (path / EXPORTED_FILE).is_file():
                raise UserError(
                    f"{path}: not a folder of `sop export`, which contains {EXPORTED_FILE}"
                )
        elif not path.exists():
            advice = "run `dvc repro train`, or set --model to published, a file or an address"
            raise UserError(f"{path}: no such checkpoint; {advice}")
        elif not path.is_file():
            raise UserError(f"{path}: not a file")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return name


def cache_folder() -> Path:
    """Return the folder of fetched models: SOP_CACHE, or one in the user's folder of caches."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME")
    place = Path(caches) if caches and Path(caches).is_absolute() else Path.home() / ".cache"
    return place / "sound-of-pixels"


def file_of_address(address: str) -> str:
    """Return the file name of an address, which can be nothing but a name in a folder.

    The address of a folder stands for the file that `sop export` writes into it.
    """
    last = unquote(urlsplit(address).path).rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", last)[-80:].lstrip(".-")
    return name if name.endswith(SUFFIXES) else EXPORTED_FILE


def download_address(address: str) -> str:
    """Return the address of the file itself."""
    parts = urlsplit(address)
    if unquote(parts.path).endswith(SUFFIXES):
        return address
    return parts._replace(path=f"{parts.path.rstrip('/')}/{EXPORTED_FILE}").geturl()
