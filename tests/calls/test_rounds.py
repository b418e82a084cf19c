from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from msmtfn.calls.activity import ActivityConfig
from msmtfn.calls.rounds import (
    Round,
    RoundsConfig,
    Turn,
    check_turns,
    detect_turns,
    find_rounds,
    rounds_from_activity,
    rounds_from_turns,
    rounds_from_windows,
)
from msmtfn.errors import CallError, RejectCode
from tests.calls.conversations import SAMPLE_RATE, SPLIT, TRUNCATE, agent, customer, two_channels

# ---- examples worked out by hand


def test_a_round_lasts_until_the_agents_first_turn_after_the_customer() -> None:
    turns = [agent(1, 2, "a"), agent(3, 4, "b"), customer(5, 6, "c"), customer(7, 8, "d"), agent(10, 11, "e")]
    assert rounds_from_turns(turns, 20.0, TRUNCATE) == [Round(1, 10, "a b c d"), Round(10, 11, "e")]


def test_a_call_that_opens_with_the_customer_opens_with_a_round_without_the_agent() -> None:
    turns = [customer(0.5, 2, "hello"), agent(3, 4, "hi"), customer(4, 5, "yes")]
    assert rounds_from_turns(turns, 20.0, TRUNCATE) == [Round(0.5, 3, "hello"), Round(3, 5, "hi yes")]


def test_turns_are_sorted_by_start_and_ties_keep_their_order() -> None:
    turns = [customer(5, 6, "third"), agent(1, 2, "first"), agent(1, 3, "second")]
    assert rounds_from_turns(turns, 20.0, TRUNCATE) == [Round(1, 6, "first second third")]


def test_empty_texts_leave_no_double_space() -> None:
    turns = [agent(0, 1, "one"), customer(1, 2, ""), customer(2, 3, " two "), customer(3, 4, " ")]
    assert rounds_from_turns(turns, 20.0, TRUNCATE) == [Round(0, 4, "one two")]


def test_the_last_round_lasts_until_an_earlier_turn_that_it_interrupts_ends() -> None:
    turns = [customer(0, 10, "long"), agent(2, 3, "mhm")]
    assert rounds_from_turns(turns, 20.0, TRUNCATE) == [Round(0, 2, "long"), Round(2, 10, "mhm")]


def test_turns_are_clipped_to_the_recording() -> None:
    assert rounds_from_turns([agent(1, 9, "cut")], 5.0, TRUNCATE) == [Round(1, 5, "cut")]


def test_a_turn_after_the_recording_gives_its_text_to_the_last_round() -> None:
    turns = [agent(1, 2, "in"), customer(2, 3, "side"), agent(7, 8, "outside")]
    assert rounds_from_turns(turns, 5.0, TRUNCATE) == [Round(1, 3, "in side outside")]


def test_rounds_that_start_at_the_same_time_are_merged() -> None:
    turns = [agent(1, 1, "a"), customer(1, 2, "b"), agent(1, 3, "c"), customer(4, 5, "d")]
    assert rounds_from_turns(turns, 10.0, TRUNCATE) == [Round(1, 5, "a b c d")]


def test_the_text_of_an_empty_turn_at_the_end_goes_to_the_previous_round() -> None:
    turns = [agent(0, 1, "a"), customer(1, 2, "b"), agent(2, 2, "c")]
    assert rounds_from_turns(turns, 10.0, TRUNCATE) == [Round(0, 2, "a b c")]


def test_an_overlong_round_is_truncated_and_keeps_its_text() -> None:
    turns = [agent(5, 30, "a"), customer(50, 100, "b"), agent(100, 101, "c")]
    assert rounds_from_turns(turns, 200.0, TRUNCATE) == [Round(5, 45, "a b"), Round(100, 101, "c")]


def test_an_overlong_round_is_split_and_texts_stay_where_their_turns_start() -> None:
    turns = [agent(5, 30, "a"), customer(45, 50, "b"), customer(80, 100, "c"), agent(100, 101, "d")]
    assert rounds_from_turns(turns, 200.0, SPLIT) == [
        Round(5, 45, "a"),
        Round(45, 85, "b c"),
        Round(85, 100, ""),
        Round(100, 101, "d"),
    ]


@pytest.mark.parametrize(("start_sec", "window"), [(50.0, 1), (200.0, 2)], ids=["without_length", "outside"])
def test_turns_without_audio_give_windows_with_the_text_in_the_nearest_one(start_sec: float, window: int) -> None:
    turns = [agent(start_sec, start_sec, "a"), customer(start_sec, start_sec, "b")]
    rounds = rounds_from_turns(turns, 90.0, TRUNCATE)
    assert [(piece.start_sec, piece.end_sec) for piece in rounds] == [(0, 40), (40, 80), (80, 90)]
    assert [piece.text for piece in rounds] == ["a b" if index == window else "" for index in range(3)]


@pytest.mark.parametrize(
    ("duration_sec", "edges_sec"),
    [
        (100.0, [0, 40, 80, 100]),
        (80.0, [0, 40, 80]),
        (80.00000000000001, [0, 40, 80.00000000000001]),
        (0.001, [0, 0.001]),
        (5e-324, [0, 5e-324]),
    ],
)
def test_windows_cover_the_call_and_none_is_empty(duration_sec: float, edges_sec: list[float]) -> None:
    windows = rounds_from_windows(duration_sec, TRUNCATE)
    assert windows == [Round(start, end, "") for start, end in pairwise(edges_sec)]


def test_rounding_errors_add_no_window() -> None:
    config = RoundsConfig(max_round_sec=0.1)
    assert len(rounds_from_windows(0.1 + 0.1 + 0.1, config)) == 3  # 0.30000000000000004


@pytest.mark.parametrize("config", [TRUNCATE, SPLIT])
def test_the_last_window_is_never_too_short_for_the_encoder(config: RoundsConfig) -> None:
    edges = [edge for window in rounds_from_windows(80.01, config) for edge in (window.start_sec, window.end_sec)]
    assert edges == pytest.approx([0, 40, 40, 79.96, 79.96, 80.01])


def test_the_last_piece_of_a_long_round_is_never_too_short_for_the_encoder() -> None:
    rounds = rounds_from_turns([agent(5, 30, "a"), customer(45, 45.01, "b")], 200.0, SPLIT)
    assert [edge for piece in rounds for edge in (piece.start_sec, piece.end_sec)] == pytest.approx(
        [5, 44.96, 44.96, 45.01]
    )
    assert [piece.text for piece in rounds] == ["a", "b"]


def test_untimed_text_goes_to_the_first_window() -> None:
    assert rounds_from_windows(60.0, TRUNCATE, text="all of it") == [Round(0, 40, "all of it"), Round(40, 60, "")]


def test_an_empty_recording_has_no_rounds() -> None:
    assert rounds_from_windows(0.0, TRUNCATE, text="x") == []
    assert rounds_from_turns([agent(0, 1, "x")], 0.0, TRUNCATE) == []
    assert rounds_from_activity(np.zeros((2, 0), dtype=np.float32), SAMPLE_RATE, 0, TRUNCATE) == []


def test_turns_are_detected_on_both_channels_in_order_of_their_start() -> None:
    channels = two_channels(10.0, [agent(1, 2), customer(3, 5), agent(4.5, 7)])
    assert detect_turns(channels, 0, SAMPLE_RATE, ActivityConfig()) == [agent(1, 2), customer(3, 5), agent(4.5, 7)]
    assert detect_turns(channels, 1, SAMPLE_RATE, ActivityConfig()) == [customer(1, 2), agent(3, 5), customer(4.5, 7)]


def test_rounds_from_activity_follow_the_detected_turns() -> None:
    channels = two_channels(20.0, [agent(1, 2), customer(3, 5), agent(8, 10), customer(11, 12)])
    assert rounds_from_activity(channels, SAMPLE_RATE, 0, TRUNCATE) == [Round(1, 8, ""), Round(8, 12, "")]


# ---- choice of the method


def test_the_manifests_turns_take_precedence_over_activity() -> None:
    channels = two_channels(20.0, [agent(1, 2), customer(3, 5)])
    turns = [agent(7, 8, "a"), customer(8, 9, "b")]
    assert find_rounds(channels, SAMPLE_RATE, turns, 0, TRUNCATE) == [Round(7, 9, "a b")]


@pytest.mark.parametrize("turns", [None, []])
def test_two_channels_without_turns_are_cut_by_activity(turns: list[Turn] | None) -> None:
    channels = two_channels(20.0, [customer(1, 2), agent(3, 5)])
    assert find_rounds(channels, SAMPLE_RATE, turns, 0, TRUNCATE) == [Round(1, 3, ""), Round(3, 5, "")]
    assert find_rounds(channels, SAMPLE_RATE, turns, 1, TRUNCATE) == [Round(1, 5, "")]


def test_two_channels_with_an_unknown_agent_are_cut_into_windows() -> None:
    channels = two_channels(50.0, [agent(1, 2), customer(3, 5)])
    assert find_rounds(channels, SAMPLE_RATE, None, None, TRUNCATE) == [Round(0, 40, ""), Round(40, 50, "")]


@pytest.mark.parametrize("agent_channel", [None, 0, 1])
def test_one_channel_is_cut_into_windows(agent_channel: int | None) -> None:
    channels = two_channels(50.0, [agent(1, 2)])[:1]
    assert find_rounds(channels, SAMPLE_RATE, None, agent_channel, TRUNCATE) == [Round(0, 40, ""), Round(40, 50, "")]


def test_two_silent_channels_are_cut_into_windows() -> None:
    assert find_rounds(two_channels(50.0, []), SAMPLE_RATE, None, 0, SPLIT) == [Round(0, 40, ""), Round(40, 50, "")]


WINDOWS = [Round(0, 40, ""), Round(40, 50, "")]


@pytest.mark.parametrize("agent_channel", [0, 1])
def test_a_call_with_a_silent_channel_is_cut_into_windows(agent_channel: int) -> None:
    channels = two_channels(50.0, [agent(1, 2), agent(3, 5), agent(30, 32)])
    assert find_rounds(channels, SAMPLE_RATE, None, agent_channel, TRUNCATE) == WINDOWS
    channels[1] = 0
    assert find_rounds(channels, SAMPLE_RATE, None, agent_channel, TRUNCATE) == WINDOWS


def test_a_call_with_a_hum_on_one_channel_is_cut_into_windows() -> None:
    channels = two_channels(50.0, [agent(1, 2), agent(3, 5)])
    channels[1] = 0.1 * np.sin(2 * np.pi * 50 / SAMPLE_RATE * np.arange(50 * SAMPLE_RATE))
    assert find_rounds(channels, SAMPLE_RATE, None, 0, TRUNCATE) == WINDOWS


def test_turns_of_one_speaker_keep_the_whole_call_and_their_texts() -> None:
    turns = [customer(45, 46, "c"), customer(5, 6, "a"), customer(39, 42, "b")]
    rounds = find_rounds(two_channels(50.0, []), SAMPLE_RATE, turns, 0, TRUNCATE)
    assert rounds == [Round(0, 40, "a b"), Round(40, 50, "c")]


def test_turns_in_milliseconds_are_a_bad_row() -> None:
    turns = [agent(0, 4000), customer(5000, 9000), agent(9500, 20_000)]
    with pytest.raises(
        CallError, match=r"3 of 3 turns lie after the end .* ends at 20000 s: are they milliseconds"
    ) as caught:
        find_rounds(two_channels(20.0, []), SAMPLE_RATE, turns, 0, TRUNCATE)
    assert caught.value.code is RejectCode.BAD_ROW


def test_turns_of_another_recording_are_a_bad_row() -> None:
    with pytest.raises(CallError, match=r"2 of 3 turns lie after .* do they belong to another recording"):
        check_turns([agent(1, 2), customer(90, 95), agent(100, 3_600_000)], 20.0)


def test_a_turn_that_ends_long_after_the_recording_is_clipped() -> None:
    turns = [agent(0, 99_999, "all of it")]
    assert find_rounds(two_channels(20.0, []), SAMPLE_RATE, turns, 0, TRUNCATE) == [Round(0, 20, "all of it")]


@pytest.mark.parametrize("first_ms", [0, 3])
def test_a_turn_that_starts_in_the_recording_by_chance_does_not_hide_milliseconds(first_ms: float) -> None:
    with pytest.raises(CallError, match=r"2 of 2 turns .* are they milliseconds"):
        check_turns([agent(first_ms, 1500), customer(1500, 4000)], 4.0)


def test_turns_that_go_on_a_little_after_the_end_belong_to_the_recording() -> None:
    check_turns([agent(1, 2), customer(3, 24), agent(21, 23), customer(24, 25)], 20.0)


def test_an_agent_channel_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agent_channel is 2; .* 0 or 1"):
        find_rounds(two_channels(1.0, []), SAMPLE_RATE, None, 2, TRUNCATE)


def test_detecting_turns_in_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1000\)"):
        detect_turns(two_channels(1.0, [])[:1], 0, SAMPLE_RATE, ActivityConfig())


@pytest.mark.parametrize("max_round_sec", [0.0, -1.0, math.nan, math.inf])
def test_an_error_names_a_wrong_round_length(max_round_sec: float) -> None:
    with pytest.raises(ValueError, match=rf"^max_round_sec is {max_round_sec}; it must be finite"):
        RoundsConfig(max_round_sec=max_round_sec)


def test_an_error_names_an_unknown_treatment_of_overlong_rounds() -> None:
    with pytest.raises(ValueError, match=r"^overlong_rounds is 'drop'; it must be 'truncate' or 'split'"):
        RoundsConfig(overlong_rounds="drop")  # type: ignore[arg-type]


# ---- a real call


def test_a_real_call_has_as_many_rounds_as_exchanges_by_its_turns_and_by_its_activity(recordings: Path) -> None:
    samples, sample_rate = soundfile.read(recordings / "auto_repairs_40.flac", dtype="float32")
    turns = [Turn(**turn) for turn in json.loads((recordings / "auto_repairs_40.turns.json").read_text())]
    by_turns = find_rounds(samples.T, sample_rate, turns, 0, TRUNCATE)
    by_activity = find_rounds(samples.T, sample_rate, None, 0, TRUNCATE)
    assert 8 <= len(by_turns) <= 40  # actually 12
    assert 8 <= len(by_activity) <= 40  # actually 12


@pytest.mark.parametrize("speakers", [("speaker_1", "speaker_1", "speaker_1"), ("agent", "customer", "agent")])
def test_a_turn_may_be_a_round_whoever_speaks(speakers: tuple[str, ...]) -> None:
    turns = [Turn(speaker, second, second + 0.5, f"turn {second}") for second, speaker in enumerate(speakers)]
    channels = np.zeros((1, 8000 * 4), np.float32)
    rounds = find_rounds(channels, 8000, turns, None, RoundsConfig(round_unit="turn", outer_silence="drop"))
    assert rounds == [Round(0.0, 1.0, "turn 0"), Round(1.0, 2.0, "turn 1"), Round(2.0, 2.5, "turn 2")]
