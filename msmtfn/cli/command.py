"""Shared parts of all commands: logging, signals, the exit codes of errors and the last line of the output."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Final

import tyro
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from msmtfn.errors import JobError, UsageError, format_trace
from msmtfn.storage.untrusted import escape_controls, printable

logger = logging.getLogger(__name__)

EXIT_DONE: Final = 0
SIGNAL_EXIT_CODE: Final = 128
"""The exit code of a job that a signal ends is this plus the signal's number, as in a shell."""

BROKEN_PIPE: Final = SIGNAL_EXIT_CODE + signal.SIGPIPE
"""The exit code of a job that nobody reads any more, as in `… --help | head`."""
PARSER_OPTIONS: Final = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
"""How command lines are parsed: options have short names, and one without a value is left out rather than `None`."""

LOG_WIDTH: Final = 240
"""Columns of tables where the output is no terminal: wide enough that no id or path is cut."""


class Terminated(KeyboardInterrupt):
    """Exception raised in the main thread by SIGTERM, so that the job cleans up as after Ctrl-C."""


class SafeConsole(Console):
    """Console that shows what others wrote as it is: it takes no markup and escapes control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        if not (self.is_terminal or "width" in options or "COLUMNS" in os.environ):
            self.width = LOG_WIDTH

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
    """Log to stderr with timestamps, without the HTTP requests of the Hugging Face client.

    Characters that the locale cannot write are escaped on both streams, where they would end the job.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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


def run_command(run: Callable[[], int | None], job: str | None = None, content: dict[str, Any] | None = None) -> int:
    """Run a job with logging, signals and error handling, and return its exit code.

    Args:
        run: function that does the work and returns an exit code, or None for success.
        job: name of the job in the last line of the output; None prints no such line.
        content: further entries of the last line; read when `run` has ended, so it may fill them.

    A signal ends the process here, once `run` has cleaned up.

    Raises:
        SystemExit: the help was shown.
    """
    start_log()
    errors: dict[str, Any] = {}
    try:
        with _raise_on_sigterm():
            code = run() or EXIT_DONE
    except KeyboardInterrupt as exc:
        code = _exit_code_of_signal(exc)
        errors["error"] = "stopped by a signal; run the same command again"
        logger.error("%s", errors["error"])
    except SystemExit as exc:  # the parser of the command line has written what is wrong, or the help
        if not exc.code:
            raise
        if exc.code == UsageError.exit_code:
            code, errors["error"] = UsageError.exit_code, "the command line cannot be used; see the message above"
        else:
            code, errors["error"] = JobError.exit_code, f"something ended the process ({printable(exc.code)})"
        logger.error("%s", errors["error"])
    # The edge of the job: whatever happens, its last line is JSON with the cause.
    except Exception as exc:
        code, errors["error"] = (BROKEN_PIPE, "") if _is_unread(exc) else describe_error(exc)
    if job is not None and code != BROKEN_PIPE:
        try:
            print_result(job, code, **(content or {}), **errors)
        except BrokenPipeError:
            code = BROKEN_PIPE
    if code > SIGNAL_EXIT_CODE:
        # Threads of Ray Data may still be at work; an orderly exit could wait for them, or end with their exit code.
        logging.shutdown()
        os._exit(code)
    return code


def describe_error(exc: Exception) -> tuple[int, str]:
    """Log an exception that ends a job, or one of its days; return the exit code and the cause in one line."""
    if isinstance(exc, JobError):
        return exit_code_of(exc), str(exc)
    # An error of the operating system names a file and a reason; other messages may quote a transcript.
    cause = f"{type(exc).__name__}: {exc}" if isinstance(exc, OSError) else type(exc).__name__
    logger.error("%s", format_trace(exc))
    logger.error("unexpected %s", cause)
    return JobError.exit_code, f"unexpected {cause}; the stack trace is in the log"


def _is_unread(exc: Exception) -> bool:
    """Tell whether an exception is of the standard output, whose reader has ended."""
    if not isinstance(exc, BrokenPipeError):
        return False
    output = select.poll()
    output.register(1, 0)  # whatever stands for the standard output in Python may have no descriptor
    return any(event & select.POLLERR for _, event in output.poll(0))


def _exit_code_of_signal(exc: KeyboardInterrupt) -> int:
    return SIGNAL_EXIT_CODE + (signal.SIGTERM if isinstance(exc, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the main thread on SIGTERM; a second SIGTERM ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
