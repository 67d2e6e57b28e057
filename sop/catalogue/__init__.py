"""Models by name: where they are, how they are fetched, described and shared."""
