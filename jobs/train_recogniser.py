"""Train the demo's recogniser on a simulated corpus: `msmtfn train-recogniser`."""

import sys

from msmtfn.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
