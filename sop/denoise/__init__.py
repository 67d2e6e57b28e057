"""Stage `denoise`: adaptive filters and masks that suppress residual interference."""
