"""YAML with plain values only, and with a bound on what a short text can expand to."""

import json
import math
from itertools import accumulate, chain, islice
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from sop.runtime.log import printable

MAX_CHARACTERS = 1_000_000
# Aliases can expand a few lines to any number of values. params.yaml has some hundred.
MAX_VALUES = 100_000
MAX_DEPTH = 50
MAX_INTEGER = 2**63 - 1

SHOWN_CHARACTERS = 80
SHOWN_VALUES = 20
SHOWN_DEPTH = 3
_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_WORDS = {"int": "an integer of at most 63 bits", "float": "a number", "bool": "true or false"}


def parse_yaml(text: str) -> Any:
    """Return the values of a YAML document: mappings, lists, strings, numbers, booleans and null.

    Dates are strings.

    Raises:
        ValueError: the text is not YAML, has other values, or is too large; the message is one
            line with the reason and the number of the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    # Roughly, because the reader takes minutes for a thousand brackets before it gives up.
    depths = accumulate((c in "[{") - (c in "]}") for c in text)
    if max(depths, default=0) > MAX_DEPTH:
        raise ValueError(f"brackets are nested more than {MAX_DEPTH} deep")
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _PlainConstructor
    try:
        root = yaml.compose(text)
        if root is not None:
            _size(root, {})
        return yaml.load(text)
    except RecursionError:
        raise ValueError("sections are nested too deeply") from None
    except YAMLError as error:
        reason = str(error)
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise ValueError(" ".join(reason.split())) from None


def yaml_text(value: Any) -> str:
    """Return a value as a message shows it: as it is written in YAML, shortened if it is long."""
    text = printable(_flow_text(value))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


class _PlainConstructor(SafeConstructor):
    """Makes plain values; a value that cannot be made is an error that names its line."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise OverflowError
            return value
        except (ValueError, LookupError, ArithmeticError):
            kind = _WORDS.get(f"{node.tag}".removeprefix(_TAG), node.tag)
            raise ConstructorError(
                problem=f"{yaml_text(node.value)} is not {kind}", problem_mark=node.start_mark
            ) from None

    def refuse(self, node: Node) -> None:
        """Refuse a tag that stands for no plain value."""
        raise ConstructorError(
            problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark
        )


# Other tags, such as sets and binary data, are refused like any unknown one. Dates stay text.
_PlainConstructor.yaml_constructors = {
    **{_TAG + kind: SafeConstructor.yaml_constructors[_TAG + kind] for kind in _KINDS},
    f"{_TAG}timestamp": SafeConstructor.construct_yaml_str,
    None: _PlainConstructor.refuse,
}


def _size(node: Node, sizes: dict[int, int]) -> int:
    """Return how many values a node expands to.

    Args:
        node: the node.
        sizes: the sizes of nodes that are known, by the id of a node.

    Raises:
        ComposerError: they are too many, or the node contains itself.
    """
    if isinstance(node, ScalarNode):
        return 1
    if id(node) not in sizes:
        # Until the size is known: a node that contains itself is endless.
        sizes[id(node)] = MAX_VALUES
        inner = chain.from_iterable(node.value) if isinstance(node, MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_size(each, sizes) for each in inner)
        if sizes[id(node)] > MAX_VALUES:
            raise ComposerError(
                problem=f"aliases expand to more than {MAX_VALUES} values",
                problem_mark=node.start_mark,
            )
    return sizes[id(node)]


def _flow_text(value: Any, depth: int = 0) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return f"'{value[:SHOWN_CHARACTERS]}'"
        # In a checkpoint, a list may even contain itself.
        case list() | dict() if depth == SHOWN_DEPTH:
            return "..."
        case list():
            return f"[{', '.join(_flow_text(one, depth + 1) for one in value[:SHOWN_VALUES])}]"
        case dict():
            first = islice(value.items(), SHOWN_VALUES)
            pairs = (f"{key}: {_flow_text(inner, depth + 1)}" for key, inner in first)
            return f"{{{', '.join(pairs)}}}"
        case int() if abs(value) > MAX_INTEGER:
            return f"an integer of {value.bit_length()} bits"
        case float() if not math.isfinite(value):
            return f"{value}".replace("inf", ".inf").replace("nan", ".nan")
    return str(value)
