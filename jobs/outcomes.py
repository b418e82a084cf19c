"""Compare the leads with what became of them: `msmtfn outcomes`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
