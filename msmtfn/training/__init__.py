"""Makes models: data, recipe, loop, metrics, and the job on Ray Train."""
