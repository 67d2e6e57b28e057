"""Measurements: each script measures one subject and prints tables."""
