"""Short videos of ten instruments and of talkers, rendered offline with stems and boxes."""

from sop.download.synthetic.render import TALKER, PlannedVideo, plan, render
from sop.download.synthetic.timbre import INSTRUMENTS
from sop.download.synthetic.truth import Truth, read_truth

__all__ = ["INSTRUMENTS", "TALKER", "PlannedVideo", "Truth", "plan", "read_truth", "render"]
