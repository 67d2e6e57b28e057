"""Stage `localize`: measures of localization, on videos with known positions and sounds."""
