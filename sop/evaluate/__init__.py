"""Stage `evaluate`: measures of separation, and the files of the stage."""
