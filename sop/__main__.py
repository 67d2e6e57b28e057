"""`python -m sop`."""

from sop.cli.main import main
from sop.runtime.errors import run

run(main, interrupted="nothing was left half-written")
