"""Score one or more days of recorded sales calls and publish their leads."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.cli.command import EXIT_DONE, SafeConsole, describe_error, run_command
from msmtfn.cli.deliveries import describe_deliveries
from msmtfn.corpora import DEMO
from msmtfn.corpora.demo import write_demo_day
from msmtfn.daily.day import DayPlan, count_done
from msmtfn.daily.keep_table import RETENTION_DAYS, open_table
from msmtfn.daily.lock import find_holder
from msmtfn.daily.publish import read_success
from msmtfn.daily.retry import count_retryable
from msmtfn.daily.schedule import estimate_day, newest_unscored_day, other_unscored_days
from msmtfn.daily.state import RunState, open_folder
from msmtfn.daily.success import Success
from msmtfn.daily.summary import summarize
from msmtfn.daily.work import default_work
from msmtfn.delivery.deliver import DeliveryConfig
from msmtfn.errors import JobError, LockedError, UsageError
from msmtfn.model.checkpoint import is_trained
from msmtfn.scoring.day import DayScorer, open_scorer, refuse_overlapping_leads
from msmtfn.scoring.graph import ScoringConfig

DEMO_DATE: Final = dt.date(2026, 1, 5)
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

logger = logging.getLogger("msmtfn.score_daily")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Score one or more days of recorded sales calls and publish their leads.

    The same command can be run again at any time:
    - After a crash it resumes, after a success it does nothing.
    - If the manifest, the model or an option that changes results has changed, it replaces the published day.

    Runs on the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine.

    The last line of the output is JSON, for log collectors.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but too many rejects, 4 another run is working on the day.
    """

    date: dt.date | None = None
    """Day to score. Without --date, --from and --to: the newest day that has a manifest but no leads."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """First of several days to score one by one; with --to alone, the first day that has a manifest."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last of several days to score; with --from alone, the last day that has a manifest."""
    manifests: str | None = None
    """Root of the manifests, <manifests>/date=YYYY-MM-DD/*.parquet: a local folder or an s3:// address."""
    leads: str | None = None
    """Root of the leads, published as <leads>/date=YYYY-MM-DD/: a local folder or an s3:// address."""
    work: str | None = None
    """Root of the work in progress, by default <leads>.work: outside the leads, on storage that all machines see."""
    model: str = DEMO
    """Model: a folder, an s3:// address, a name on the Hugging Face hub, or "demo" for the small built-in model.
    For the current version among those of the train command's --register, pass <register>/current."""
    demo: bool = False
    """Generate a small day of calls in a temporary folder and score it; replaces --date, --manifests and --leads.
    The page and the customers of that day go to the same folder, and the page plays its recordings."""
    force: bool = False
    """Score the day again even if it is published."""
    retry_rejected: bool = False
    """Of a published day, score again only the rejects that could succeed now.
    These are recordings that were not found or took too long, and calls whose worker crashed."""
    dry_run: bool = False
    """Only show the state of each day, what would be done, and how long it would take judging by earlier days."""
    table: Literal["delta"] | None = None
    """Keep a table over the published files, so that readers see whole days, and earlier publications by time travel.
    "delta" is a Delta Lake log in <leads>/_delta_log, and needs the extra delta."""
    table_retention_days: int = RETENTION_DAYS
    """Days for which the files of a replaced publication are kept for the table's readers."""
    max_rejected_share: float = 0.2
    """Maximum share (0 to 1) of a day's calls that may be rejected; the exit code is 3 if it is exceeded."""
    scoring: Annotated[ScoringConfig, tyro.conf.arg(name="")] = field(default_factory=ScoringConfig)
    """Options of scoring."""
    delivery: Annotated[DeliveryConfig, tyro.conf.arg(name="")] = field(default_factory=DeliveryConfig)
    """What is made of a published day for the sales floor."""

    def __post_init__(self) -> None:
        """Check that the options are in range and go together.

        Raises:
            UsageError: an option is missing, out of range or conflicts with another.
        """
        roots = {"--manifests": self.manifests, "--leads": self.leads}
        places = {"--work": self.work, "--table": self.table}
        days = {"--date": self.date, "--from": self.first_date, "--to": self.last_date}
        for name, value in (roots | places | days).items():
            if self.demo and value is not None:
                raise UsageError(f"{name} cannot be combined with --demo, which has its own; remove one of the two")
            if not self.demo and value is None and name in roots:
                raise UsageError(f"{name} is missing; set it, or run --demo for a demonstration")
        if self.date is not None and (self.first_date or self.last_date):
            raise UsageError("--date cannot be combined with --from and --to; set either one day or a range")
        if self.force and self.retry_rejected:
            raise UsageError("--force scores all calls again, --retry-rejected only some; remove one of the two")
        if self.retry_rejected and self.date is None and not (self.first_date or self.last_date):
            raise UsageError("--retry-rejected is for published days; name them with --date, or with --from and --to")
        if not 0 <= self.max_rejected_share <= 1:
            raise UsageError(f"--max-rejected-share is {self.max_rejected_share}; it must be between 0 and 1")


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    day_results: list[dict[str, Any]] = []
    run = partial(_score_days, program, arguments, day_results)
    return run_command(run, job="score_daily", content={"days": day_results})


def _score_days(program: str, arguments: Sequence[str], day_results: list[dict[str, Any]]) -> int:
    try:
        options = tyro.cli(Arguments, prog=program, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
        return _run(options, day_results)
    except JobError as exc:
        day_results.append({"error": str(exc)})
        raise


def _run(arguments: Arguments, day_results: list[dict[str, Any]]) -> int:
    console = SafeConsole()
    manifests, leads, delivery = _resolve_roots(arguments)
    work = arguments.work or default_work(leads)
    prefixes = [] if arguments.demo else arguments.scoring.prepare.allowed_prefixes
    refuse_overlapping_leads([manifests], leads, work, arguments.model, prefixes, delivery)
    table = open_table(leads, arguments.table, arguments.table_retention_days)
    dates = _select_dates(arguments, manifests, leads)
    days = [storage.join(manifests, f"{storage.DAY_PREFIX}{date}") for date in dates]
    refuse_overlapping_leads(days, leads, work, arguments.model, prefixes, delivery)
    if not dates:
        if table is not None and not arguments.dry_run:
            table.repair()
        console.print(f"every day of {manifests} is published in {leads}; nothing was done")
        return _exit_code_of_newest_day(arguments, manifests, leads)
    with open_scorer(
        manifests,
        leads,
        arguments.model,
        arguments.scoring,
        console,
        work=work,
        table=table,
        delivery=delivery,
        force=arguments.force,
        retry_rejected=arguments.retry_rejected,
    ) as scorer:
        if arguments.dry_run:
            console.print(_describe_plan([scorer.plan(date) for date in dates]))
            return EXIT_DONE
        scorer.prepare_storage()
        codes = [_score_day(scorer, date, arguments.max_rejected_share, day_results) for date in dates]
    if not _has_explicit_days(arguments):
        codes.append(_exit_code_of_newest_day(arguments, manifests, leads))
    return min(codes, key=EXIT_CODES_BY_SEVERITY.index)


def _has_explicit_days(arguments: Arguments) -> bool:
    return arguments.demo or any((arguments.date, arguments.first_date, arguments.last_date))


def _exit_code_of_newest_day(arguments: Arguments, manifests: str, leads: str) -> int:
    """Return the exit code of the newest day of all if it is published.

    If a scheduler retries a night with too many rejects, and without a date, there is nothing left to do, or an older
    day is scored successfully. Neither must turn the exit code of the newest day into success.
    """
    newest = storage.list_days(storage.absolute(manifests), follow_links=True)[-1]
    success = read_success(storage.absolute(leads), newest)
    return EXIT_DONE if success is None else _exit_code_of(success, arguments.max_rejected_share)


def _score_day(scorer: DayScorer, date: dt.date, max_rejected_share: float, day_results: list[dict[str, Any]]) -> int:
    """Score one day and return its exit code; an error of the day does not stop the days after it."""
    try:
        plan, success = scorer.score(date)
        trained = is_trained(scorer.graph.folder)
        scorer.console.print(summarize(plan.leads, date, success, is_trained=trained))
        for line in describe_deliveries(scorer.delivery, date):
            scorer.console.print(line, highlight=False, soft_wrap=True)
    except UsageError:
        raise
    # Whatever a day runs into, a bug included, the others are scored.
    except Exception as exc:
        code, error = describe_error(exc)
        day_results.append({"date": date.isoformat(), "exit_code": code, "error": error})
        return code
    if plan.published is not None:
        scorer.console.print(
            f"{date} is already published by this same run ({plan.run_id}); nothing was done. --force scores it again."
        )
    code = _exit_code_of(success, max_rejected_share)
    figures = {name: value for name, value in success.as_dict().items() if name not in OMITTED_IN_LAST_LINE}
    day_results.append({**figures, "exit_code": code})
    return code


def _resolve_roots(arguments: Arguments) -> tuple[str, str, DeliveryConfig]:
    """Return the roots of the manifests and of the leads, and what to deliver."""
    if arguments.demo:
        folder = Path(tempfile.mkdtemp(prefix="msmtfn-demo-"))
        logger.info("generating a small day of calls in %s", folder)
        manifests = write_demo_day(folder, DEMO_DATE)
        given = arguments.delivery
        delivery = replace(
            given,
            report=given.report or str(folder / "report"),
            customers=given.customers or str(folder / "customers"),
            recording_url_template=given.recording_url_template or f"{manifests.absolute().as_uri()}/{{path}}",
        )
        return str(manifests), str(folder / "leads"), delivery
    return str(arguments.manifests), str(arguments.leads), arguments.delivery


def _select_dates(arguments: Arguments, manifests: str, leads: str) -> list[dt.date]:
    if arguments.first_date or arguments.last_date:
        return find_days(manifests, arguments.first_date, arguments.last_date)
    if arguments.demo or arguments.date:
        return [arguments.date or DEMO_DATE]
    date = newest_unscored_day(manifests, leads)
    if date is None:
        return []
    if others := other_unscored_days(manifests, leads, date):
        logger.warning(
            "%s is the newest day without leads; %s have manifests and no leads too; run the same command again to "
            "score the next one",
            date,
            ", ".join(map(str, others)),
        )
    return [date]


def _describe_plan(plans: Sequence[DayPlan]) -> RenderableType:
    """Return a table of what would be done, one row per day, and a line per day on the state of its run."""
    table = Table(title="What would be done", title_justify="left")
    for column in ("day", "calls", "to score", "audio", "time", "action"):
        table.add_column(column, justify="left" if column in ("day", "action") else "right")
    for plan in plans:
        calls, num_left = plan.manifest.num_rows, 0
        action = "nothing, it is published"
        if plan.published is None:
            done = count_done(plan)
            num_left = (calls if plan.retried is None else count_retryable(plan.retried)) - done
            action = "resume" if done else "score"
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
    num_calls = open_folder(plan.leads, plan.work).read_num_calls()
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
