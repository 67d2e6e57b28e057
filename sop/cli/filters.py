"""The options that choose an adaptive filter, for the commands `separate` and `denoise`."""

import argparse
from typing import TYPE_CHECKING, Any

from sop.runtime.errors import UserError

if TYPE_CHECKING:
    from sop.denoise.settings import FilterSettings

TAPS = 64
# A memory of 0.2 s at 44.1 kHz: long enough to lose little of the wanted sound, of which the filter
# removes about taps * (1 - forgetting) / 2, here -25 dB; short enough to follow a moving source.
# For a violin under noise or an accordion, 2 s were 9 dB worse where the path changed over seconds,
# and 0.02 s up to 4 dB worse where the noise was music.
RLS_FORGETTING = 0.9999
NLMS_RATE = 0.01


def add_filter_options(
    parser: argparse.ArgumentParser, option: str, default: str | None, text: str
) -> None:
    """Add an option that chooses a filter, and the options of the filters.

    Args:
        parser: parser of the command.
        option: name of the option that chooses the filter.
        default: default of that option; None filters nothing.
        text: help of that option.
    """
    parser.add_argument(
        option, dest="filter", choices=("lms", "nlms", "rls"), default=default, help=text
    )
    parser.add_argument(
        "--taps",
        type=_taps,
        metavar="N",
        help=f"length of the filter for each reference, in samples (default: {TAPS}, in which "
        "sound travels half a metre at 44.1 kHz)",
    )
    parser.add_argument(
        "--rate",
        type=_number("--rate"),
        metavar="R",
        help=f"step size of nlms, below 2 (default: {NLMS_RATE:g}), or of lms (no default, because "
        "the limit depends on the level of the references)",
    )
    parser.add_argument(
        "--forgetting",
        type=_number("--forgetting"),
        metavar="F",
        help="forgetting factor of rls, 0.5 to 1; its memory is 1 / (1 - F) samples "
        f"(default: {RLS_FORGETTING:g})",
    )
    parser.set_defaults(filter_option=option)


def check_filter_options(options: argparse.Namespace) -> None:
    """Check that the options fit the chosen filter, and set the defaults of its options.

    Raises:
        UserError: an option belongs to another filter, is missing, or is out of range.
    """
    name, rate, forgetting = options.filter, options.rate, options.forgetting
    if name is None:
        for option in ("taps", "rate", "forgetting"):
            if getattr(options, option) is not None:
                raise UserError(f"--{option} requires {options.filter_option}")
        return
    if options.taps is None:
        options.taps = TAPS
    if name == "rls":
        if rate is not None:
            raise UserError("--rate: an option of lms and nlms; rls takes --forgetting")
        options.forgetting = RLS_FORGETTING if forgetting is None else forgetting
        if not 0.5 <= options.forgetting <= 1:
            raise UserError(f"--forgetting {options.forgetting:g}: must be 0.5 to 1")
        return
    if forgetting is not None:
        raise UserError(f"--forgetting: an option of rls; {name} takes --rate")
    if name == "nlms" and rate is None:
        options.rate = NLMS_RATE
    elif rate is None:
        raise UserError(
            f"{options.filter_option} lms requires --rate: no value is safe for all references; "
            "nlms has a default"
        )
    elif not 0 < rate < float("inf"):
        raise UserError(f"--rate {rate:g}: must be a positive number")
    elif name == "nlms" and rate >= 2:
        raise UserError(f"--rate {rate:g}: nlms diverges; must be below 2")


def filter_setting(options: argparse.Namespace) -> "FilterSettings | None":
    """Return the filter that checked options choose; None if they choose none."""
    # Imports numba, which takes a moment.
    from sop.denoise.settings import LmsSettings, NlmsSettings, RlsSettings

    if options.filter is None:
        return None
    if options.filter == "rls":
        return RlsSettings(options.taps, options.forgetting)
    settings = LmsSettings if options.filter == "lms" else NlmsSettings
    return settings(options.taps, options.rate)


def _taps(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError(f"--taps {text}: must be a whole number, 1 or more")
    return int(text)


def _number(option: str) -> Any:
    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{option} {text}: not a number") from None

    return number
