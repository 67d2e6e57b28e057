"""Errors that the user can fix, and the exit status of a program."""

import io
import os
import sys
from collections.abc import Callable

from sop.runtime.log import printable, show_log

# Packages of the optional dependencies in pyproject.toml, and the extra that installs them.
EXTRAS = {
    **dict.fromkeys(("cloudpickle", "distributed"), "cluster"),
    **dict.fromkeys(("dvc", "dvclive", "matplotlib", "pandas", "pygit2", "scmrepo"), "pipeline"),
    **dict.fromkeys(("jinja2", "markupsafe", "vl_convert"), "report"),
    "threadpoolctl": "pipeline",
    "yt_dlp": "youtube",
}


class UserError(Exception):
    """An error that the user can fix: one line with the file or key, the problem and the remedy."""


class LeftOut(Exception):
    """One video cannot be used; the others are processed. The message is the reason."""


class LeftOutForNow(LeftOut):
    """A video cannot be used this time; the next run tries again."""


class NoNetwork(LeftOutForNow):
    """The server of a video could not be reached."""


def run(
    main: Callable[[], int | None], interrupted: str = "the next run continues from here"
) -> None:
    """Run a program to its exit status; a user's mistake ends in one line, a bug in a traceback.

    Args:
        main: the program.
        interrupted: what the message after Ctrl-C says about the work done so far.

    Exit status: 2 after a `UserError` or if an extra is not installed, 130 after Ctrl-C, 141 if the
    reader of the output has ended, as in `sop summary | head`, else what `main` returns.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal may lack letters of a name; its encoding must not end the program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    show_log()
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        sys.exit(141)
    except UserError as error:
        message, status = f"error: {error}", 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        advice = f'run `pip install "sound-of-pixels[{extra}]"`'
        message, status = f"error: {error.name} is not installed; {advice}", 2
    except KeyboardInterrupt:
        message, status = f"interrupted; {interrupted}", 130
    print(printable(message), file=sys.stderr)
    sys.exit(status)


def _output_is_closed() -> bool:
    """Tell whether nothing reads the output; if so, the rest of it is discarded."""
    try:
        # Whether a pipe is read shows only when something is written to it.
        print(flush=True)
    except BrokenPipeError:
        # Python writes what is left at its end, which would be an error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
