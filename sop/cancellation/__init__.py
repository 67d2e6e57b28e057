"""Adaptive noise cancellation of sound files."""
