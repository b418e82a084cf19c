"""Transcribe days of recorded sales calls and publish the transcripts: `msmtfn transcribe-daily`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
