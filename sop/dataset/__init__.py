"""What training and evaluation read: clips on disk, the index, mixtures."""
