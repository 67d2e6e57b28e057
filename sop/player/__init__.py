"""The pixel player: a page on which any pixel of a clip can be heard."""
