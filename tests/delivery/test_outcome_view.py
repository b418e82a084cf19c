from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.delivery.figures import FIGURES, FIGURES_FILE, read_figures
from msmtfn.delivery.outcome_view import MAX_GROUPS, OutcomesView, read_outcomes_view
from msmtfn.errors import OutcomesError
from tests.delivery.test_page import HOSTILE, SHOWN, page_of


def figure(measure: str, name: str, leads: int = 100, **columns: Any) -> dict[str, Any]:
    dates = {"first_date": dt.date(2026, 10, 25), "last_date": dt.date(2026, 11, 21)}
    shares = {"conversion": 0.25, "low": 0.2, "high": 0.3, "lift": 1.0, "mean_score": 50.0}
    return {"measure": measure, "slice": name, "leads": leads, "converted": leads // 4, **shares, **dates, **columns}


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    storage.write_parquet(str(folder / FIGURES_FILE), pa.Table.from_pylist(rows, schema=FIGURES))
    return str(folder)


def test_groups_that_differ_come_first_and_then_the_largest(tmp_path: Path) -> None:
    groups = [figure("agent_id", f"a{place:02}", leads=100 + place) for place in range(MAX_GROUPS + 5)]
    groups.append(figure("agent_id", "small", leads=50, warning="differs", p_adjusted=0.01))
    view = read_outcomes_view(write(tmp_path / "out", [figure("all", "all"), *groups]))
    assert isinstance(view, OutcomesView)
    ((measure, rows, hidden),) = view.tables
    assert (measure, hidden, view.differing) == ("agent_id", 6, 1)
    assert [row["name"] for row in rows[:2]] == ["small", "a24"]


def test_a_single_group_is_not_shown(tmp_path: Path) -> None:
    view = read_outcomes_view(write(tmp_path / "out", [figure("all", "all"), figure("language", "zh")]))
    assert isinstance(view, OutcomesView)
    assert view.tables == []


def test_the_page_shows_what_became_of_the_leads(tmp_path: Path) -> None:
    rows = [figure("all", "all", 1200), figure("decile", "1"), figure("band", "90-100", 20, warning="too_few")]
    rows += [figure("agent_id", HOSTILE, warning="differs", p_adjusted=0.012), figure("agent_id", "bo")]
    view = read_outcomes_view(write(tmp_path / "out", rows))
    page = page_of(tmp_path / "leads", [], outcomes=view)
    said = "Of 1,200 leads of 2026-10-25 to 2026-11-21 the outcome is known: 300 were converted, 25.0 %."
    assert {said, "too few to tell", "differs (adjusted p 0.01)", "By agent"} <= set(page.texts["span"])
    assert SHOWN in page.texts["bdi"]
    assert page.find("img") == []
    assert {"id": "outcomes"} in page.find("section")


def test_a_table_that_is_missing_is_told_and_the_page_is_written(tmp_path: Path) -> None:
    page = page_of(tmp_path / "leads", [], outcomes=read_outcomes_view(str(tmp_path / "missing")))
    assert any(text.startswith("The table of outcomes cannot be read: ") for text in page.texts["span"])


def test_without_the_option_the_page_has_no_such_section(tmp_path: Path) -> None:
    page = page_of(tmp_path / "leads", [])
    assert {"id": "outcomes"} not in page.find("section")
    assert "#outcomes" not in {each.get("href") for each in page.find("a")}


@pytest.mark.parametrize("data", [b"nothing", b""])
def test_a_file_that_is_no_such_table_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(OutcomesError, match="no table that `msmtfn outcomes` wrote"):
        read_figures(str(tmp_path / "x"))


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    storage.write_parquet(str(tmp_path / "x"), pa.table({"a": [1]}))
    with pytest.raises(OutcomesError, match="no table"):
        read_figures(str(tmp_path / "x"))
