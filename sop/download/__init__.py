"""Stage `download`: the sources of videos, and one folder with all of them."""
