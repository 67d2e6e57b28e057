"""`python -m sop`."""

from sop.cli import main
from sop.errors import run

run(main)
