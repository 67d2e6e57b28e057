"""The command `denoise`."""

import argparse
from typing import Any

from sop.cli.options import add_filter_options, add_path_option, chosen_filter, path_of
from sop.runtime.files import require_file, require_place
from sop.runtime.log import say


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "denoise",
        help="remove noise from a recording with recordings of the noise",
        description="Adaptive noise cancellation: remove the part of a recording that other "
        "recordings, made at the same time, predict. The references should contain the noise and "
        "little of the wanted sound; the noise must not reach them later than the target. All "
        "files need the same sample rate and length. Each channel of the target is filtered with "
        "all channels of all references.",
    )
    parser.add_argument(
        "target", type=path_of("TARGET"), metavar="TARGET", help="WAV, FLAC, Ogg, MP3, ..."
    )
    parser.add_argument(
        "references",
        type=path_of("REFERENCE"),
        nargs="+",
        metavar="REFERENCE",
        help="recording of the noise",
    )
    add_path_option(parser, "--out", "CLEAN.wav", "file for the result, 32-bit float samples")
    add_filter_options(parser, "--filter", "rls", "adaptive filter (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the filtered recording and print how much quieter it is."""
    for path in (options.target, *options.references):
        require_file(path)
    require_place(options.out, "file")
    setting = chosen_filter(options)
    assert setting is not None

    # Imports SciPy and numba, which takes a moment.
    from sop.cancellation.recordings import cancel

    cancelled = cancel(options.target, options.references, options.out, setting)
    for note in cancelled.notes:
        say(f"NOTE {note}")
    decibels = cancelled.decibels
    change = f"{decibels:.1f} dB quieter than the input"
    if decibels < 0:
        change = f"{-decibels:.1f} dB louder than the input: the references do not predict it"
    say(f"{options.out}: {change}")
    return 0
