"""The columns of the leads, their ranking, and what has drifted."""
