"""Adaptive noise cancellation of recordings."""
