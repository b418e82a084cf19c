from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from msmtfn.daily.schedule import estimate_day, newest_unscored_day, other_unscored_days
from msmtfn.errors import ManifestError
from tests.daily.parts import write_success

TODAY = dt.date(2026, 3, 10)


def day(number: int) -> dt.date:
    return dt.date(2026, 3, number)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for name in ("date=2026-03-02", "date=2026-03-03", "date=2026-03-05", "date=soon", "other"):
        (tmp_path / "manifests" / name).mkdir(parents=True)
    return tmp_path / "manifests"


@pytest.fixture
def leads(tmp_path: Path) -> Path:
    return tmp_path / "leads"


def publish(leads: Path, date: dt.date, **said: Any) -> None:
    write_success(leads, date, **{"calls": 100, "seconds": 50.0, "audio_hours": 2.0, **said})


def test_the_newest_day_without_leads_is_due(manifests: Path, leads: Path) -> None:
    assert newest_unscored_day(str(manifests), str(leads)) == day(5)
    publish(leads, day(5))
    assert newest_unscored_day(str(manifests), str(leads)) == day(3)
    for number in (2, 3):
        publish(leads, day(number))
    assert newest_unscored_day(str(manifests), str(leads)) is None


def test_days_just_before_without_leads_are_reported(manifests: Path, leads: Path) -> None:
    assert other_unscored_days(str(manifests), str(leads), day(5)) == [day(2), day(3)]
    assert other_unscored_days(str(manifests), str(leads), day(5), number=1) == [day(3)]
    publish(leads, day(3))
    assert other_unscored_days(str(manifests), str(leads), day(5)) == [day(2)]


def test_without_any_day_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no folder date=YYYY-MM-DD"):
        newest_unscored_day(str(tmp_path), str(tmp_path))


def test_a_day_is_expected_to_cost_what_the_median_day_before_it_cost(leads: Path) -> None:
    assert estimate_day(str(leads), TODAY, 400) is None
    publish(leads, day(1), seconds=40.0)
    publish(leads, day(2), seconds=50.0)
    publish(leads, day(3), seconds=9000.0)
    publish(leads, day(11), seconds=1.0)  # after it
    estimate = estimate_day(str(leads), TODAY, 400)
    assert estimate is not None
    assert (estimate.seconds, estimate.audio_hours, estimate.num_days) == (200.0, 8.0, 3)


def test_fixed_costs_are_expected_once(leads: Path) -> None:
    publish(leads, day(1), seconds=30.0, startup_seconds=20.0)
    estimate = estimate_day(str(leads), TODAY, 400)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(20 + 4 * 10)


def test_days_whose_seconds_are_not_those_of_all_their_calls_tell_nothing(leads: Path) -> None:
    publish(leads, day(1), calls_resumed=10)
    publish(leads, day(2), retried=3)
    publish(leads, day(3), calls=0)
    assert estimate_day(str(leads), TODAY, 400) is None


def test_a_day_whose_success_cannot_be_read_tells_nothing(leads: Path) -> None:
    publish(leads, day(1))
    publish(leads, day(2), seconds="a minute")
    estimate = estimate_day(str(leads), TODAY, 400)
    assert estimate is not None
    assert estimate.num_days == 1


def test_an_estimate_is_made_from_two_weeks(leads: Path) -> None:
    for number in range(1, 21):
        publish(leads, day(number), seconds=1000.0 if number <= 6 else 50.0)
    estimate = estimate_day(str(leads), day(21), 100)
    assert estimate is not None
    assert (estimate.seconds, estimate.num_days) == (50.0, 14)
