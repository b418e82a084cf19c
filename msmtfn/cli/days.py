"""What the daily commands share: which days are due, what would be done, each day's result, and the exit code."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import tyro
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.cli.command import EXIT_DONE, PARSER_OPTIONS, describe_error, run_command
from msmtfn.daily.day import DayPlan, count_done
from msmtfn.daily.lock import find_holder
from msmtfn.daily.publish import read_success
from msmtfn.daily.retry import count_retryable
from msmtfn.daily.runner import DayGraph, DayRunner
from msmtfn.daily.schedule import estimate_day, newest_unscored_day, other_unscored_days
from msmtfn.daily.state import RunState
from msmtfn.daily.success import Success
from msmtfn.errors import JobError, LockedError, UsageError

EXIT_TOO_MANY_REJECTED: Final = 3
EXIT_CODES_BY_SEVERITY: Final = (JobError.exit_code, LockedError.exit_code, EXIT_TOO_MANY_REJECTED, EXIT_DONE)
"""Exit codes from the most to the least severe; the job's exit code is the most severe one of its days."""
NEXT_STEPS: Final = {
    RunState.PLANNED: "the same command starts",
    RunState.COPIED: "the same command resumes",
    RunState.LEFT_OVER: "the same command resumes",
    RunState.COMPLETE: "the same command publishes",
    RunState.PUBLISHED: "nothing is left to do",
}
"""What the command does with a run without --dry-run, by the state that it finds the run in."""
OMITTED_IN_LAST_LINE: Final = ("files", "replaced", "versions")

logger = logging.getLogger("msmtfn.daily")

Options = TypeVar("Options")


class DayArguments(Protocol):
    """Options of a daily command that name days and say what to do with published ones."""

    @property
    def date(self) -> dt.date | None:
        """Day to process."""

    @property
    def first_date(self) -> dt.date | None:
        """First of several days."""

    @property
    def last_date(self) -> dt.date | None:
        """Last of several days."""

    @property
    def force(self) -> bool:
        """True to process a published day again."""

    @property
    def retry_rejected(self) -> bool:
        """True to process only the rejects of a published day that could succeed now."""

    @property
    def max_rejected_share(self) -> float:
        """Maximum share of a day's calls that may be rejected."""


def run_daily(
    job: str,
    kind: type[Options],
    program: str,
    arguments: Sequence[str],
    run: Callable[[Options, list[dict[str, Any]]], int],
) -> int:
    """Run a daily command and return its exit code; the results of the days are in the last line of its output.

    Args:
        job: name of the job in the last line.
        kind: the command's options.
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
        run: does the work; it gets the options and a list for the results of the days.
    """
    day_results: list[dict[str, Any]] = []

    def parse_and_run() -> int:
        try:
            return run(tyro.cli(kind, prog=program, args=arguments, config=PARSER_OPTIONS), day_results)
        except JobError as exc:
            day_results.append({"error": str(exc)})
            raise

    return run_command(parse_and_run, job=job, content={"days": day_results})


def check_days(arguments: DayArguments) -> None:
    """Check that the options are in range and go together.

    Raises:
        UsageError: one is out of range or conflicts with another.
    """
    if arguments.date is not None and (arguments.first_date or arguments.last_date):
        raise UsageError("--date cannot be combined with --from and --to; set either one day or a range")
    if arguments.force and arguments.retry_rejected:
        raise UsageError("--force is for all calls, --retry-rejected only for some; remove one of the two")
    if arguments.retry_rejected and not has_explicit_days(arguments):
        raise UsageError("--retry-rejected is for published days; name them with --date, or with --from and --to")
    if not 0 <= arguments.max_rejected_share <= 1:
        raise UsageError(f"--max-rejected-share is {arguments.max_rejected_share}; it must be between 0 and 1")


def has_explicit_days(arguments: DayArguments) -> bool:
    """Return True if the options name days."""
    return any((arguments.date, arguments.first_date, arguments.last_date))


def select_dates(arguments: DayArguments, manifests: str, root: str, what: str) -> list[dt.date]:
    """Return the days to process; none if every day is published.

    Args:
        arguments: the options.
        manifests: root of the manifests.
        root: root of what the days publish.
        what: what the days publish, for the log.
    """
    if arguments.first_date or arguments.last_date:
        return find_days(manifests, arguments.first_date, arguments.last_date)
    if arguments.date:
        return [arguments.date]
    date = newest_unscored_day(manifests, root)
    if date is None:
        return []
    if others := other_unscored_days(manifests, root, date):
        logger.warning(
            "%s is the newest day without %s; %s have manifests and no %s too; run the same command again for the "
            "next one",
            date,
            what,
            ", ".join(map(str, others)),
            what,
        )
    return [date]


def exit_code_of_newest_day(arguments: DayArguments, manifests: str, root: str) -> int:
    """Return the exit code of the newest day of all if it is published.

    If a scheduler retries a night with too many rejects, and without a date, there is nothing left to do, or an older
    day is processed successfully. Neither must turn the exit code of the newest day into success.
    """
    newest = storage.list_days(storage.absolute(manifests), follow_links=True)[-1]
    success = read_success(storage.absolute(root), newest)
    return EXIT_DONE if success is None else _exit_code_of(success, arguments.max_rejected_share)


def run_day(
    runner: DayRunner[DayGraph],
    date: dt.date,
    max_rejected_share: float,
    day_results: list[dict[str, Any]],
    show: Callable[[DayPlan, Success], None],
) -> int:
    """Process one day and return its exit code; an error of the day does not stop the days after it.

    Args:
        runner: runner of days.
        date: the day.
        max_rejected_share: maximum share of rejects.
        day_results: gets the figures of the day.
        show: prints what is shown of a published day.
    """
    try:
        plan, success = runner.run(date)
        show(plan, success)
    except UsageError:
        raise
    # Whatever a day runs into, a bug included, the others are processed.
    except Exception as exc:
        return report_failure(date, exc, day_results)
    if plan.published is not None:
        runner.console.print(
            f"{date} is already published by this same run ({plan.run_id}); nothing was done. --force does it again."
        )
    code = _exit_code_of(success, max_rejected_share)
    figures = {name: value for name, value in success.as_dict().items() if name not in OMITTED_IN_LAST_LINE}
    day_results.append({**figures, "exit_code": code})
    return code


def report_failure(date: dt.date, error: Exception, day_results: list[dict[str, Any]]) -> int:
    """Log an error that ends a day, add it to the day's results, and return the exit code of the day."""
    code, cause = describe_error(error)
    day_results.append({"date": date.isoformat(), "exit_code": code, "error": cause})
    return code


def describe_plan(plans: Sequence[DayPlan], verb: str) -> RenderableType:
    """Return a table of what would be done, one row per day, and a line per day on the state of its run.

    Args:
        plans: plans of the days.
        verb: what is done with a call, such as `score`.
    """
    table = Table(title="What would be done", title_justify="left")
    for column in ("day", "calls", f"to {verb}", "audio", "time", "action"):
        table.add_column(column, justify="left" if column in ("day", "action") else "right")
    for plan in plans:
        calls, num_left = plan.manifest.num_rows, 0
        action = "nothing, it is published"
        if plan.published is None:
            done = count_done(plan)
            num_left = (calls if plan.retried is None else count_retryable(plan.retried)) - done
            action = "resume" if done else verb
            if plan.retried is not None:
                action += " the rejects"
            elif read_success(plan.leads, plan.manifest.date) is not None:
                action += " and replace it"
        estimate = estimate_day(plan.leads, plan.manifest.date, num_left) if num_left else None
        hours = f"{estimate.audio_hours:.1f} h" if estimate else "-"
        seconds = f"{estimate.seconds:.0f} s" if estimate else "-"
        table.add_row(str(plan.manifest.date), f"{calls:,}", f"{num_left:,}", hours, seconds, action)
    table.caption = "audio and time are estimated from up to 14 days published before; - if there are none"
    table.caption_justify = "left"
    return Group(table, *(Text(f"{plan.manifest.date}: {_describe_state(plan)}") for plan in plans))


def _describe_state(plan: DayPlan) -> str:
    """Return the state of a day's run, and what the command would do with it."""
    state = plan.find_state()
    if state is RunState.PUBLISHED:
        return f"{state}; {NEXT_STEPS[state]}"
    num_calls = plan.open_folder().read_num_calls()
    progress = "" if num_calls is None else f", {count_done(plan):,} of {num_calls:,} calls committed"
    holder = find_holder(plan.leads, plan.manifest.date)
    if holder is not None:
        return f"{RunState.RUNNING}{progress}; locked by {holder}, and the day is left to it as long as it lives"
    return f"{state}{progress}; {NEXT_STEPS[state]}"


def _exit_code_of(success: Success, max_rejected_share: float) -> int:
    share = success.rejected / max(success.calls, 1)
    if share <= max_rejected_share:
        return EXIT_DONE
    logger.error(
        "%s: %.1f %% of the calls were rejected, more than --max-rejected-share allows (%.1f %%)",
        success.date,
        100 * share,
        100 * max_rejected_share,
    )
    return EXIT_TOO_MANY_REJECTED
