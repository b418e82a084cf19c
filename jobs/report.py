"""Make the page and the table of customers of a published day again: `msmtfn report`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
