from __future__ import annotations

import pytest

from msmtfn.calls.checks import check_call, parse_turns
from msmtfn.calls.rounds import Turn
from msmtfn.errors import CallError, RejectCode
from tests.calls.manifests import SECRET, Row, turn

# ---- turns of a call


def test_missing_turns_are_none_and_an_empty_list_stays_empty() -> None:
    assert parse_turns(None) is None
    assert parse_turns([]) == []


def test_rows_become_turns_and_a_missing_text_becomes_empty() -> None:
    assert parse_turns([turn("agent", 0.0, 1.5, "hello"), turn("customer", 1.5, 1.5, None)]) == [
        Turn("agent", 0.0, 1.5, "hello"),
        Turn("customer", 1.5, 1.5, ""),
    ]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (None, "is null"),
        (turn(None, text=SECRET), "no speaker"),
        (turn("robot", text=SECRET), "another speaker"),
        (turn("Agent", text=SECRET), "another speaker"),
        (turn("", text=SECRET), "another speaker"),
        (turn(SECRET, text=SECRET), "another speaker"),
        (turn(start_sec=None, text=SECRET), "lacks its start or its end"),
        (turn(end_sec=None, text=SECRET), "lacks its start or its end"),
        (turn(start_sec=float("nan"), text=SECRET), "lacks its start or its end"),
        (turn(end_sec=float("inf"), text=SECRET), "lacks its start or its end"),
        (turn(start_sec=2.0, end_sec=1.0, text=SECRET), "from 2 s to 1 s"),
        (turn(start_sec=-1.0, end_sec=1.0, text=SECRET), "from -1 s to 1 s"),
    ],
)
def test_a_bad_turn_rejects_its_row_with_its_number_and_without_its_text(broken: Row | None, problem: str) -> None:
    with pytest.raises(CallError, match=f"turn 1 .*{problem}") as caught:
        parse_turns([turn(text=SECRET), broken, turn(text=SECRET)])
    assert caught.value.code == RejectCode.BAD_ROW
    assert SECRET[:4] not in caught.value.detail
    assert "\n" not in caught.value.detail


# ---- a call


@pytest.mark.parametrize(("intent", "agent_channel"), [(None, None), ("A", 0), ("E", 1)])
def test_checking_a_valid_call_returns_its_uri(intent: str | None, agent_channel: int | None) -> None:
    assert check_call("a.wav", intent, agent_channel, None) == "a.wav"


@pytest.mark.parametrize(
    ("uri", "intent", "agent_channel", "row_error", "detail"),
    [
        ("a.wav", None, None, "call_id is empty", "call_id is empty"),
        (None, None, None, None, "uri is empty"),
        ("", None, None, None, "uri is empty"),
        ("a.wav", "F", None, None, "intent is 'F'; it must be one of A, B, C, D, E or null"),
        ("a.wav", "", None, None, "intent is ''"),
        ("a.wav", "a", None, None, "intent is 'a'"),
        ("a" * 4097, None, None, None, "uri has 4097 characters; at most 4096 are allowed"),
        ("a.wav", None, 2, None, "agent_channel is neither 0, 1 nor null"),
        ("a.wav", None, -1, None, "agent_channel is neither 0, 1 nor null"),
    ],
)
def test_a_call_that_violates_the_contract_is_a_bad_row(
    uri: str | None, intent: str | None, agent_channel: int | None, row_error: str | None, detail: str
) -> None:
    with pytest.raises(CallError) as caught:
        check_call(uri, intent, agent_channel, row_error)
    assert caught.value.code == RejectCode.BAD_ROW
    assert caught.value.detail.startswith(detail)


def test_a_phone_number_as_an_intent_is_not_quoted() -> None:
    with pytest.raises(CallError, match="intent is a longer text") as caught:
        check_call("a.wav", "13800001111", None, None)
    assert "138" not in caught.value.detail


def test_a_transcript_as_an_intent_is_not_quoted() -> None:
    with pytest.raises(CallError, match="intent is a longer text; it must be one of A, B, C, D, E or null") as caught:
        check_call("a.wav", SECRET, None, None)
    assert SECRET[:4] not in caught.value.detail
