"""Properties of the rounds of any call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msmtfn.calls.rounds import (
    Round,
    RoundsConfig,
    Speaker,
    Turn,
    detect_turns,
    rounds_from_activity,
    rounds_from_turns,
    rounds_from_windows,
)
from tests.calls.conversations import SAMPLE_RATE, two_channels


def seconds(lowest: float, highest: float) -> st.SearchStrategy[float]:
    """Any time, often a whole number of seconds, so that times coincide."""
    whole = st.integers(math.ceil(lowest), math.floor(highest)).map(float)
    return st.one_of(whole, st.floats(lowest, highest))


@st.composite
def turn_lists(draw: st.DrawFn) -> list[Turn]:
    turns = []
    for index in range(draw(st.integers(0, 12))):
        speaker: Speaker = draw(st.sampled_from(["agent", "customer"]))
        start_sec = draw(seconds(0, 150))
        text = draw(st.sampled_from(["", f"t{index}", f"t{index} and more"]))
        turns.append(Turn(speaker, start_sec, start_sec + draw(seconds(0, 60)), text))
    return turns


def configs(*overlong_rounds: Literal["truncate", "split"]) -> st.SearchStrategy[RoundsConfig]:
    return st.builds(
        RoundsConfig,
        max_round_sec=seconds(0.5, 60),
        overlong_rounds=st.sampled_from(overlong_rounds),
        outer_silence=st.sampled_from(["keep", "drop"]),
    )


any_config = configs("truncate", "split")
durations = st.one_of(seconds(0, 120), st.floats(5e-324, 1e-6))


def uncovered(start_sec: float, end_sec: float, rounds: Sequence[Round]) -> list[tuple[float, float]]:
    """Return the parts of a span that lie in none of the rounds, which are ordered and disjoint."""
    edges = [-math.inf, *(edge for piece in rounds for edge in (piece.start_sec, piece.end_sec)), math.inf]
    holes = [(max(start_sec, low), min(end_sec, high)) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    return [(low, high) for low, high in holes if high > low]


def assert_valid(rounds: Sequence[Round], duration_sec: float, config: RoundsConfig) -> None:
    """Check that the rounds are ordered, disjoint, not empty, not too long and within the recording."""
    edges = [edge for piece in rounds for edge in (piece.start_sec, piece.end_sec)]
    assert edges == sorted(edges)
    assert all(0 < piece.end_sec - piece.start_sec <= config.max_round_sec + 1e-9 for piece in rounds)
    assert len(rounds) >= (duration_sec > 0)
    assert not rounds or (edges[0] >= 0 and edges[-1] <= duration_sec)


def assert_turns_covered(turns: Sequence[Turn], rounds: Sequence[Round], duration_sec: float) -> None:
    """Check that the rounds cover all turns."""
    for turn in turns:
        assert uncovered(turn.start_sec, min(turn.end_sec, duration_sec), rounds) == []


def assert_only_truncated(
    turns: Sequence[Turn], rounds: Sequence[Round], duration_sec: float, config: RoundsConfig
) -> None:
    """Check that audio of a turn is missing only between a round of maximum length and the next round."""
    full = [piece.end_sec for piece in rounds if piece.end_sec - piece.start_sec >= config.max_round_sec - 1e-9]
    for turn in turns:
        for lost_sec, _ in uncovered(turn.start_sec, min(turn.end_sec, duration_sec), rounds):
            assert max((piece.end_sec for piece in rounds if piece.end_sec <= lost_sec), default=None) in full


@given(turns=turn_lists(), duration_sec=durations, config=any_config)
def test_rounds_from_turns_are_valid(turns: list[Turn], duration_sec: float, config: RoundsConfig) -> None:
    assert_valid(rounds_from_turns(turns, duration_sec, config), duration_sec, config)


@given(turns=turn_lists(), duration_sec=durations.filter(bool), config=any_config)
def test_no_text_is_lost_duplicated_or_moved(turns: list[Turn], duration_sec: float, config: RoundsConfig) -> None:
    texts = [piece.text for piece in rounds_from_turns(turns, duration_sec, config) if piece.text]
    in_order = [turns[index] for _, index in sorted((turn.start_sec, index) for index, turn in enumerate(turns))]
    assert " ".join(texts) == " ".join(turn.text for turn in in_order if turn.text)


@given(turns=turn_lists(), duration_sec=durations, config=configs("split"))
def test_splitting_loses_no_speech(turns: list[Turn], duration_sec: float, config: RoundsConfig) -> None:
    assert_turns_covered(turns, rounds_from_turns(turns, duration_sec, config), duration_sec)


@given(turns=turn_lists(), duration_sec=durations, config=configs("truncate"))
def test_truncating_loses_speech_only_after_a_round_of_maximum_length(
    turns: list[Turn], duration_sec: float, config: RoundsConfig
) -> None:
    assert_only_truncated(turns, rounds_from_turns(turns, duration_sec, config), duration_sec, config)


@given(turns=turn_lists(), duration_sec=durations)
def test_truncating_and_splitting_agree_if_no_round_is_too_long(turns: list[Turn], duration_sec: float) -> None:
    truncate, split = (RoundsConfig(max_round_sec=300, overlong_rounds=way) for way in ("truncate", "split"))
    assert rounds_from_turns(turns, duration_sec, truncate) == rounds_from_turns(turns, duration_sec, split)


@given(turns=turn_lists(), duration_sec=durations, config=any_config)
def test_the_outer_silence_adds_to_the_first_and_the_last_round_only(
    turns: list[Turn], duration_sec: float, config: RoundsConfig
) -> None:
    config = replace(config, overlong_rounds="truncate")
    kept, dropped = (
        rounds_from_turns(turns, duration_sec, replace(config, outer_silence=way)) for way in ("keep", "drop")
    )
    assert [piece.text for piece in kept] == [piece.text for piece in dropped]
    assert [piece.start_sec for piece in kept[1:]] == [piece.start_sec for piece in dropped[1:]]
    assert [piece.end_sec for piece in kept[:-1]] == pytest.approx([piece.end_sec for piece in dropped[:-1]])
    for more, less in zip(kept, dropped, strict=True):
        assert more.start_sec <= less.start_sec
        assert more.end_sec >= less.end_sec - 1e-9


@given(turns=turn_lists(), duration_sec=durations, config=any_config)
def test_the_stretches_of_a_round_are_its_text(turns: list[Turn], duration_sec: float, config: RoundsConfig) -> None:
    plain = rounds_from_turns(turns, duration_sec, config)
    marked = rounds_from_turns(turns, duration_sec, replace(config, speakers="mark"))
    assert [replace(piece, stretches=()) for piece in marked] == plain
    assert [" ".join(filter(None, piece.stretches)) for piece in marked] == [piece.text for piece in plain]
    assert not any("" in piece.stretches[1:] for piece in marked)


@given(duration_sec=st.one_of(durations, seconds(0, 40_000)), config=any_config)
def test_windows_are_valid_and_cover_the_recording(duration_sec: float, config: RoundsConfig) -> None:
    windows = rounds_from_windows(duration_sec, config, text="all of it")
    assert_valid(windows, duration_sec, config)
    assert uncovered(0.0, duration_sec, windows) == []
    assert [window.text for window in windows if window.text] == ["all of it"] * (duration_sec > 0)


@given(count=st.integers(1, 2000), max_round_sec=st.floats(0.5, 60))
def test_a_multiple_of_the_window_length_gives_that_many_windows(count: int, max_round_sec: float) -> None:
    windows = rounds_from_windows(count * max_round_sec, RoundsConfig(max_round_sec=max_round_sec))
    assert len(windows) == count


@settings(deadline=None)
@given(turns=turn_lists(), num_samples=st.integers(0, 60_000), config=any_config, agent_channel=st.integers(0, 1))
def test_rounds_from_activity_are_valid_and_lose_no_detected_speech(
    turns: list[Turn], num_samples: int, config: RoundsConfig, agent_channel: int
) -> None:
    duration_sec = num_samples / SAMPLE_RATE
    channels = two_channels(duration_sec, turns)
    rounds = rounds_from_activity(channels, SAMPLE_RATE, agent_channel, config)
    found = detect_turns(channels, agent_channel, SAMPLE_RATE, config.activity)
    assert_valid(rounds, duration_sec, config)
    assert {piece.text for piece in rounds} <= {""}
    if config.overlong_rounds == "split" or len({turn.speaker for turn in found}) < 2:
        assert_turns_covered(found, rounds, duration_sec)
    else:
        assert_only_truncated(found, rounds, duration_sec, config)
