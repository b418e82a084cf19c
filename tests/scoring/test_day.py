"""A day scored from Python, on the Ray that the process is connected to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import ray

import msmtfn
from msmtfn.daily.lock import lock_day
from msmtfn.daily.publish import read_leads
from msmtfn.errors import JobError, LockedError, UsageError
from msmtfn.features.prepare import PrepareConfig
from msmtfn.features.processor_config import ActivityOptions
from msmtfn.scoring.graph import ScoringConfig
from tests.integration.job import DATE, write_short_calls


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return write_short_calls(tmp_path / "manifests", 3)


def score(manifests: Path, model: Path, *, force: bool = False, retry_rejected: bool = False) -> msmtfn.Success:
    leads = manifests.parent / "leads"
    return msmtfn.score_day(
        DATE, manifests=manifests, leads=leads, model=model, force=force, retry_rejected=retry_rejected
    )


@pytest.mark.usefixtures("ray_address")
def test_a_day_is_scored_once_and_again_only_if_forced(manifests: Path, tiny_model: Path) -> None:
    success = score(manifests, tiny_model)
    assert (success.calls, success.scored, success.model) == (3, 3, str(tiny_model))
    assert read_leads(str(manifests.parent / "leads"), DATE).count_rows() == 3
    assert score(manifests, tiny_model) == success
    assert score(manifests, tiny_model, force=True).publication != success.publication
    assert ray.is_initialized()  # it is the caller's, and stays


def test_leads_that_overlap_the_manifests_are_refused(manifests: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"--leads .* overlaps --manifests"):
        msmtfn.score_day(DATE, manifests=manifests, leads=manifests / "leads", model=tiny_model)
    assert not (manifests / "leads").exists()


@pytest.mark.parametrize("date", [dt.datetime(2026, 11, 21), "2026-11-21", None])
def test_a_day_is_a_plain_date(date: Any, manifests: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"^date is .*; it must be a datetime\.date"):
        msmtfn.score_day(date, manifests=manifests, leads=manifests.parent / "leads", model=tiny_model)
    assert not (manifests.parent / "leads").exists()


def test_options_that_do_not_go_with_the_model_are_refused_before_the_day_starts(
    manifests: Path, tiny_model: Path
) -> None:
    leads = manifests.parent / "leads"
    config = ScoringConfig(prepare=PrepareConfig(activity=ActivityOptions(open_db=5.0)))
    with pytest.raises(UsageError, match="--open-db 5 cannot be used with this model's other thresholds"):
        msmtfn.score_day(DATE, manifests=manifests, leads=leads, model=tiny_model, config=config)
    assert not leads.exists()


def test_a_day_that_is_not_published_has_no_rejects_to_retry(manifests: Path, tiny_model: Path) -> None:
    with pytest.raises(JobError, match="is not published with this manifest, model and options"):
        score(manifests, tiny_model, retry_rejected=True)
    with pytest.raises(UsageError, match="set one of the two"):
        score(manifests, tiny_model, retry_rejected=True, force=True)


def test_a_day_that_another_run_works_on_is_refused(manifests: Path, tiny_model: Path) -> None:
    with lock_day(str(manifests.parent / "leads"), DATE), pytest.raises(LockedError, match="another run"):
        score(manifests, tiny_model)
