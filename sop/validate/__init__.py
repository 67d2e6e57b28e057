"""Stage `validate`: checks that come before all work."""
