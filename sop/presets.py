"""Presets: the values of known experiments for params.yaml."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.representer import RoundTripRepresenter

from sop.params import PARAMS_PATH, Params, read_yaml, validate
from sop.runtime.errors import UserError
from sop.runtime.files import is_litter, write_text
from sop.runtime.plain_yaml import parse_yaml, yaml_text

PRESETS_PATH = Path("presets")

# Key of a preset that names another one, whose values it has where it gives none.
BASED_ON = "based_on"


class _Representer(RoundTripRepresenter):
    """Writes null explicitly, which ruamel omits."""


_Representer.add_representer(
    type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
)


class _Constructor(RoundTripConstructor):
    """Reads dates as text, as `parse_yaml` does."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", RoundTripConstructor.construct_yaml_str)


def preset_names(folder: Path = PRESETS_PATH) -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in folder.glob("*.yaml") if not is_litter(path))


def apply_preset(
    name: str, params_path: Path = PARAMS_PATH, folder: Path = PRESETS_PATH
) -> list[str]:
    """Write the values of a preset into params.yaml; comments and order are kept.

    Args:
        name: name of a file in `folder`, without its extension.
        params_path: the file to change.
        folder: folder of the presets.

    Returns:
        The changed keys, each with its old and new value.

    Raises:
        UserError: the preset does not exist, or the result is invalid; nothing is written.
    """
    # Checks the file, and names the right folder to run from.
    read_yaml(params_path)
    known = preset_names(folder)
    if name not in known:
        raise UserError(f"no preset {name!r}; available: {', '.join(known) or 'none'}")
    yaml = YAML()
    yaml.Constructor, yaml.Representer = _Constructor, _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    params = yaml.load(params_path.read_text(encoding="utf-8"))
    changes = list(_merge(params, _values(name, folder, yaml)))
    text = io.StringIO()
    yaml.dump(params, text)
    validate(Params, parse_yaml(text.getvalue()), f"{params_path} with preset {name}")
    write_text(params_path, text.getvalue())
    return changes


def _values(name: str, folder: Path, yaml: YAML) -> Any:
    """Read the values of a preset as its file writes them: 1.0e-3 stays 1.0e-3."""
    preset = folder / f"{name}.yaml"
    read_yaml(preset)
    values = yaml.load(preset.read_text(encoding="utf-8"))
    base = values.pop(BASED_ON, None)
    if base is None:
        return values
    if base == name or base not in preset_names(folder):
        raise UserError(f"{preset}: {BASED_ON}: {base!r} is not another preset")
    # A base has no base of its own.
    together = yaml.load((folder / f"{base}.yaml").read_text(encoding="utf-8"))
    for _ in _merge(together, values):
        pass
    return together


def _merge(into: Any, values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        old = into.get(key)
        # An empty mapping, such as further options of yt-dlp, replaces the present one.
        if value and isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _merge(old, value, f"{path}{key}.")
        elif old != value:
            yield f"{path}{key}: {_shown(old)} -> {_shown(value)}"
            if isinstance(value, list) and isinstance(old, list):
                # In place, so that a list on one line stays on one line.
                old[:] = value
            else:
                into[key] = value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else yaml_text(value)
