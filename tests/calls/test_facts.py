from __future__ import annotations

from dataclasses import asdict
from itertools import groupby, pairwise
from statistics import median
from typing import Any, Literal

import numpy as np
import pytest

from msmtfn.calls.facts import AGENT, CUSTOMER, CallFacts, Timeline, compute_facts, merge_spans

Segment = tuple[int, float, float]
NUM_TIMELINES = 1000


def timeline(
    *segments: Segment, duration_sec: float = 60.0, known: Literal["roles", "voices", "speech"] = "roles"
) -> Timeline:
    voices = np.array([voice for voice, _, _ in segments], np.int8)
    spans = np.array([(start, end) for _, start, end in segments], np.float64).reshape(-1, 2)
    return Timeline(voices, spans, duration_sec, known)


def facts_of(*segments: Segment, **options: Any) -> CallFacts:
    facts = compute_facts(timeline(*segments, **options))
    assert facts is not None
    return facts


# ---- a second, plain implementation, on a grid of 10 ms


def draw_timeline(rng: np.random.Generator) -> tuple[list[tuple[int, int, int]], int]:
    """Segments as (voice, start, end) in hundredths of a second, in any order, some past the end of the recording."""
    duration = int(rng.integers(50, 1500))
    segments, now = [], 0
    for _ in range(int(rng.integers(0, 14))):
        now = max(0, now + int(rng.integers(-60, 90)))
        length = int(rng.choice([0, 5, 20, 60, 200]))
        segments.append((int(rng.integers(0, 2)), now, now + length))
        now += length
    rng.shuffle(segments)
    return [(int(voice), int(start), int(end)) for voice, start, end in segments], duration


def stretches_on(cells: list[bool]) -> list[tuple[int, int]]:
    found, place = [], 0
    for is_on, run in groupby(cells):
        length = len(list(run))
        if is_on:
            found.append((place, place + length))
        place += length
    return found


def facts_on_grid(segments: list[tuple[int, int, int]], duration: int) -> dict[str, Any]:
    """Return the facts of a timeline in which the agent is 0 and the customer 1."""
    cells = [[False] * duration for _ in range(2)]
    for voice, start, end in segments:
        for cell in range(start, min(end, duration)):
            cells[voice][cell] = True
    stretches = [stretches_on(of_voice) for of_voice in cells]
    taking = []
    for voice in (0, 1):
        for start, end in stretches[voice]:
            is_equal = (start, end) in stretches[1 - voice]
            is_backchannel = all(cells[1 - voice][start:end]) and not (is_equal and voice == 0)
            if not is_backchannel:
                taking.append((start, end, voice))
    turns = []
    for voice, run in groupby(sorted(taking), key=lambda stretch: stretch[2]):
        inside = list(run)
        turns.append((voice, inside[0][0], inside[-1][1], sum(end - start for start, end, _ in inside)))
    changes = list(pairwise(turns))
    replies = [after[1] - before[2] for before, after in changes if after[0] == 1]
    talk = sum(agent or customer for agent, customer in zip(*cells, strict=True))
    return {
        "agent_talk_share": sum(cells[0]) / talk if talk else None,
        "longest_monologue_sec": max((turn[3] for turn in turns), default=0) / 100,
        "customer_reply_delay_sec": median(replies) / 100 if replies else None,
        "interruptions": sum(after[1] < before[2] for before, after in changes),
        "silence_share": 1 - talk / duration,
        "turns_per_min": len(turns) / (duration / 6000),
    }


def test_a_thousand_timelines_have_the_facts_that_a_grid_of_ten_milliseconds_shows() -> None:
    rng = np.random.default_rng(0)
    seen = {name: set[Any]() for name in CallFacts.__slots__}
    for _ in range(NUM_TIMELINES):
        segments, duration = draw_timeline(rng)
        in_seconds = [(voice, start / 100, end / 100) for voice, start, end in segments]
        facts = asdict(facts_of(*in_seconds, duration_sec=duration / 100))
        assert facts == pytest.approx(facts_on_grid(segments, duration), abs=1e-9), (segments, duration)
        for name, value in facts.items():
            seen[name].add(value)
    assert all(len(values) > 3 for values in seen.values())
    assert None in seen["agent_talk_share"]
    assert min(delay for delay in seen["customer_reply_delay_sec"] if delay is not None) < 0


# ---- the definitions, by hand


def test_the_facts_of_a_short_call_are_those_worked_out_by_hand() -> None:
    facts = facts_of((AGENT, 0, 10), (CUSTOMER, 12, 15), (AGENT, 14, 20), (AGENT, 22, 30), (CUSTOMER, 30.5, 33))
    # talk: 0-10, 12-20, 22-30, 30.5-33 = 28.5 s; of it the agent's 24 s; the longest turn is the agent's 6 + 8 s
    assert asdict(facts) == pytest.approx(
        {
            "agent_talk_share": 24 / 28.5,
            "longest_monologue_sec": 14.0,
            "customer_reply_delay_sec": 1.25,
            "interruptions": 1,
            "silence_share": 31.5 / 60,
            "turns_per_min": 4.0,
        }
    )


def test_a_word_within_the_other_ones_speech_is_neither_turn_nor_interruption() -> None:
    facts = facts_of((AGENT, 0, 20), (CUSTOMER, 5, 6), (CUSTOMER, 21, 25))
    assert (facts.interruptions, facts.turns_per_min, facts.customer_reply_delay_sec) == (0, 2.0, 1.0)
    assert facts.longest_monologue_sec == 20.0


def test_whoever_starts_as_the_other_one_ends_does_not_interrupt() -> None:
    assert facts_of((AGENT, 0, 5), (CUSTOMER, 5, 8)).interruptions == 0
    assert facts_of((AGENT, 0, 5), (CUSTOMER, 4.99, 8)).interruptions == 1


def test_without_roles_the_facts_that_name_a_role_are_null() -> None:
    facts = facts_of((0, 0, 10), (1, 9, 15), known="voices")
    assert (facts.agent_talk_share, facts.customer_reply_delay_sec) == (None, None)
    assert (facts.interruptions, facts.longest_monologue_sec, facts.turns_per_min) == (1, 10.0, 2.0)


def test_without_voices_there_are_no_facts() -> None:
    assert compute_facts(timeline((0, 0, 10), known="speech")) is None
    assert compute_facts(timeline(duration_sec=0.0)) is None


def test_a_silent_call_is_silent() -> None:
    assert facts_of() == CallFacts(longest_monologue_sec=0.0, interruptions=0, silence_share=1.0, turns_per_min=0.0)


def test_spans_that_overlap_or_touch_are_merged() -> None:
    spans = np.array([[5, 6], [0, 2], [2, 3], [1, 1.5], [8, 8]], np.float64)
    assert merge_spans(spans).tolist() == [[0, 3], [5, 6]]
