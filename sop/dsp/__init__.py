"""Signal processing: spectrograms, masks and the way back to sound."""
