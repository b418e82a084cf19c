"""The command `outcomes`, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from msmtfn.cli import main
from tests.daily.parts import DATE
from tests.delivery.days import lead, publish_leads


@pytest.fixture
def leads(tmp_path: Path) -> str:
    root = str(tmp_path / "leads")
    publish_leads(root, [lead(f"c{rank}", rank, 100.0 - rank) for rank in range(1, 41)])
    return root


def test_the_figures_are_shown_and_written_and_the_page_has_them(
    leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, report = tmp_path / "outcomes.csv", tmp_path / "out", tmp_path / "report"
    file.write_text("call_id,converted\nc1,true\nc2,true\nc3,false\nc40,false\nnobody,true\n")
    assert main(["outcomes", "--outcomes", str(file), "--leads", leads, "--out", str(out), "--first", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"Outcomes of 4 leads, of 40 scored from {DATE} to {DATE}; 1 rows not used, unknown 1: ")
    assert json.loads(shown[-1]) == {"job": "outcomes", "exit_code": 0}
    figures = {(row["measure"], row["slice"]): row for row in pq.read_table(out / "outcomes.parquet").to_pylist()}
    assert (figures["first", "2"]["conversion"], figures["first", "2"]["lift"]) == (1.0, 2.0)
    assert pq.read_table(out / "unused.parquet")["call_id"].to_pylist() == ["nobody"]
    options = ["--date", f"{DATE}", "--report", str(report), "--report-outcomes", str(out)]
    assert main(["report", "--leads", leads, *options]) == 0
    assert "the outcome is known: 2 were converted, 50.0 %." in (report / f"date={DATE}" / "index.html").read_text()


def test_rows_that_are_not_used_are_written_even_if_none_is(
    leads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outcomes.csv").write_text("call_id,converted\nnobody,true\n")
    out = tmp_path / "out"
    arguments = ["--outcomes", str(tmp_path / "outcomes.csv"), "--leads", leads, "--out", str(out)]
    assert main(["outcomes", *arguments]) == 1
    assert "no row belongs to a lead" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert pq.read_table(out / "unused.parquet")["reason"].to_pylist() == ["unknown"]


@pytest.mark.parametrize(
    "options", [["--days", "0"], ["--first", "0"], ["--out", "leads"], ["--outcomes", "out/outcomes.parquet"]]
)
def test_what_cannot_be_wanted_is_wrong_usage(
    leads: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--outcomes": "outcomes.csv", "--leads": "leads", "--out": "out"} | dict([options])
    arguments = [
        each
        for option, value in given.items()
        for each in (option, value if value.isdigit() else str(tmp_path / value))
    ]
    assert main(["outcomes", *arguments]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exit_code"] == 2
