"""How calls come in: the manifest, its recordings and their rounds."""
