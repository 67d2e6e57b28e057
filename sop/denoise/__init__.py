"""Stage `denoise`: adaptive filters and masks applied to the separated sounds."""
