"""What the network reads of a call: samples and tokens of its rounds, made in a process that may die."""
