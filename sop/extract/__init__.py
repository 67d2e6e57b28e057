"""Stage `extract`: one decode of each video to a zip of frames and a mono WAV file."""
