"""Inference on a recording of any length: embedding, localization, separation."""
