from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus
from msmtfn.corpora.simulation.wording import write_rounds
from msmtfn.speech.roles import RoleConfig, assign_roles, find_agent
from msmtfn.speech.transcript import HeardCall
from msmtfn.speech.turns import SpokenTurn


def heard(*lines: tuple[int, str], by_channel: bool = False) -> HeardCall:
    turns = tuple(SpokenTurn(speaker, place, place + 1, text, 0.9) for place, (speaker, text) in enumerate(lines))
    return HeardCall("en", by_channel, turns, speech_sec=len(lines), duration_sec=len(lines))


ENGLISH = ((0, "Hello?"), (1, "Hi, this is Michelle from Platinum Motors. How can I help you?"), (0, "I need my car."))


def test_the_agent_is_who_has_the_agents_channel() -> None:
    transcript = assign_roles(heard((1, "Hello"), (0, "Hi"), by_channel=True), 1, RoleConfig())
    assert (list(transcript.speakers), transcript.agent_confidence) == (["agent", "customer"], 1.0)


def test_who_greets_with_the_company_is_the_agent_even_if_the_customer_speaks_first() -> None:
    transcript = assign_roles(heard(*ENGLISH), None, RoleConfig())
    assert list(transcript.speakers) == ["customer", "agent", "customer"]
    assert transcript.agent_confidence is not None
    assert transcript.agent_confidence > 0.9


def test_a_channel_number_says_nothing_where_voices_were_told_apart() -> None:
    assert list(assign_roles(heard(*ENGLISH), 0, RoleConfig()).speakers) == ["customer", "agent", "customer"]


def test_roles_below_the_threshold_stay_unknown_and_the_turns_stay() -> None:
    transcript = assign_roles(heard((1, "Mhm."), (0, "Well."), (1, "Okay.")), None, RoleConfig())
    assert list(transcript.speakers) == ["speaker_1", "speaker_2", "speaker_1"]
    assert transcript.agent_confidence is None


def test_a_single_speaker_has_no_role() -> None:
    transcript = assign_roles(
        heard(
            (0, "You have reached the voicemail of Jack."),
        ),
        None,
        RoleConfig(),
    )
    assert (list(transcript.speakers), transcript.agent_confidence) == (["speaker_1"], None)
    assert find_agent([]) == (None, 0.0)


def test_the_agent_of_the_real_call_is_found(recordings: Path) -> None:
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    lines = [(0 if turn["speaker"] == "customer" else 1, turn["text"]) for turn in turns]
    for shown in (lines, lines[1:]):  # whether the agent opens or the customer does
        agent, confidence = find_agent(heard(*shown).turns)
        assert agent == 1
        assert confidence > RoleConfig().min_role_confidence


def test_the_agents_of_simulated_calls_are_found_whoever_speaks_first() -> None:
    plans = plan_corpus(SimulationConfig(calls=60, seed=7))
    right = unsure = 0
    for number, plan in enumerate(plans):
        rounds = write_rounds(plan.latents, np.random.default_rng(number))
        lines = [line for each in rounds for line in ((0, each.agent), (1, each.customer))][number % 2 :]
        agent, confidence = find_agent(heard(*lines).turns)
        unsure += confidence < RoleConfig().min_role_confidence
        right += agent == 0 and confidence >= RoleConfig().min_role_confidence
    assert right >= 0.95 * (len(plans) - unsure)
    assert unsure <= 0.1 * len(plans)


def test_a_threshold_below_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="min_role_confidence is"):
        RoleConfig(min_role_confidence=0.3)
