"""The transcription graph on Ray Data, and what only it needs."""
