"""The pixel player: a page that plays the sound of any pixel of a clip."""
