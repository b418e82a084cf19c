"""What all commands have in common: the log, the exit code of an error, and the last line of the output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from msmtfn.errors import JobError

logger = logging.getLogger(__name__)

EXIT_DONE: Final = 0


def start_log() -> None:
    """Log to stderr with a timestamp on each line, without the requests of the hub's client."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def exit_code_of(error: JobError) -> int:
    """Log an error and return the exit code that it ends a job with."""
    logger.error("%s", error)
    return error.exit_code


def print_result(command: str, exit_code: int, **content: Any) -> None:
    """Print the last line of a job's output: JSON, for log collectors.

    Args:
        command: the job, such as `score_daily`.
        exit_code: of the process.
        content: what else there is to say: `days`, or `error`.
    """
    print(json.dumps({"job": command, "exit_code": exit_code, **content}), flush=True)


def run_command(run: Callable[[], int | None], job: str | None = None) -> int:
    """Run a job with its log and return its exit code.

    Args:
        run: the job, which returns an exit code, or None where it is done.
        job: its name in the last line of the output; without it there is no such line.
    """
    start_log()
    said = {}
    try:
        code = run() or EXIT_DONE
    except JobError as exc:
        code = exit_code_of(exc)
        said["error"] = str(exc)
    if job is not None:
        print_result(job, code, **said)
    return code
