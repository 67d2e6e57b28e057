"""Stage `extract`: decode each video to a zip of frames and a mono WAV file."""
