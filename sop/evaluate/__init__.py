"""Stage `evaluate`: measures of separation and localization, and the files that it writes."""
