"""`python -m sop`."""

from sop.cli import main
from sop.errors import run

run(main, interrupted="nothing was left half-written")
