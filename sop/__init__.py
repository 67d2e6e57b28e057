"""The Sound of Pixels: learn from unlabeled videos which pixels make which sound."""
