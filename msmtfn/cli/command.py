"""Shared parts of all commands: logging, the exit codes of errors and the last line of the output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from msmtfn.errors import JobError
from msmtfn.storage.untrusted import escape_controls

logger = logging.getLogger(__name__)

EXIT_DONE: Final = 0


class SafeConsole(Console):
    """Console that shows what others wrote as it is: it takes no markup and escapes control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; its own control sequences are segments of their own and stay."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(segment.text, kept="\n")
            yield segment._replace(text=text)


class SafeFormatter(logging.Formatter):
    """Formatter that escapes control characters and indents all but the first line of an event.

    So a message that quotes what others wrote can neither control the terminal nor look like another event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format an event."""
        return escape_controls(super().format(record), kept="\n").replace("\n", "\n    ")


def start_log() -> None:
    """Log to stderr with timestamps, without the HTTP requests of the Hugging Face client."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def exit_code_of(error: JobError) -> int:
    """Log an error and return the exit code of the job that it ends."""
    logger.error("%s", error)
    return error.exit_code


def print_result(command: str, exit_code: int, **content: Any) -> None:
    """Print the last line of a job's output: JSON, for log collectors.

    Args:
        command: name of the job, such as `score_daily`.
        exit_code: exit code of the process.
        content: further entries, such as `days` or `error`.
    """
    print(json.dumps({"job": command, "exit_code": exit_code, **content}), flush=True)


def run_command(run: Callable[[], int | None], job: str | None = None) -> int:
    """Run a job with logging and error handling, and return its exit code.

    Args:
        run: function that does the work and returns an exit code, or None for success.
        job: name of the job in the last line of the output; None prints no such line.
    """
    start_log()
    content = {}
    try:
        code = run() or EXIT_DONE
    except JobError as exc:
        code = exit_code_of(exc)
        content["error"] = str(exc)
    if job is not None:
        print_result(job, code, **content)
    return code
