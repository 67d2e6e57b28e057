"""Infrastructure that no output depends on: errors, files, progress, processes, workers."""
