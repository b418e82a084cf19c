"""The network run over prepared calls; plain callables, no Ray."""
