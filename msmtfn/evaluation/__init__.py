"""Evaluation of a model on labelled calls."""
