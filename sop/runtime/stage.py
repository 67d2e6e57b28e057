"""What every stage does around its work: it records how it went, and reports errors in one line."""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from sop.runtime.errors import UserError, run
from sop.runtime.files import write_json
from sop.runtime.log import printable

# Not an output of DVC: no two runs take equally long. The report shows notes with their origin.
NOTES = Path("data/notes")


@dataclass(frozen=True)
class StageNote:
    """How the last run of a stage went; the defaults stand for unknown values."""

    seconds: float | None = None
    """Duration of the run."""
    peak_mib: int | None = None
    """Peak memory of its largest process."""
    ended: str = "unknown time"
    """Time at which the run ended, as `timestamp` writes it."""
    host: str = "unknown host"
    """Name of the machine that it ran on."""
    error: str = ""
    """Reason of its failure; empty if it succeeded."""


def run_stage(name: str, main: Callable[[], int | None]) -> None:
    """Run a stage as `sop.runtime.errors.run` does, and write a note of how it went.

    Args:
        name: of the stage.
        main: its work.
    """

    def noted() -> int | None:
        began = time.monotonic()
        error = "it was stopped"
        try:
            status = main()
            error = f"it ended with status {status}" if status else ""
            return status
        except Exception as mistake:
            kind = "" if isinstance(mistake, UserError) else f"{type(mistake).__name__}: "
            error = printable(f"{kind}{mistake}")
            raise
        finally:
            seconds = round(time.monotonic() - began, 2)
            note = StageNote(seconds, _peak_mib(), timestamp(), host_name(), error)
            # A note that cannot be written must not fail the stage.
            with suppress(UserError):
                write_json(NOTES / f"{name}.json", asdict(note))

    run(noted)


def read_note(name: str) -> StageNote:
    """Read how the last run of a stage went."""
    try:
        return StageNote(**json.loads((NOTES / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return StageNote()


def timestamp() -> str:
    """Return the current time as `2026-11-27 10:12 UTC`."""
    return f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"


def host_name() -> str:
    """Return the name of this machine."""
    return platform.node() or StageNote.host


def _peak_mib() -> int:
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in processes)
    # KiB, but bytes on macOS.
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))
