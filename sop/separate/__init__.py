"""What `sop separate` writes: the sound of each region, an overlay, a remix."""
