"""Stage `validate`: check params.yaml, and the files and folders that it names.

All other stages depend on its output. DVC removes what an earlier run of a stage made before it
starts the stage, so a mistake must be found before that.
"""

from pathlib import Path

from sop.params import load_params
from sop.runtime.files import write_text
from sop.runtime.stage import run_stage
from sop.validate.checks import check

# Always the same, so that no stage runs again because params.yaml was validated again.
VALIDATED = "params.yaml was valid, and what it names was there.\n"


def main() -> None:
    check(load_params())
    write_text(Path("data/validated.txt"), VALIDATED)


if __name__ == "__main__":
    run_stage("validate", main, __doc__)
