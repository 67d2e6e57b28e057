"""Stage `train`: the training run, its resume checkpoint, its processes and its monitor."""
