"""Score days of recorded sales calls and publish their leads."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.table import Table

from msmtfn import storage
from msmtfn.command import EXIT_DONE, exit_code_of, start_log
from msmtfn.conditional import warn_unless_conditional
from msmtfn.corpora.demo import demo_model, write_demo_day
from msmtfn.engine import start_engine
from msmtfn.errors import JobError, LockedError, UsageError
from msmtfn.leads.lock import lock_day
from msmtfn.leads.publish import RUNS_FOLDER, read_success
from msmtfn.leads.summary import summarize
from msmtfn.model.checkpoint import fetch_model, is_trained, locate_model
from msmtfn.model.registry import places_of_model
from msmtfn.overlap import Place, refuse_overlaps
from msmtfn.scoring.day import DayPlan, ScoringConfig, count_done, finish_run, open_run, plan_day, tidy_up
from msmtfn.scoring.progress import show_progress
from msmtfn.scoring.retry import count_retryable
from msmtfn.scoring.schedule import days_between, estimate_day, newest_unscored_day, other_unscored_days
from msmtfn.untrusted import inside

DEMO: Final = "demo"
DEMO_DATE: Final = dt.date(2026, 1, 5)
EXIT_TOO_MANY_REJECTED: Final = 3
GRAVITY: Final = (JobError.exit_code, LockedError.exit_code, EXIT_TOO_MANY_REJECTED, EXIT_DONE)
"""Of several days' exit codes the first of these is the job's."""
NOT_IN_THE_LINE: Final = ("files", "replaced", "versions")

logger = logging.getLogger("msmtfn.score_daily")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Score days of recorded sales calls and publish their leads.

    Joins the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine. The same command again
    goes on after a crash, does nothing after a success, and replaces the day where the model, the manifest or an option
    that changes results is another. The last line of the output is JSON, for log collectors. Exit codes: 0 done, 1
    failed, 2 wrong usage, 3 done with too many rejects, 4 another run is at work on the day.
    """

    date: dt.date | None = None
    """The day to score, as YYYY-MM-DD; without it, and without --from and --to, the newest day that has a manifest and
    no leads."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """The first of several days to score, each by itself; the first that there is, if only --to is given."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """The last of several days to score; the last that there is, if only --from is given."""
    manifests: str | None = None
    """Root of the manifests: <manifests>/date=YYYY-MM-DD/*.parquet, a folder or an s3:// address."""
    leads: str | None = None
    """Root of the leads: <leads>/date=YYYY-MM-DD/ is published there, a folder or an s3:// address."""
    model: str = DEMO
    """The model: a folder, an s3:// address, a name on the hub, <root>/current of the models that train.py --register
    keeps, or "demo" for the small one that comes with msmtfn."""
    demo: bool = False
    """Write a small day of calls to a temporary folder and score that; takes the places of --date, --manifests and
    --leads."""
    force: bool = False
    """Score the day again where it is published."""
    retry_rejected: bool = False
    """Of a day that is published, score again only the rejects that could succeed now: recordings that were not found
    or took too long, and calls whose worker crashed."""
    dry_run: bool = False
    """Only say what would be done, and how long it would take by what earlier days took."""
    max_rejected_share: float = 0.2
    """Share of the day's calls, 0 to 1, that may be rejected; the exit code is 3 where more are."""
    scoring: Annotated[ScoringConfig, tyro.conf.arg(name="")] = field(default_factory=ScoringConfig)
    """How the calls are scored."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            UsageError: an argument is missing, out of range, or does not go with another.
        """
        places = {"--manifests": self.manifests, "--leads": self.leads}
        days = {"--date": self.date, "--from": self.first_date, "--to": self.last_date}
        for name, value in (places | days).items():
            if self.demo and value is not None:
                raise UsageError(f"{name} does not go with --demo, which has its own; remove one of the two")
            if not self.demo and value is None and name in places:
                raise UsageError(f"{name} is missing; give it, or --demo to see the job at work")
        if self.date is not None and (self.first_date or self.last_date):
            raise UsageError("--date does not go with --from and --to; give one day, or a range")
        if self.force and self.retry_rejected:
            raise UsageError("--force scores all calls again, --retry-rejected some; remove one of the two")
        if self.retry_rejected and self.date is None and not (self.first_date or self.last_date):
            raise UsageError("--retry-rejected needs --date, or --from and --to: it is for days that are published")
        if not 0 <= self.max_rejected_share <= 1:
            raise UsageError(f"--max-rejected-share is {self.max_rejected_share}; it must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class _Job:
    """One run of the command: what it works on, whatever the day.

    Attributes:
        arguments: as given.
        manifests: the root of all manifests.
        leads: the root of all leads.
        model_name: the model's place, or its name on the hub.
        model: the model's folder on this machine.
        console: for the person who waits.
        start_engine: starts Ray, once; it takes its seconds, so not for a day that needs none.
    """

    arguments: Arguments
    manifests: str
    leads: str
    model_name: str
    model: Path
    console: Console
    start_engine: Callable[[], None]

    def plan(self, date: dt.date) -> DayPlan:
        """What is to be done for a day."""
        asked = self.arguments
        return plan_day(
            date,
            self.manifests,
            self.leads,
            self.model,
            asked.scoring,
            model=self.model_name,
            force=asked.force,
            retry_rejected=asked.retry_rejected,
        )

    def score(self, date: dt.date) -> dict[str, Any]:
        """Score and publish a day; the result is what `_SUCCESS` says."""
        with lock_day(storage.absolute(self.leads), date) as check:
            plan = self.plan(date)
            if self.arguments.retry_rejected and plan.retried is None:
                self._refuse_retry(plan)
            if plan.published is not None:
                tidy_up(plan, check)
                success = plan.published
            else:
                success = self._finish(plan, check)
        self.console.print(summarize(plan.leads, date, success, is_trained=is_trained(self.model)))
        if plan.published is not None:
            self.console.print(
                f"{date} was published by this very run already ({plan.run_id}); nothing was done. --force scores it "
                "again."
            )
        return success

    def _refuse_retry(self, plan: DayPlan) -> None:
        if plan.published is None:
            raise JobError(
                f"{plan.manifest.date} is not published with this manifest, model and options, so there is no reject "
                "of theirs to try again; run the same command without --retry-rejected"
            )
        logger.info("%s: no reject of %s could succeed now", plan.run_id, plan.manifest.date)

    def _finish(self, plan: DayPlan, check: Callable[[], None]) -> dict[str, Any]:
        run = open_run(plan)
        logger.info(
            "%s: %d of %d calls in %d files, model %s",
            plan.run_id,
            run.task.num_calls,
            plan.manifest.num_rows,
            len(plan.manifest.files),
            plan.model_version,
        )
        if run.model is not None:
            self.start_engine()
        with show_progress(self.console, run.task.num_calls) as report:
            return finish_run(run, self.arguments.scoring, report, check)


def main() -> int:
    """Run the job; the result is its exit code."""
    start_log()
    told: list[dict[str, Any]] = []
    try:
        arguments = tyro.cli(Arguments, config=(tyro.conf.OmitArgPrefixes,))
        with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
            code = _run(arguments, Path(scratch), told)
    except JobError as exc:
        code = exit_code_of(exc)
        told.append({"error": str(exc)})
    print(json.dumps({"job": "score_daily", "exit_code": code, "days": told}), flush=True)
    return code


def _run(arguments: Arguments, scratch: Path, told: list[dict[str, Any]]) -> int:
    console = Console()
    manifests, leads = _places(arguments)
    _refuse_overlaps(arguments, [manifests], leads)
    dates = _dates(arguments, manifests, leads)
    if not dates:
        console.print(f"every day of {manifests} is published in {leads}; nothing was done")
        return _code_of_newest(arguments, manifests, leads)
    _refuse_overlaps(arguments, [storage.join(manifests, f"{storage.DAY_PREFIX}{date}") for date in dates], leads)
    name, model = _model(arguments.model, scratch)
    with contextlib.ExitStack() as stack:
        started: list[None] = []

        def start_once() -> None:
            if not started:
                stack.enter_context(start_engine())
                started.append(None)

        job = _Job(arguments, manifests, leads, name, model, console, start_once)
        if arguments.dry_run:
            console.print(_describe_plan([job.plan(date) for date in dates]))
            return EXIT_DONE
        warn_unless_conditional(inside(storage.absolute(leads), RUNS_FOLDER))
        codes = [_score_day(job, date, told) for date in dates]
    if not _names_days(arguments):
        codes.append(_code_of_newest(arguments, manifests, leads))
    return min(codes, key=GRAVITY.index)


def _names_days(arguments: Arguments) -> bool:
    return arguments.demo or any((arguments.date, arguments.first_date, arguments.last_date))


def _code_of_newest(arguments: Arguments, manifests: str, leads: str) -> int:
    """The exit code of the newest day of all, if it is published.

    A scheduler that tries a night with too many rejects again, without a date, must not be told that all is well, since
    there is nothing left to do or an older day has gone well.
    """
    newest = storage.list_days(storage.absolute(manifests))[-1]
    success = read_success(storage.absolute(leads), newest)
    return EXIT_DONE if success is None else _exit_code(success, arguments.max_rejected_share)


def _score_day(job: _Job, date: dt.date, told: list[dict[str, Any]]) -> int:
    """Score one day; its failure costs the days after it nothing."""
    try:
        success = job.score(date)
    except UsageError:
        raise
    except JobError as exc:
        code = exit_code_of(exc)
        told.append({"date": date.isoformat(), "exit_code": code, "error": str(exc)})
        return code
    code = _exit_code(success, job.arguments.max_rejected_share)
    figures = {name: value for name, value in success.items() if name not in NOT_IN_THE_LINE}
    told.append({**figures, "exit_code": code})
    return code


def _places(arguments: Arguments) -> tuple[str, str]:
    """The roots of the manifests and of the leads."""
    if arguments.demo:
        folder = Path(tempfile.mkdtemp(prefix="msmtfn-demo-"))
        logger.info("writing a small day of calls to %s", folder)
        return str(write_demo_day(folder, DEMO_DATE)), str(folder / "leads")
    return str(arguments.manifests), str(arguments.leads)


def _refuse_overlaps(arguments: Arguments, manifests: Sequence[str], leads: str) -> None:
    """Refuse leads that overlap what the job reads: the root of the manifests, or a day that links elsewhere."""
    prefixes = [] if arguments.demo else arguments.scoring.prepare.allowed_prefixes
    inputs = [Place("--manifests", folder) for folder in manifests]
    inputs += [Place("--allowed-prefixes", prefix) for prefix in prefixes]
    if arguments.model != DEMO:
        inputs += [Place("--model", place) for place in places_of_model(arguments.model)]
    refuse_overlaps(inputs, [Place("--leads", leads)])


def _dates(arguments: Arguments, manifests: str, leads: str) -> list[dt.date]:
    if arguments.first_date or arguments.last_date:
        return days_between(manifests, arguments.first_date, arguments.last_date)
    if arguments.demo or arguments.date:
        return [arguments.date or DEMO_DATE]
    date = newest_unscored_day(manifests, leads)
    if date is None:
        return []
    if others := other_unscored_days(manifests, leads, date):
        logger.warning(
            "%s is the newest day without leads; %s have manifests and no leads too; the same command again scores the "
            "next of them",
            date,
            ", ".join(map(str, others)),
        )
    return [date]


def _describe_plan(plans: Sequence[DayPlan]) -> Table:
    """What would be done, a line a day."""
    table = Table(title="What would be done", title_justify="left")
    for column in ("day", "calls", "to score", "audio", "time", "what"):
        table.add_column(column, justify="left" if column in ("day", "what") else "right")
    for plan in plans:
        calls, left = plan.manifest.num_rows, 0
        what = "nothing, it is published"
        if plan.published is None:
            done = count_done(plan)
            left = (calls if plan.retried is None else count_retryable(plan.retried)) - done
            what = "go on" if done else "score"
            if plan.retried is not None:
                what += " with the rejects"
            elif read_success(plan.leads, plan.manifest.date) is not None:
                what += " and replace it"
        estimate = estimate_day(plan.leads, plan.manifest.date, left) if left else None
        hours = f"{estimate.audio_hours:.1f} h" if estimate else "-"
        seconds = f"{estimate.seconds:.0f} s" if estimate else "-"
        table.add_row(str(plan.manifest.date), f"{calls:,}", f"{left:,}", hours, seconds, what)
    table.caption = "audio and time are expected, from up to 14 days published before; - where none tells"
    table.caption_justify = "left"
    return table


def _model(name: str, scratch: Path) -> tuple[str, Path]:
    """The model's place, of `current` the version's, and its folder on this machine."""
    if name == DEMO:
        return name, demo_model()
    (scratch / "model").mkdir()
    place = locate_model(name)
    return place, fetch_model(place, scratch / "model")


def _exit_code(success: dict[str, Any], max_rejected_share: float) -> int:
    share = success["rejected"] / max(success["calls"], 1)
    if share <= max_rejected_share:
        return EXIT_DONE
    logger.error(
        "%s: %.1f %% of the calls were rejected, more than --max-rejected-share allows (%.1f %%)",
        success["date"],
        100 * share,
        100 * max_rejected_share,
    )
    return EXIT_TOO_MANY_REJECTED


if __name__ == "__main__":
    sys.exit(main())
