"""Videos, clips on disk, lists and mixtures: the data side of the pipeline."""
