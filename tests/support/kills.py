"""Run a function again and again in forked processes that are killed at random moments.

Forks share the modules that are imported already, so that kills meet the work and not the imports.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Executed before the script, which calls `kill_after` for each of its runs.
PREAMBLE = """
import os, random, signal, sys, time

rng = random.Random(0)
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def kill_after(run, longest, wait_until=None):
    '''Fork, run, and kill after at most `longest` seconds; return whether the run had ended.

    With `wait_until`, wait up to a minute until it returns true, so that kills on a slow machine
    meet the work, too.
    '''
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run()
        os._exit(0)
    time.sleep(rng.uniform(0.0, longest))
    until = time.monotonic() + 60
    while wait_until and time.monotonic() < until and os.waitid(os.P_PID, child, ENDED) is None:
        if wait_until():
            break
        time.sleep(0.01)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.waitpid(child, 0)[1] == 0
"""


def run_killed(script: str, *arguments: object, timeout: float = 900) -> str:
    """Run a script after the preamble in a process of its own and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    ).stdout
