"""Command line of msmtfn: arguments -> configuration -> one function call -> exit code.

`main` is the command `msmtfn`; the scripts in `jobs/` call `run_script`. A command's module is imported only when the
command runs, so that incompatible packages end in a one-line error and not in a traceback.
"""

from msmtfn.cli.commands import COMMANDS, main, run_script

__all__ = ["COMMANDS", "main", "run_script"]
