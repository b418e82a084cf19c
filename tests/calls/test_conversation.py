from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from msmtfn.calls.conversation import ConversationConfig, find_timeline, judge_conversation
from msmtfn.calls.facts import AGENT, CUSTOMER
from msmtfn.calls.rounds import Turn
from tests.calls.test_facts import Segment, timeline

SILENCE = np.zeros((2, 80_000), np.float32)


def judge(*segments: Segment, known: Literal["roles", "voices", "speech"] = "roles", **options: Any) -> str | None:
    return judge_conversation(timeline(*segments, known=known), ConversationConfig(**options))


def test_two_who_speak_are_a_conversation() -> None:
    assert judge((AGENT, 0, 3), (CUSTOMER, 4, 6)) is None


@pytest.mark.parametrize("known", ["roles", "voices", "speech"])
def test_a_recording_without_a_voice_is_no_conversation(known: Any) -> None:
    assert judge(known=known, min_conversation_sec=0.0) == "no_conversation"


@pytest.mark.parametrize("voice", [AGENT, CUSTOMER])
def test_one_voice_is_no_conversation(voice: int) -> None:
    assert judge((voice, 0, 30)) == "no_conversation"
    assert judge((voice, 0, 30), known="voices") == "no_conversation"


def test_where_voices_cannot_be_told_apart_only_the_time_with_a_voice_counts() -> None:
    assert judge((0, 0, 30), known="speech") is None
    assert judge((0, 0, 0.9), known="speech") == "no_conversation"


def test_a_short_conversation_is_none_and_the_threshold_is_an_option() -> None:
    call = ((AGENT, 0, 2), (CUSTOMER, 2, 4))
    assert judge(*call, min_conversation_sec=4.0) is None
    assert judge(*call, min_conversation_sec=4.1) == "no_conversation"


def test_a_customer_who_hardly_speaks_is_too_little_evidence() -> None:
    call = ((AGENT, 0, 30), (CUSTOMER, 31, 31.9))
    assert judge(*call) == "too_little_evidence"
    assert judge(*call, min_customer_sec=0.5) is None


def test_a_customer_who_only_agrees_meanwhile_is_too_little_evidence() -> None:
    call = ((AGENT, 0, 30), (CUSTOMER, 3, 5))
    assert judge(*call) == "too_little_evidence"
    assert judge(*call, min_customer_turns=0) is None


def test_without_roles_whoever_speaks_less_counts() -> None:
    call = ((0, 0, 1.5), (1, 2, 30), (0, 31, 31.1))
    assert judge(*call, known="voices") is None
    assert judge(*call, known="voices", min_customer_sec=2.0) == "too_little_evidence"
    assert judge(*call, known="voices", min_customer_turns=2) == "too_little_evidence"


@pytest.mark.parametrize("name", ["min_conversation_sec", "min_customer_sec", "min_customer_turns"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least 0, and finite"):
        ConversationConfig(**{name: value})  # type: ignore[arg-type]


def test_the_turns_come_before_the_channels() -> None:
    found = find_timeline(SILENCE, 8000, [Turn("customer", 1.0, 2.0, ""), Turn("agent", 3.0, 4.0, "")], 0, [])
    assert (found.known, found.duration_sec) == ("roles", 10.0)
    assert (found.voices.tolist(), found.spans.tolist()) == ([CUSTOMER, AGENT], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("agent_channel", "known", "voices"),
    [(0, "roles", [AGENT, CUSTOMER]), (1, "roles", [CUSTOMER, AGENT]), (None, "voices", [0, 1])],
)
def test_without_turns_the_channels_tell_who_speaks(agent_channel: int | None, known: str, voices: list[int]) -> None:
    noise = np.random.default_rng(0).standard_normal((2, 80_000)).astype(np.float32)
    activity = [np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]
    found = find_timeline(noise, 8000, None, agent_channel, activity)
    assert (found.known, found.voices.tolist(), found.spans.tolist()) == (known, voices, [[1, 2], [3, 4]])


def test_one_channel_without_turns_tells_only_that_somebody_speaks() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 80_000)).astype(np.float32)
    assert find_timeline(noise, 8000, None, 0, [np.array([[1.0, 2.0]])]).known == "speech"
