"""The program `python -m sop`, the same as `sop`."""

from sop.cli.main import program

program()
