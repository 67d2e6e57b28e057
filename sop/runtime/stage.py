"""What every stage does around its work: it says how long it took, and fails in one line."""

import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sop.runtime.errors import UserError, run
from sop.runtime.files import write_json

# No output: no two runs take equally long. Of this machine, for the report.
NOTES = Path("data/notes")


def run_stage(name: str, main: Callable[[], int | None]) -> None:
    """Run a stage to its exit status, as `sop.runtime.errors.run`, and leave a note of how it went.

    Args:
        name: of the stage.
        main: what it does.
    """

    def noted() -> int | None:
        began = time.monotonic()
        error = "it was stopped"
        try:
            status = main()
            error = f"it ended with status {status}" if status else ""
            return status
        except UserError as mistake:
            error = str(mistake)
            raise
        except Exception as mistake:
            error = f"{type(mistake).__name__}: {mistake}"
            raise
        finally:
            _write_note(name, time.monotonic() - began, error)

    run(noted)


def read_note(name: str) -> dict[str, Any]:
    """How a stage went the last time; empty if nobody knows."""
    try:
        note = json.loads((NOTES / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(name: str, seconds: float, error: str) -> None:
    kibibytes = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    note = {
        "seconds": round(seconds, 2),
        # Of the largest process. macOS counts in bytes.
        "peak_mib": round(kibibytes / (1024 if sys.platform != "darwin" else 1024**2)),
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "error": error,
    }
    try:
        write_json(NOTES / f"{name}.json", note)
    except OSError:
        # No work is lost for want of a note.
        return
