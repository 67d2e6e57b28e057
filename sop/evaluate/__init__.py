"""Stage `evaluate`: measures of separation and localization, and the files of the stage."""
