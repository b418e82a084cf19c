"""A day from its manifest to its published rows: plan, run state, lock, retries, progress, publishing."""
