"""Stage `train`: training loop, initial weights, resuming, distributed training and monitoring."""
