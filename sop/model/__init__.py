"""The networks, their spectrogram, their checkpoints and the published weights."""
