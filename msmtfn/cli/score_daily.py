"""Score one or more days of recorded sales calls and publish their leads."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

from msmtfn import storage
from msmtfn.cli.command import EXIT_DONE, SafeConsole
from msmtfn.cli.days import (
    EXIT_CODES_BY_SEVERITY,
    check_days,
    describe_plan,
    exit_code_of_newest_day,
    has_explicit_days,
    report_failure,
    run_daily,
    run_day,
    select_dates,
)
from msmtfn.cli.deliveries import describe_deliveries
from msmtfn.cli.transcripts import describe_transcripts
from msmtfn.corpora import DEMO
from msmtfn.corpora.demo import DEMO_HEARING, write_demo_day
from msmtfn.daily.day import DayPlan
from msmtfn.daily.keep_table import RETENTION_DAYS, open_table
from msmtfn.daily.publish import read_success
from msmtfn.daily.replacement import MAX_REJECTED_SHARE
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.daily.summary import summarize
from msmtfn.daily.work import default_work
from msmtfn.delivery.deliver import DeliveryConfig
from msmtfn.errors import UsageError
from msmtfn.model.checkpoint import is_trained
from msmtfn.scoring.day import open_scorer, refuse_overlapping_leads
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.speech.hearing import HearingConfig
from msmtfn.transcription.day import open_transcriber, refuse_overlapping_transcripts
from msmtfn.transcription.graph import TranscriptionConfig, TranscriptionGraph
from msmtfn.transcription.listening import ListenConfig

DEMO_DATE: Final = dt.date(2026, 1, 5)

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
    transcripts: str | None = None
    """Root of the transcripts that transcribe-daily publishes: a local folder or an s3:// address.
    They are the turns of the calls whose manifest has none."""
    recogniser: str | None = None
    """Recogniser that transcribes the day first, into --transcripts: a folder, an s3:// address or a name on the hub.
    Calls that are transcribed already are not recognised again. Its options are the defaults of transcribe-daily."""
    demo: bool = False
    """Generate a small day of recordings in a temporary folder, transcribe it by the built-in recogniser and score it.
    Replaces --date, --manifests, --leads, --transcripts and --recogniser.
    The page and the customers of that day go to the same folder, and the page plays its recordings."""
    with_transcripts: bool = False
    """Give the calls of --demo transcripts, most of them, instead of transcribing the recordings."""
    force: bool = False
    """Score the day again even if it is published, and replace a published day even by one with more rejects."""
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
    max_rejected_share: float = MAX_REJECTED_SHARE
    """Maximum share (0 to 1) of a day's calls that may be rejected; the exit code is 3 if it is exceeded.
    A day that exceeds it does not replace a published day with a smaller share, unless --force is set."""
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
        places = {"--work": self.work, "--table": self.table, "--transcripts": self.transcripts}
        places["--recogniser"] = self.recogniser
        days = {"--date": self.date, "--from": self.first_date, "--to": self.last_date}
        for name, value in (roots | places | days).items():
            if self.demo and value is not None:
                raise UsageError(f"{name} cannot be combined with --demo, which has its own; remove one of the two")
            if not self.demo and value is None and name in roots:
                raise UsageError(f"{name} is missing; set it, or run --demo for a demonstration")
        if self.with_transcripts and not self.demo:
            raise UsageError("--with-transcripts is for --demo; manifests and --transcripts have those of other days")
        if self.recogniser is not None and self.transcripts is None:
            raise UsageError("--recogniser needs --transcripts, the root where the transcripts are published; set it")
        check_days(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Roots of what is read and written, and how the days are transcribed, if they are.

    Attributes:
        manifests: root of the manifests.
        leads: root of the leads.
        delivery: what is made of a published day.
        transcripts: root of the transcripts; None without any.
        recogniser: what transcribes the days first; None if nothing does.
        hearing: how it hears a call.
    """

    manifests: str
    leads: str
    delivery: DeliveryConfig
    transcripts: str | None
    recogniser: str | None
    hearing: HearingConfig


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_daily("score_daily", Arguments, program, arguments, _run)


def _run(arguments: Arguments, day_results: list[dict[str, Any]]) -> int:
    console = SafeConsole()
    places = _make_demo(arguments) if arguments.demo else _resolve_places(arguments)
    manifests, leads, delivery = places.manifests, places.leads, places.delivery
    work = arguments.work or default_work(leads)
    prefixes = [] if arguments.demo else arguments.scoring.prepare.allowed_prefixes
    heard = places.transcripts
    refuse_overlapping_leads([manifests], leads, work, arguments.model, prefixes, delivery, heard)
    table = open_table(leads, arguments.table, arguments.table_retention_days)
    dates = [DEMO_DATE] if arguments.demo else select_dates(arguments, manifests, leads, "leads")
    days = [storage.join(manifests, f"{storage.DAY_PREFIX}{date}") for date in dates]
    refuse_overlapping_leads(days, leads, work, arguments.model, prefixes, delivery, heard)
    if not dates:
        if table is not None and not arguments.dry_run:
            table.repair()
        console.print(f"every day of {manifests} is published in {leads}; nothing was done")
        return exit_code_of_newest_day(arguments, manifests, leads)
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
        transcripts=heard,
        max_rejected_share=arguments.max_rejected_share,
    ) as scorer:
        if arguments.dry_run:
            _show_plans(arguments, places, scorer, dates)
            return EXIT_DONE
        scorer.prepare_storage()
        failed = _transcribe(arguments, places, scorer, dates, day_results)
        show = partial(_show, scorer, delivery)
        scored = [date for date in dates if date not in failed]
        codes = [run_day(scorer, date, arguments.max_rejected_share, day_results, show) for date in scored]
        codes += failed.values()
    if not (arguments.demo or has_explicit_days(arguments)):
        codes.append(exit_code_of_newest_day(arguments, manifests, leads))
    return min(codes, key=EXIT_CODES_BY_SEVERITY.index)


def _show_plans(
    arguments: Arguments, places: Places, scorer: DayRunner[ScoringGraph], dates: Sequence[dt.date]
) -> None:
    """Print what would be done; a day whose transcripts are still to be made cannot be planned any further."""
    if places.recogniser is not None:
        with _open_transcriber(arguments, places, scorer, dates) as transcriber:
            scorer.console.print(describe_plan([transcriber.plan(date) for date in dates], "transcribe"))
            missing = [date for date in dates if read_success(transcriber.root, date) is None]
        for date in missing:
            scorer.console.print(f"{date}: scored as soon as it is transcribed", highlight=False)
        dates = [date for date in dates if date not in missing]
    if dates:
        scorer.console.print(describe_plan([scorer.plan(date) for date in dates], "score"))


def _transcribe(
    arguments: Arguments,
    places: Places,
    scorer: DayRunner[ScoringGraph],
    dates: Sequence[dt.date],
    day_results: list[dict[str, Any]],
) -> dict[dt.date, int]:
    """Transcribe the days that are to be scored, on the same cluster; return the exit codes of those that failed.

    The graph of a day ends before the next begins, so the recognisers' GPUs are free when scorers ask for them.
    """
    failed: dict[dt.date, int] = {}
    if places.recogniser is None:
        return failed
    with _open_transcriber(arguments, places, scorer, dates) as transcriber:
        transcriber.prepare_storage()
        for date in dates:
            try:
                scorer.console.print(describe_transcripts(*transcriber.run(date)))
            except UsageError:
                raise
            # Whatever a day runs into, a bug included, the others are transcribed.
            except Exception as exc:
                failed[date] = report_failure(date, exc, day_results)
    return failed


def _open_transcriber(
    arguments: Arguments, places: Places, scorer: DayRunner[ScoringGraph], dates: Sequence[dt.date]
) -> AbstractContextManager[DayRunner[TranscriptionGraph]]:
    """Return a runner of the days' transcriptions, with the scoring's limits on recordings."""
    manifests, prepare = places.manifests, arguments.scoring.prepare
    transcripts, recogniser = str(places.transcripts), str(places.recogniser)
    # Runs of two roots must not share a folder, since who publishes a day deletes the work that is left of it.
    if arguments.work is None:
        work = default_work(transcripts, "--transcripts")
    else:
        work = storage.join(arguments.work, "transcripts")
    days = [storage.join(manifests, f"{storage.DAY_PREFIX}{date}") for date in dates]
    refuse_overlapping_transcripts([manifests, *days], transcripts, work, recogniser, prepare.allowed_prefixes)
    listen = ListenConfig(
        allowed_prefixes=prepare.allowed_prefixes, audio=prepare.audio, guard=prepare.guard, hearing=places.hearing
    )
    config = TranscriptionConfig(listen=listen)
    return open_transcriber(
        manifests,
        transcripts,
        recogniser,
        config,
        scorer.console,
        scorer.start_ray,
        work=work,
        max_rejected_share=arguments.max_rejected_share,
    )


def _show(scorer: DayRunner[ScoringGraph], delivery: DeliveryConfig, plan: DayPlan, success: Success) -> None:
    """Print the summary of a published day, and where the deliveries are."""
    date = plan.manifest.date
    scorer.console.print(summarize(plan.leads, date, success, is_trained=is_trained(scorer.graph.folder)))
    for line in describe_deliveries(delivery, date):
        scorer.console.print(line, highlight=False, soft_wrap=True)


def _resolve_places(arguments: Arguments) -> Places:
    return Places(
        manifests=str(arguments.manifests),
        leads=str(arguments.leads),
        delivery=arguments.delivery,
        transcripts=arguments.transcripts,
        recogniser=arguments.recogniser,
        hearing=HearingConfig(),
    )


def _make_demo(arguments: Arguments) -> Places:
    """Generate the demo's day, and return where everything of it is."""
    folder = Path(tempfile.mkdtemp(prefix="msmtfn-demo-"))
    logger.info("generating a small day of calls in %s", folder)
    manifests = write_demo_day(folder, DEMO_DATE, with_transcripts=arguments.with_transcripts)
    given, is_heard = arguments.delivery, not arguments.with_transcripts
    delivery = replace(
        given,
        report=given.report or str(folder / "report"),
        customers=given.customers or str(folder / "customers"),
        recording_url_template=given.recording_url_template or f"{manifests.absolute().as_uri()}/{{path}}",
    )
    return Places(
        manifests=str(manifests),
        leads=str(folder / "leads"),
        delivery=delivery,
        transcripts=str(folder / "transcripts") if is_heard else None,
        recogniser=DEMO if is_heard else None,
        hearing=DEMO_HEARING,
    )
