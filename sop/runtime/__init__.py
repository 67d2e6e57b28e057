"""What all code runs on and no output depends on: errors, files, progress, processes, workers."""
