"""What the commands of all jobs have in common: their log, and how an error becomes an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Final

from msmtfn.errors import JobError

logger = logging.getLogger(__name__)

EXIT_DONE: Final = 0


def start_log() -> None:
    """Log to stderr, with the time of each line; the requests of the hub's client are left out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def exit_code_of(error: JobError) -> int:
    """The exit code that an error ends a job with; its message goes to the log."""
    logger.error("%s", error)
    return error.exit_code


def run_command(run: Callable[[], int | None]) -> int:
    """Run a job with its log.

    Args:
        run: the job; it gives an exit code, or nothing where it is done.

    Returns:
        The exit code.
    """
    start_log()
    try:
        return run() or EXIT_DONE
    except JobError as exc:
        return exit_code_of(exc)
