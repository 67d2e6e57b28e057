"""Measurements: each script measures one thing and prints one table."""
