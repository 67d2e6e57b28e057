"""Stage `download`: sources of videos, and their download into one folder."""
