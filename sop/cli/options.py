"""Options that several commands share, and the types of their values."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sop.catalogue.names import DEFAULT
from sop.runtime.errors import UserError

if TYPE_CHECKING:
    from sop.denoise.settings import FilterSettings


TAPS = 64
MAX_TAPS = 2**20
# A memory of 0.2 s at 44.1 kHz. Long enough: the filter removes about taps * (1 - forgetting) / 2
# of the wanted sound, here -25 dB. Short enough to follow a moving source.
# For a violin under noise or an accordion, 2 s were 9 dB worse where the path changed over seconds,
# and 0.02 s up to 4 dB worse where the noise was music.
RLS_FORGETTING = 0.9999
NLMS_RATE = 0.01


def add_option(
    parser: argparse._ActionsContainer,
    option: str,
    convert: Callable[[str], Any],
    allowed: str,
    **settings: Any,
) -> None:
    """Add an option whose value is converted from text.

    Args:
        parser: parser of the command.
        option: name of the option.
        convert: returns the value; raises ValueError if the text is not allowed.
        allowed: what is allowed, for the error message.
        settings: further arguments of `add_argument`.
    """

    def checked(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise UserError(f"{option} {text}: must be {allowed}") from None

    parser.add_argument(option, type=checked, **settings)


def number(text: str, minimum: float, maximum: float) -> float:
    """Return a number from text.

    Raises:
        ValueError: the text is not a number, or the number is out of range.
    """
    value = float(text)
    if not minimum <= value <= maximum:
        raise ValueError
    return value


def whole_number(text: str, maximum: float = math.inf) -> int:
    """Return a whole number from 1 to a maximum from text.

    Raises:
        ValueError: the text is anything else.
    """
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise ValueError
    return int(text)


def path_of(name: str) -> Callable[[str], Path]:
    """Return the conversion of the argument `name` to a path, which must not be empty."""

    def convert(text: str) -> Path:
        if not text:
            raise UserError(f"{name}: empty; name a file or folder")
        return Path(text)

    return convert


def add_path_option(
    parser: argparse.ArgumentParser, option: str, kind: str, text: str, default: Path | None = None
) -> None:
    """Add an option that names a file or folder; it is required if it has no default."""
    text += " (default: %(default)s)" if default else ""
    parser.add_argument(
        option,
        type=path_of(option),
        metavar=kind,
        help=text,
        default=default,
        required=default is None,
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a model; `--checkpoint` is its name in earlier versions."""
    parser.add_argument(
        "--model",
        type=_model,
        metavar="NAME|PATH",
        default=str(DEFAULT),
        help="the model: a file or a folder of `sop export`, an http(s) address of one, or "
        "published, the weights of the paper (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", dest="model", type=_model, help=argparse.SUPPRESS)


def add_filter_options(
    parser: argparse.ArgumentParser, option: str, default: str | None, text: str
) -> None:
    """Add an option that chooses an adaptive filter, and the options of the filters.

    Args:
        parser: parser of the command.
        option: name of the option that chooses the filter.
        default: default of that option; None filters nothing.
        text: help of that option.
    """
    parser.add_argument(
        option, dest="filter", choices=("lms", "nlms", "rls"), default=default, help=text
    )
    add_option(
        parser,
        "--taps",
        lambda text: whole_number(text, MAX_TAPS),
        f"a whole number from 1 to {MAX_TAPS}",
        metavar="N",
        help=f"length of the filter for each reference, in samples (default: {TAPS}, in which "
        "sound travels half a metre at 44.1 kHz)",
    )
    add_option(
        parser,
        "--rate",
        lambda text: number(text, sys.float_info.min, sys.float_info.max),
        "a positive number",
        metavar="R",
        help=f"step size of nlms, below 2 (default: {NLMS_RATE:g}), or of lms (no default, because "
        "the limit depends on the level of the references)",
    )
    add_option(
        parser,
        "--forgetting",
        lambda text: number(text, 0.5, 1.0),
        "0.5 to 1",
        metavar="F",
        help="forgetting factor of rls, 0.5 to 1; its memory is 1 / (1 - F) samples "
        f"(default: {RLS_FORGETTING:g})",
    )
    parser.set_defaults(filter_option=option)


def chosen_filter(options: argparse.Namespace) -> "FilterSettings | None":
    """Return the filter that options choose; None if they choose none.

    Raises:
        UserError: an option belongs to another filter, is missing, or is out of range.
    """
    name, taps, rate, forgetting = options.filter, options.taps, options.rate, options.forgetting
    if name is None:
        for option in ("taps", "rate", "forgetting"):
            if getattr(options, option) is not None:
                raise UserError(f"--{option} requires {options.filter_option}")
        return None
    if name == "rls" and rate is not None:
        raise UserError("--rate: an option of lms and nlms; rls takes --forgetting")
    if name != "rls" and forgetting is not None:
        raise UserError(f"--forgetting: an option of rls; {name} takes --rate")
    if name == "lms" and rate is None:
        raise UserError(
            f"{options.filter_option} lms requires --rate: no value is safe for all references; "
            "nlms has a default"
        )
    if name == "nlms" and rate is not None and rate >= 2:
        raise UserError(f"--rate {rate:g}: nlms diverges; must be below 2")
    # Imports numba, which takes a moment.
    from sop.denoise.settings import LmsSettings, NlmsSettings, RlsSettings

    taps = taps or TAPS
    if name == "rls":
        return RlsSettings(taps, forgetting or RLS_FORGETTING)
    return LmsSettings(taps, rate) if name == "lms" else NlmsSettings(taps, rate or NLMS_RATE)


def _model(text: str) -> str:
    if not text:
        raise UserError("--model: empty; name a file or folder")
    return text
