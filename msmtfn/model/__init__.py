"""Knows what a call means: the network of the paper, its encoders and its checkpoint, which is all it reads."""
