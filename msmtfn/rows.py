"""The column that identifies a call in every table, from the copy of the manifest to the parts of the leads."""

from typing import Final

ROW_ID: Final = "row_id"
"""Number of the call within its day, from 0; Ray Data's checkpoint records by it which calls are committed."""
