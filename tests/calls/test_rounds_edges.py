"""The silence around the turns of a call, and who says what in its rounds."""

from __future__ import annotations

import numpy as np
import pytest

from msmtfn.calls.rounds import Round, RoundsConfig, Turn, find_rounds, rounds_from_activity, rounds_from_turns
from tests.calls.conversations import SAMPLE_RATE, agent, customer, two_channels

KEEP, KEEP_SPLIT = RoundsConfig(), RoundsConfig(overlong_rounds="split")
MARK = RoundsConfig(speakers="mark")


# ---- silence before the first turn and after the last


def test_the_first_round_begins_with_the_call_and_the_last_ends_with_it() -> None:
    turns = [agent(2, 4, "a"), customer(5, 6, "b"), agent(8, 9, "c")]
    assert rounds_from_turns(turns, 20.0, KEEP) == [Round(0, 8, "a b"), Round(8, 20, "c")]
    assert rounds_from_turns(turns[:2], 20.0, KEEP) == [Round(0, 20, "a b")]


def test_without_it_they_begin_and_end_with_the_speech() -> None:
    turns = [agent(2, 4, "a"), customer(5, 6, "b"), agent(8, 9, "c")]
    config = RoundsConfig(outer_silence="drop")
    assert rounds_from_turns(turns, 20.0, config) == [Round(2, 8, "a b"), Round(8, 9, "c")]


def test_a_long_silence_takes_no_room_from_the_speech_of_a_truncated_round() -> None:
    turns = [agent(50, 60, "a"), customer(60, 75, "b"), agent(75, 80, "c")]
    assert rounds_from_turns(turns, 200.0, KEEP) == [Round(35, 75, "a b"), Round(75, 115, "c")]
    assert rounds_from_turns(turns[:2], 200.0, KEEP) == [Round(35, 75, "a b")]
    assert rounds_from_turns([agent(50, 60, "a"), customer(60, 95, "b")], 200.0, KEEP) == [Round(50, 90, "a b")]


def test_a_long_silence_makes_further_rounds_where_rounds_are_split() -> None:
    turns = [agent(50, 60, "a"), customer(60, 75, "b"), agent(75, 80, "c")]
    assert rounds_from_turns(turns, 120.0, KEEP_SPLIT) == [
        Round(0, 40, ""),
        Round(40, 75, "a b"),
        Round(75, 115, "c"),
        Round(115, 120, ""),
    ]


def test_the_silence_is_kept_where_the_turns_are_detected() -> None:
    channels = two_channels(20.0, [agent(1, 2), customer(3, 5), agent(8, 10), customer(11, 12)])
    assert rounds_from_activity(channels, SAMPLE_RATE, 0, KEEP) == [Round(0, 8, ""), Round(8, 20, "")]


def test_the_silence_is_kept_where_every_turn_is_a_round() -> None:
    turns = [customer(1, 2, "a"), customer(3, 4, "b")]
    rounds = find_rounds(np.zeros((1, 8000 * 6), np.float32), 8000, turns, None, RoundsConfig(round_unit="turn"))
    assert rounds == [Round(0, 3, "a"), Round(3, 6, "b")]


# ---- who says what


def stretches_of(*turns: Turn, config: RoundsConfig = MARK) -> list[tuple[str, ...]]:
    channels = np.zeros((1, 8000 * 120), np.float32)
    return [piece.stretches for piece in find_rounds(channels, 8000, turns, None, config)]


def test_an_exchange_is_the_agents_text_and_the_customers() -> None:
    turns = [agent(0, 1, "a "), agent(1, 2, "b"), customer(2, 3, "c"), customer(3, 4, ""), agent(4, 5, "d")]
    assert stretches_of(*turns) == [("a b", "c"), ("d",)]


def test_the_agents_text_is_empty_where_the_customer_opens() -> None:
    assert stretches_of(customer(0, 1, "a"), agent(1, 2, "b"), customer(2, 3, "c")) == [("", "a"), ("b", "c")]


def test_silent_turns_do_not_change_the_speaker() -> None:
    assert stretches_of(agent(0, 1, " "), customer(1, 2, ""), agent(2, 3, ""), customer(3, 4, "a")) == [
        ("",),
        ("", "a"),
    ]


def test_whoever_speaks_first_is_taken_for_the_agent_where_roles_are_unknown() -> None:
    turns = [
        Turn(speaker, second, second + 1, str(second)) for second, speaker in enumerate(("speaker_2", "speaker_1"))
    ]
    assert stretches_of(*turns) == [("0", "1")]
    assert stretches_of(*turns, Turn("speaker_3", 2, 3, "2"), Turn("speaker_2", 3, 4, "3")) == [("0", "1 2"), ("3",)]


def test_a_round_of_one_turn_tells_who_speaks() -> None:
    config = RoundsConfig(speakers="mark", round_unit="turn")
    assert stretches_of(agent(0, 1, "a"), customer(1, 2, "b"), config=config) == [("a",), ("", "b")]


def test_the_pieces_of_a_split_round_keep_the_agent_of_the_call() -> None:
    config = RoundsConfig(speakers="mark", overlong_rounds="split")
    turns = [agent(0, 5, "a"), customer(5, 30, "b"), customer(45, 50, "c"), customer(90, 95, "d")]
    assert stretches_of(*turns, config=config) == [("a", "b"), ("", "c"), ("", "d")]


def test_windows_tell_who_speaks_in_a_call_of_one_speaker() -> None:
    assert stretches_of(agent(5, 6, "a"), agent(50, 51, "b")) == [("a",), ("b",), ("",)]
    assert stretches_of(customer(5, 6, "a")) == [("", "a"), ("",), ("",)]


def test_networks_that_ignore_the_speakers_get_no_stretches() -> None:
    assert stretches_of(agent(0, 1, "a"), customer(1, 2, "b"), config=RoundsConfig()) == [()]


@pytest.mark.parametrize("field", ["outer_silence", "speakers"])
def test_an_unknown_way_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is 'both'; it must be '(keep|ignore)' or '(drop|mark)'"):
        RoundsConfig(**{field: "both"})  # type: ignore[arg-type]
