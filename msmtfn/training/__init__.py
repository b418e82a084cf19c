"""Training of the network: labelled calls, recipe, training loop, metrics, and the job on Ray Train."""
