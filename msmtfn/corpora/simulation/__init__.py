"""Simulation of labelled sales calls for which the best possible accuracy is known."""
