"""The scoring graph on Ray Data, and the counters of a run."""
