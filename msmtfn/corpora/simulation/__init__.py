"""Simulates labelled sales calls of which it is known how much can be learned."""
