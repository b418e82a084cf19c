"""Input of calls: the manifest, the recordings it lists and the rounds they are cut into."""
