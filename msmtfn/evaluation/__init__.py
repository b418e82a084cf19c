"""Labelled calls, a model judged on them, and the metrics."""
