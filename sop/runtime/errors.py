"""Errors that the user can fix, and the exit status of a program."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sop.runtime.log import printable, show_log

# Packages of the optional dependencies in pyproject.toml, and the extra that installs them.
EXTRAS = {
    **dict.fromkeys(("cloudpickle", "distributed"), "cluster"),
    **dict.fromkeys(("dvc", "dvclive", "matplotlib", "pandas", "pygit2", "scmrepo"), "pipeline"),
    **dict.fromkeys(("jinja2", "markupsafe", "vl_convert"), "report"),
    "threadpoolctl": "pipeline",
    "yt_dlp": "youtube",
}

# Errors of a disk that cannot take what is written; reading does not end in one of these.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# What to do about an error of writing; the folder replaces the braces.
_REMEDIES = {
    errno.ENOSPC: "free some space on the disk of {}, then run again",
    errno.EDQUOT: "free some space on the disk of {}, then run again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), then run again",
    errno.EROFS: "make {} writable, or use another folder",
    errno.EACCES: "make {} writable, or use another folder",
    errno.EPERM: "make {} writable, or use another folder",
}


class UserError(Exception):
    """An error that the user can fix: one line with the file or key, the problem and the remedy."""


class NotWritable(UserError):
    """A file cannot be written: the disk is full or read-only, or the permission is missing.

    Args:
        path: the file or folder.
        error: of the system.
        advice: what to do about it; empty for the usual advice.
    """

    def __init__(self, path: Path, error: OSError, advice: str = "") -> None:
        # The arguments, from which a process makes the exception of another again.
        super().__init__(path, error, advice)
        self.path = path
        self.error = error
        self.advice = advice

    def __str__(self) -> str:
        """Return the one line."""
        folder = self.path if self.path.is_dir() else self.path.parent
        usual = _REMEDIES.get(self.error.errno or 0, "use another name or folder")
        advice = self.advice or usual.format(folder.absolute())
        return f"{self.path}: cannot be written ({self.error.strerror or self.error}); {advice}"


class LeftOut(Exception):
    """One video cannot be used; the others are processed. The message is the reason."""


class LeftOutForNow(LeftOut):
    """A video cannot be used this time; the next run tries again."""


class NoNetwork(LeftOutForNow):
    """The server of a video could not be reached."""


def disk_error(error: BaseException) -> NotWritable | OSError | None:
    """Return the first error of a disk that led to an error; None if there was none.

    A library may raise an error of its own while it handles that of the disk, as PyTorch does.
    """
    found: NotWritable | OSError | None = None
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, NotWritable):
            found = at
        elif isinstance(at, OSError) and at.errno in DISK_ERRORS:
            found = found if isinstance(found, NotWritable) else at
        at = at.__cause__ or at.__context__
    return found


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; its argument is the signal's number."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Treat SIGTERM and the end of the terminal like Ctrl-C: temporary files are removed."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    # A signal that is ignored, as by nohup, stays so.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def run(
    main: Callable[[], int | None], interrupted: str = "the next run continues from here"
) -> None:
    """Run a program to its exit status; a user's mistake ends in one line, a bug in a traceback.

    Args:
        main: the program.
        interrupted: what the message after Ctrl-C says about the work done so far.

    Exit status: 2 after a `UserError`, if a disk is full or an extra is not installed; 128 plus the
    number of the signal after Ctrl-C (130) or a signal of `stoppable`; 141 if the reader of the
    output has ended, as in `sop summary | head`; else what `main` returns.
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
    except KeyboardInterrupt as stop:
        number = stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT
        message, status = f"interrupted; {interrupted}", 128 + number
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        if isinstance(found, OSError):
            # `writing` names the file of what this project writes; the rest is mostly printed.
            advice = "" if found.filename else "free some space, or redirect the output"
            found = NotWritable(Path(found.filename or "the output or a file"), found, advice)
        message, status = f"error: {found}", 2
    print(printable(message), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    sys.exit(status)


def _output_is_closed() -> bool:
    """Tell whether nothing reads the output; if so, the rest of it is discarded."""
    try:
        # Whether a pipe is read shows only when something is written to it.
        print(flush=True)
    except BrokenPipeError:
        _discard_output()
        return True
    return False


def _discard_output() -> None:
    """Discard what is not written yet: Python would write it at its end, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
