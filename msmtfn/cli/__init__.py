"""The command line: arguments -> configuration -> one call -> exit code.

`main` is the command `msmtfn`, and `run_script` is what the scripts in `jobs/` call. A command's module is imported
only when the command runs, so that packages that do not fit each other end in one line and not in a traceback.
"""

from msmtfn.cli.commands import COMMANDS, main, run_script

__all__ = ["COMMANDS", "main", "run_script"]
