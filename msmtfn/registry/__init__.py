"""Versions of a model: which of them becomes the current one."""
