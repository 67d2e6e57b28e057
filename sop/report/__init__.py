"""Stage `report`: the page of a run, and the comparison of two revisions."""
