from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from msmtfn.daily.success import Success
from msmtfn.daily.summary import best_leads, compare_with_labels, summarize
from msmtfn.leads.schema import parts_schema
from tests.daily.parts import DATE, RECORD, publish, rejected, scored


def said_of(leads: str, success: Success, *, is_trained: bool = True, width: int = 120) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(summarize(leads, DATE, success, is_trained=is_trained))
    return capture.get()


def test_the_best_leads_are_the_first_ranks_in_order(place: str) -> None:
    publish(place, [[scored(number, float(number)) for number in range(15)] + [rejected(15)]])
    assert best_leads(place, DATE)["call_id"].to_pylist() == [f"c{number}" for number in range(14, 4, -1)]
    assert best_leads(place, DATE, 2)["lead_rank"].to_pylist() == [1, 2]


def test_a_day_of_few_calls_has_few_best_leads(place: str) -> None:
    publish(place, [[scored(0, 1.0), rejected(1)]])
    assert best_leads(place, DATE)["call_id"].to_pylist() == ["c0"]


def test_a_call_without_an_id_has_no_rank_and_is_not_among_the_best(place: str) -> None:
    publish(place, [[rejected(0, call_id=None), scored(1, 5.0)]])
    assert best_leads(place, DATE)["call_id"].to_pylist() == ["c1"]


def test_the_summary_tells_the_counts_the_model_and_the_place(place: str) -> None:
    calls = [scored(0, 87.25), scored(3, 9.0, unranked_reason="no_consent"), scored(4, 5.0, unranked_reason="refused")]
    success = publish(place, [[*calls, rejected(1, "bad_row"), rejected(2, "audio_empty")]])
    lines = [line.strip() for line in said_of(place, success).splitlines()]
    assert lines[0] == "Leads of 2026-03-02"
    assert lines[1:9] == [
        "calls     5",
        "scored    3",
        "unranked  2 (no_consent 1, refused 1)",
        "rejected  2 (audio_empty 1, bad_row 1)",
        "audio     0.05 hours",
        "time      12.5 seconds",
        "model     tiny, version v1",
        f"leads     {place}/date=2026-03-02",
    ]


def test_the_summary_shows_the_best_leads(place: str) -> None:
    said = said_of(place, publish(place, [[scored(0, 87.25, call_id="the-best", intent_predicted="B", num_rounds=7)]]))
    (line,) = [line for line in said.splitlines() if "the-best" in line]
    assert line.replace("│", " ").split() == ["1", "the-best", "87.2", "B", "60", "7"]


def test_a_day_without_leads_has_no_table(place: str) -> None:
    said = said_of(place, publish(place, [[rejected(0)]]))
    assert "rejected  1 (bad_row 1)" in said
    assert "best leads" not in said


def test_a_day_of_which_no_call_has_a_rank_has_no_table(place: str) -> None:
    assert "best leads" not in said_of(place, publish(place, [[scored(0, 90.0, unranked_reason="refused")]]))


def test_a_day_without_calls_is_reported(place: str) -> None:
    said = said_of(place, publish(place, []))
    assert "calls     0" in said
    assert "best leads" not in said


def test_large_numbers_are_easy_to_read(tmp_path: Any) -> None:
    said = said_of(str(tmp_path), replace(RECORD, calls=1_234_567, rejected=1_234_567))
    assert "calls     1,234,567" in said


def test_an_untrained_model_is_reported(place: str) -> None:
    success = publish(place, [[scored(0, 1.0)]])
    note = "The model is untrained: its scores and this ranking mean nothing."
    assert note in said_of(place, success, is_trained=False)
    assert note not in said_of(place, success, is_trained=True)


@pytest.mark.parametrize("call_id", ["[red]7[/red]", "[/]", "[bold", ":smile:", "日本 7"])
def test_an_id_is_shown_as_it_is(tmp_path: Any, call_id: str) -> None:
    assert call_id in said_of(str(tmp_path), publish(str(tmp_path), [[scored(0, 1.0, call_id=call_id)]]))


def test_a_model_is_named_as_it_is(tmp_path: Any) -> None:
    success = publish(str(tmp_path), [[scored(0, 1.0)]])
    assert "[red]model[/red], version v1" in said_of(str(tmp_path), replace(success, model="[red]model[/red]"))


def test_a_long_id_is_shown_whole_on_a_narrow_terminal(tmp_path: Any) -> None:
    call_id = "x" * 90
    assert (
        said_of(str(tmp_path), publish(str(tmp_path), [[scored(0, 1.0, call_id=call_id)]]), width=60).count("x") == 90
    )


def publish_labelled(place: str, intents: str) -> Success:
    """Publish calls with these labels, best first."""
    rows = [scored(number, 100.0 - number, intent=intent) for number, intent in enumerate(intents)]
    rows[-1]["unranked_reason"] = "refused"
    schema = parts_schema([pa.field("call_id", pa.string()), pa.field("intent", pa.string())])
    return publish(place, [[*rows, rejected(len(rows), intent="A")]], schema=schema)


def test_the_ranking_is_compared_with_the_labels(place: str) -> None:
    success = publish_labelled(place, "ABABABABCD" + "CCCCCCCCCA")
    expected = "By their labels, 8 of the 10 best leads are A or B, against 9 of all 20."
    assert compare_with_labels(place, DATE) == expected
    assert expected in said_of(place, success)


def test_labels_that_cannot_be_compared_cost_the_summary_nothing_else(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    schema = parts_schema([pa.field("call_id", pa.string()), pa.field("intent", pa.int64())])
    success = publish(place, [[scored(number, 100.0 - number, intent=7) for number in range(20)]], schema=schema)
    said = said_of(place, success)
    assert "The 10 best leads" in said
    assert "By their labels" not in said
    assert "the ranking cannot be compared with the labels" in caplog.text


def test_few_labels_are_compared_with_nothing(place: str) -> None:
    publish_labelled(place, "ABABABABCD" + "CCCCCCCCC")
    assert compare_with_labels(place, DATE) is None


def test_a_day_without_labels_is_compared_with_nothing(place: str) -> None:
    publish(place, [[scored(number, 1.0) for number in range(20)]])
    assert compare_with_labels(place, DATE) is None
