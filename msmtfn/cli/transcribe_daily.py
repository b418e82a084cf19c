"""Transcribe one or more days of recorded sales calls and publish the transcripts."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import tyro
from rich.console import Console

from msmtfn import storage
from msmtfn.cli.command import EXIT_DONE, SafeConsole
from msmtfn.cli.days import (
    EXIT_CODES_BY_SEVERITY,
    check_days,
    describe_plan,
    exit_code_of_newest_day,
    has_explicit_days,
    run_daily,
    run_day,
    select_dates,
)
from msmtfn.cli.transcripts import describe_transcripts
from msmtfn.daily.day import DayPlan
from msmtfn.daily.replacement import MAX_REJECTED_SHARE
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work
from msmtfn.engine import start_engine
from msmtfn.transcription.day import open_transcriber, refuse_overlapping_transcripts
from msmtfn.transcription.graph import TranscriptionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Transcribe one or more days of recorded sales calls and publish the transcripts.

    The same command can be run again at any time:
    - After a crash it resumes, after a success it does nothing.
    - If the manifest, the recogniser or an option that changes results has changed, it replaces the published day.
    - A recording that this recogniser has heard before, with the same options, is not recognised again.

    Runs on the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine.

    The last line of the output is JSON, for log collectors.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but too many rejects, 4 another run is working on the day.
    """

    date: dt.date | None = None
    """Day to transcribe. Without --date, --from and --to: the newest day that has a manifest but no transcripts."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """First of several days to transcribe one by one; with --to alone, the first day that has a manifest."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last of several days to transcribe; with --from alone, the last day that has a manifest."""
    manifests: str
    """Root of the manifests, <manifests>/date=YYYY-MM-DD/*.parquet: a local folder or an s3:// address."""
    transcripts: str
    """Root of the transcripts, published as <transcripts>/date=YYYY-MM-DD/: a local folder or an s3:// address."""
    work: str | None = None
    """Root of the work in progress, by default <transcripts>.work: on storage that all machines see.
    Outside the transcripts, and not the --work of any leads."""
    recogniser: str
    """Recogniser: a folder, an s3:// address or a name on the Hugging Face hub.
    A Whisper model in CTranslate2's form, or a CTC or sequence-to-sequence model of transformers.
    "demo" is the small built-in one, which knows simulated calls only."""
    force: bool = False
    """Transcribe the day again even if it is published; recordings that were heard before are not recognised again."""
    retry_rejected: bool = False
    """Of a published day, transcribe again only the rejects that could succeed now.
    These are recordings that were not found or took too long, and calls whose worker crashed or recogniser hung."""
    dry_run: bool = False
    """Only show the state of each day, what would be done, and how long it would take judging by earlier days."""
    max_rejected_share: float = MAX_REJECTED_SHARE
    """Maximum share (0 to 1) of a day's calls that may be rejected; the exit code is 3 if it is exceeded.
    A day that exceeds it does not replace a published day with a smaller share, unless --force is set."""
    transcription: Annotated[TranscriptionConfig, tyro.conf.arg(name="")] = field(default_factory=TranscriptionConfig)
    """Options of transcription."""

    def __post_init__(self) -> None:
        """Check that the options are in range and go together.

        Raises:
            UsageError: an option is out of range or conflicts with another.
        """
        check_days(self)


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_daily("transcribe_daily", Arguments, program, arguments, _run)


def _run(arguments: Arguments, day_results: list[dict[str, Any]]) -> int:
    console = SafeConsole()
    manifests, transcripts = arguments.manifests, arguments.transcripts
    work = arguments.work or default_work(transcripts, "--transcripts")
    refuse = partial(
        refuse_overlapping_transcripts,
        transcripts=transcripts,
        work=work,
        recogniser=arguments.recogniser,
        prefixes=arguments.transcription.listen.allowed_prefixes,
    )
    refuse([manifests])
    dates = select_dates(arguments, manifests, transcripts, "transcripts")
    if not dates:
        console.print(f"every day of {manifests} is published in {transcripts}; nothing was done")
        return exit_code_of_newest_day(arguments, manifests, transcripts)
    refuse([storage.join(manifests, f"{storage.DAY_PREFIX}{date}") for date in dates])
    with contextlib.ExitStack() as stack:
        transcriber = stack.enter_context(
            open_transcriber(
                manifests,
                transcripts,
                arguments.recogniser,
                arguments.transcription,
                console,
                functools.cache(lambda: stack.enter_context(start_engine())),
                work=work,
                force=arguments.force,
                retry_rejected=arguments.retry_rejected,
                max_rejected_share=arguments.max_rejected_share,
            )
        )
        if arguments.dry_run:
            console.print(describe_plan([transcriber.plan(date) for date in dates], "transcribe"))
            return EXIT_DONE
        transcriber.prepare_storage()
        show = partial(_show, console)
        codes = [run_day(transcriber, date, arguments.max_rejected_share, day_results, show) for date in dates]
    if not has_explicit_days(arguments):
        codes.append(exit_code_of_newest_day(arguments, manifests, transcripts))
    return min(codes, key=EXIT_CODES_BY_SEVERITY.index)


def _show(console: Console, plan: DayPlan, success: Success) -> None:
    console.print(describe_transcripts(plan, success))
