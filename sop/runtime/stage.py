"""What every stage does around its work: it holds a lock and records how it went."""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from sop.runtime.errors import UserError, run
from sop.runtime.files import write_json
from sop.runtime.locks import exclusive
from sop.runtime.log import printable

# Not an output of DVC: no two runs take equally long. The report shows notes with their origin.
NOTES = Path("data/notes")

LOCKS = Path("data/locks")


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


def run_stage(
    name: str, main: Callable[[], int | None], description: str = "", locked: bool = True
) -> None:
    """Run a stage as `sop.runtime.errors.run` does, and write a note of how it went.

    Args:
        name: of the stage.
        main: its work.
        description: what `--help` prints, first a short line; without it no arguments are read.
        locked: whether to hold `stage_lock` meanwhile; otherwise `main` does.
    """
    if description:
        parser = argparse.ArgumentParser(
            prog=f"python -m stages.{name}",
            description=description,
            epilog="It has no arguments; its parameters are in params.yaml. "
            f"`dvc repro {name}` also runs the stages that it depends on.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.parse_args()

    def noted() -> int | None:
        began = time.monotonic()
        error = "it was stopped"
        try:
            with stage_lock(name) if locked else nullcontext():
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


def stage_lock(name: str) -> AbstractContextManager[None]:
    """Hold the lock of a stage, and thereby of the folders that it writes, in a block.

    Raises:
        UserError: another process runs the stage in this repository.
    """
    return exclusive(LOCKS / name, name, host_name(), timestamp())


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
