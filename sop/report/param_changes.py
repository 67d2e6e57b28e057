"""Parameters that differ between two revisions of the project."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sop.params import PARAMS_PATH
from sop.report.revisions import Revision, find_revision, how_to_repair, read_text
from sop.runtime.errors import UserError
from sop.runtime.plain_yaml import parse_yaml

UNSET = object()
"""The value of a parameter that is not in params.yaml; null is a value."""


@dataclass(frozen=True)
class ParamChange:
    """A parameter whose value differs between two revisions."""

    key: str
    """Dotted, as in `train.epochs`."""
    old: Any
    """Its value, or `UNSET`."""
    new: Any
    """Its value, or `UNSET`."""

    def as_text(self) -> str:
        """Return `key: old -> new`."""
        old, new = value_text(self.old), value_text(self.new)
        if old == new:
            # The text "5" and the number 5.
            old, new = _json(self.old), _json(self.new)
        return f"{self.key}: {old} -> {new}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: `key`, and `old` and `new` where there is a value."""
        sides = (("old", self.old), ("new", self.new))
        return {
            "key": self.key,
            **{side: _plain(value) for side, value in sides if value is not UNSET},
        }


def changed_params(a: str, b: str, folder: Path) -> list[ParamChange]:
    """List the parameters that differ: changed ones first, then added, then removed ones.

    Args:
        a: any git revision, the name of a DVC experiment, or `workspace`.
        b: the same.
        folder: the project's, inside a git repository.

    Raises:
        UserError: a revision is unknown, or its params.yaml is missing or damaged.
    """
    old, new = (dict(params_of(find_revision(name, folder), folder)) for name in (a, b))
    keys = sorted(new | old, key=lambda key: (key not in new, key not in old))
    changes = (ParamChange(key, old.get(key, UNSET), new.get(key, UNSET)) for key in keys)
    return [change for change in changes if not _equal(change.old, change.new)]


def flattened(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a tree with dotted keys, such as `train.epochs`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def value_text(value: Any) -> str:
    """Return the value of a parameter as text: in JSON unless it is plain text already."""
    if value is UNSET:
        return "(absent)"
    return value if isinstance(value, str) and value and value.isprintable() else _json(value)


def params_of(revision: Revision, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the parameters of a revision with dotted keys.

    Raises:
        UserError: its params.yaml is missing or damaged.
    """
    text = read_text(revision, PARAMS_PATH, folder)
    place = revision.place(PARAMS_PATH, folder)
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{place}: invalid YAML, {error}; {how_to_repair(revision)}") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{place}: contains no parameters; {how_to_repair(revision)}")
    return flattened(values)


def _equal(a: Any, b: Any) -> bool:
    """Compare two values: 1 equals 1.0, but not true."""
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b) or repr(a) == repr(b)  # NaN is not equal to itself


def _plain(value: Any) -> Any:
    """Return a YAML value as JSON can hold it: dates and non-finite numbers as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)
