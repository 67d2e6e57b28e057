"""ffmpeg: run on files that are not trusted, and one decode of a video to frames and sound."""
