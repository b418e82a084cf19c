"""MSMT-FN: score yesterday's sales calls, so that the best leads are rung back first."""

__version__ = "0.2.0"
