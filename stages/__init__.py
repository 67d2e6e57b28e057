"""The DVC stages: each reads its parameters, calls `sop` and writes its outputs."""
