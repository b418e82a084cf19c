"""Export the leads or customers of a published day for a CRM: `msmtfn export`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
