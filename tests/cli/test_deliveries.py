"""The commands `report` and `export`, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msmtfn.cli import main
from tests.daily.parts import DATE
from tests.delivery.days import lead, publish_leads


@pytest.fixture
def leads(tmp_path: Path) -> str:
    root = str(tmp_path / "leads")
    rows = [lead("c1", 1, 90.0, customer_id="x"), lead("c2", None, 9.0, customer_id="y", unranked_reason="refused")]
    publish_leads(root, rows)
    return root


def test_page_and_customers_of_a_published_day_are_made_again(
    leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, customers = str(tmp_path / "report"), str(tmp_path / "customers")
    arguments = ["report", "--leads", leads, "--date", f"{DATE}", "--report", report, "--customers", customers]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Customers: 2, ranked 1, refused 1: {customers}/date={DATE}"
    assert lines[1] == f"Page: {report}/date={DATE}/index.html"
    assert json.loads(lines[-1]) == {"job": "report", "exit_code": 0}


@pytest.mark.parametrize(
    "options", [[], ["--report", "leads/x"], ["--report", "r", "--recording-url-template", "javascript:{call_id}"]]
)
def test_a_page_that_cannot_be_wanted_is_wrong_usage(
    leads: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.replace("leads", leads) for option in options]
    assert main(["report", "--leads", leads, "--date", f"{DATE}", *given]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exit_code"] == 2


def test_a_day_is_exported(leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert main(["export", "hubspot", "--leads", leads, "--date", f"{DATE}", "--out", str(out)]) == 0
    assert out.read_text().splitlines()[0].startswith("msmtfn_lead_id,")
    assert f"2 leads of {DATE} are in {out}" in capsys.readouterr().out


def test_nothing_is_exported_into_the_leads(leads: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "csv", "--leads", leads, "--date", f"{DATE}", "--out", f"{leads}/out.csv"]) == 2
    assert "--out" in capsys.readouterr().out


def test_a_day_that_is_not_published_fails(leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--leads", leads, "--date", "2020-01-01", "--report", str(tmp_path / "report")]) == 1
    assert "not published" in capsys.readouterr().out
