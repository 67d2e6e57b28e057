"""Run ffmpeg on untrusted files, and decode a video to frames and sound."""
