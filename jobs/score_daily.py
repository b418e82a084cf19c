"""Score a day of recorded sales calls and publish its leads."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, cast

import tyro
from rich.console import Console

from msmtfn.corpora.demo import demo_model, write_demo_day
from msmtfn.engine import start_engine
from msmtfn.errors import JobError, UsageError
from msmtfn.leads.summary import summarize
from msmtfn.model.checkpoint import fetch_model, is_trained
from msmtfn.scoring.day import ScoringConfig, finish_run, open_run, plan_day, tidy_up
from msmtfn.scoring.progress import show_progress

DEMO: Final = "demo"
DEMO_DATE: Final = dt.date(2026, 1, 5)
EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_TOO_MANY_REJECTED = 0, 1, 2, 3

logger = logging.getLogger("msmtfn.score_daily")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Score a day of recorded sales calls and publish its leads.

    Joins the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine. The same command again
    goes on after a crash, does nothing after a success, and replaces the day where the model, the manifest or an option
    that changes results is another. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with too many rejects.
    """

    date: dt.date | None = None
    """The day to score, as YYYY-MM-DD."""
    manifests: str | None = None
    """Root of the manifests: <manifests>/date=YYYY-MM-DD/*.parquet, a folder or an s3:// address."""
    leads: str | None = None
    """Root of the leads: <leads>/date=YYYY-MM-DD/ is published there, a folder or an s3:// address."""
    model: str = DEMO
    """The model: a folder, an s3:// address, a name on the hub, or "demo" for the small one that comes with msmtfn."""
    demo: bool = False
    """Write a small day of calls to a temporary folder and score that; takes the places of --date, --manifests and
    --leads."""
    force: bool = False
    """Score the day again where it is published."""
    max_rejected_share: float = 0.2
    """Share of the day's calls, 0 to 1, that may be rejected; the exit code is 3 where more are."""
    scoring: Annotated[ScoringConfig, tyro.conf.arg(name="")] = field(default_factory=ScoringConfig)
    """How the calls are scored."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            UsageError: an argument is missing or out of range.
        """
        places = {"--date": self.date, "--manifests": self.manifests, "--leads": self.leads}
        for name, value in places.items():
            if self.demo and value is not None:
                raise UsageError(f"{name} does not go with --demo, which has its own; remove one of the two")
            if not self.demo and value is None:
                raise UsageError(f"{name} is missing; give it, or --demo to see the job at work")
        if not 0 <= self.max_rejected_share <= 1:
            raise UsageError(f"--max-rejected-share is {self.max_rejected_share}; it must be between 0 and 1")


def main() -> int:
    """Run the job; the result is its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    console = Console()
    try:
        arguments = tyro.cli(Arguments, config=(tyro.conf.OmitArgPrefixes,))
        with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
            return _run(arguments, Path(scratch), console)
    except UsageError as exc:
        logger.error("%s", exc)
        return EXIT_USAGE
    except JobError as exc:
        logger.error("%s", exc)
        return EXIT_FAILED


def _run(arguments: Arguments, scratch: Path, console: Console) -> int:
    date, manifests, leads = _places(arguments)
    model = _model_folder(arguments.model, scratch)
    plan = plan_day(date, manifests, leads, model, arguments.scoring, model=arguments.model, force=arguments.force)
    if plan.published is not None:
        tidy_up(plan)
        console.print(summarize(plan.leads, date, plan.published, is_trained=is_trained(model)))
        console.print(
            f"{date} was published by this very run already ({plan.run_id}); nothing was done. --force scores it again."
        )
        return _exit_code(plan.published, arguments.max_rejected_share)
    logger.info(
        "%s: %d calls in %d files, model %s",
        plan.run_id,
        plan.manifest.num_rows,
        len(plan.manifest.files),
        plan.model_version,
    )
    run = open_run(plan)
    # Ray takes its seconds to start: not for a day without calls, or one that only has to be published.
    engine = contextlib.nullcontext() if run.model is None else start_engine()
    with engine, show_progress(console, plan.manifest.num_rows) as report:
        success = finish_run(run, arguments.scoring, report)
    console.print(summarize(plan.leads, date, success, is_trained=is_trained(model)))
    return _exit_code(success, arguments.max_rejected_share)


def _places(arguments: Arguments) -> tuple[dt.date, str, str]:
    if arguments.demo:
        folder = Path(tempfile.mkdtemp(prefix="msmtfn-demo-"))
        logger.info("writing a small day of calls to %s", folder)
        return DEMO_DATE, str(write_demo_day(folder, DEMO_DATE)), str(folder / "leads")
    return cast(dt.date, arguments.date), cast(str, arguments.manifests), cast(str, arguments.leads)


def _model_folder(name: str, scratch: Path) -> Path:
    if name == DEMO:
        return demo_model()
    (scratch / "model").mkdir()
    return fetch_model(name, scratch / "model")


def _exit_code(success: dict[str, Any], max_rejected_share: float) -> int:
    share = success["rejected"] / max(success["calls"], 1)
    if share <= max_rejected_share:
        return EXIT_DONE
    logger.error(
        "%.1f %% of the calls were rejected, more than --max-rejected-share allows (%.1f %%)",
        100 * share,
        100 * max_rejected_share,
    )
    return EXIT_TOO_MANY_REJECTED


if __name__ == "__main__":
    sys.exit(main())
