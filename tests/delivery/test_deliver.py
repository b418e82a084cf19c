from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from msmtfn.daily.publish import read_success
from msmtfn.delivery.deliver import DeliveryConfig, deliver_day
from msmtfn.errors import LockedError, UsageError
from msmtfn.storage.overlap import NamedLocation
from tests.daily.parts import DATE
from tests.delivery.days import lead, publish_leads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"customer_days": 0}, "--customer-days is 0"),
        ({"report_leads": 0}, "--report-leads is 0"),
        ({"recording_url_template": "x"}, "--recording-url-template is 'x'"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeliveryConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["report", "customers"])
@pytest.mark.parametrize("root", ["/data/leads", "/data/leads/x", "/data", "/data/calls/x"])
def test_nothing_is_delivered_into_or_around_the_leads_or_what_is_read(option: str, root: str) -> None:
    config = replace(DeliveryConfig(), **{option: root})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"--{option} {root} overlaps"):
        config.refuse_overlaps("/data/leads", [NamedLocation("--manifests", "/data/calls")])


def test_page_and_customers_do_not_share_a_folder() -> None:
    with pytest.raises(UsageError, match="overlaps"):
        DeliveryConfig(report="/data/a", customers="/data/a").refuse_overlaps("/data/leads")


def test_a_day_is_delivered_as_far_as_asked(tmp_path: Path) -> None:
    leads, root = str(tmp_path / "leads"), tmp_path / "out"
    publish_leads(leads, [lead("c1", 1, 90.0)])
    deliver_day(leads, DATE, DeliveryConfig())
    assert not root.exists()
    deliver_day(leads, DATE, DeliveryConfig(report=str(root / "report"), customers=str(root / "customers")))
    assert (root / "report" / f"date={DATE}" / "index.html").is_file()
    assert read_success(str(root / "customers"), DATE) is not None


def test_a_run_that_has_lost_its_day_delivers_nothing(tmp_path: Path) -> None:
    leads, root = str(tmp_path / "leads"), tmp_path / "out"
    publish_leads(leads, [lead("c1", 1, 90.0)])

    def lost() -> None:
        raise LockedError("taken over")

    config = DeliveryConfig(report=str(root / "report"), customers=str(root / "customers"))
    with pytest.raises(LockedError):
        deliver_day(leads, DATE, config, lost)
    assert read_success(str(root / "customers"), DATE) is None
    assert not (root / "report").exists()
