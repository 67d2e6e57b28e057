"""BSS Eval of a separated mixture and of the mixture itself: ours against mir_eval's.

Run: python -m benchmarks.bss_eval
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import mir_eval
import numpy as np
from scipy.signal import lfilter

from benchmarks.machine import environment
from sop.evaluate.measures import bss_eval

SAMPLES = 65280  # a clip of the published settings, 5.9 s at 11025 Hz
REPEATS = 10
CEILING_DB = 100.0


def main() -> None:
    """Print the times per mixture of both on the same sounds, and the largest difference."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    ours, theirs, differences = [], [], []
    for _ in range(REPEATS):
        references = lfilter([1], [1, -0.95], rng.standard_normal((2, SAMPLES)))
        mixture = np.broadcast_to(references.sum(axis=0), references.shape)
        estimates = references + 0.3 * references[::-1] + 0.1 * rng.standard_normal((2, SAMPLES))
        sets = np.stack([estimates, mixture])
        seconds, scores = timed(lambda r=references, s=sets: bss_eval(r, s))
        ours.append(seconds)
        seconds, expected = timed(
            lambda r=references, s=sets: [
                mir_eval.separation.bss_eval_sources(r, one, compute_permutation=False)[:3]
                for one in s
            ]
        )
        theirs.append(seconds)
        # A mixture has no artifacts but rounding errors, so both SARs are practically infinite.
        ours_db = np.stack(scores, axis=1).clip(-CEILING_DB, CEILING_DB)
        theirs_db = np.array(expected).clip(-CEILING_DB, CEILING_DB)
        differences.append(np.abs(ours_db - theirs_db).max())
    print("| | ms per mixture (median) |")
    print("| --- | --- |")
    print(f"| mir_eval | {1000 * np.median(theirs):.0f} |")
    print(f"| sop.evaluate.measures.bss_eval | {1000 * np.median(ours):.0f} |")
    print(f"| ratio | {np.median(np.array(theirs) / np.array(ours)):.1f} |")
    print(f"| largest difference | {max(differences):.1e} dB |")
    print(f"\n{environment()}")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `work` takes, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
