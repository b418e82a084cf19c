"""Runs the network over a day of calls: the graph, the stage before the network and the actor that holds it."""
