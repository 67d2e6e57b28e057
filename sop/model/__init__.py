"""The networks, their spectrograms, and checkpoint files."""
