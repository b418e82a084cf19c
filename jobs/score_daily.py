"""Score days of recorded sales calls and publish their leads: `msmtfn score-daily`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
