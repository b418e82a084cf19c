"""Knows what a call means: the network of the paper and its baseline, their encoders and checkpoints."""
