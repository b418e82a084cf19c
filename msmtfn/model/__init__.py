"""Knows what a call means: the network of the paper, its baseline, their encoders and checkpoints, which are all it reads."""
