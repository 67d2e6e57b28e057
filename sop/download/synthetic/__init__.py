"""Short videos of ten instruments, rendered offline with ground truth: stems and boxes."""

from sop.download.synthetic.render import PlannedVideo, plan, render
from sop.download.synthetic.timbre import INSTRUMENTS
from sop.download.synthetic.truth import Truth, read_truth

__all__ = ["INSTRUMENTS", "PlannedVideo", "Truth", "plan", "read_truth", "render"]
