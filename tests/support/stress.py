"""How often stress tests repeat: a few times by default, the full numbers with SOP_STRESS=1."""

import os


def repeats(default: int, stress: int) -> int:
    """Return the number of repeats: `stress` if the environment sets SOP_STRESS=1."""
    return stress if os.environ.get("SOP_STRESS") == "1" else default
