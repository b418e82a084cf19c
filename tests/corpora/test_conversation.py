from __future__ import annotations

import numpy as np
import pytest

from msmtfn.corpora.conversation import SpokenLine, lay_out_channels, speak_lines
from msmtfn.corpora.speech import Synthesizer, Voice

pytest.importorskip("espeakng_loader")

LINES = [
    SpokenLine(speaker="agent", text="您好。", voice=Voice(), level_db=-20.0, pause_sec=0.5),
    SpokenLine(speaker="customer", text="不需要。", voice=Voice(pitch=70), level_db=-26.0, pause_sec=0.25),
]
TRACKS = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)


def test_lines_follow_one_another_after_their_pauses() -> None:
    (agent, customer), tracks = speak_lines(LINES, 0.125, Synthesizer())

    assert agent.start_sec == 0.125
    assert customer.start_sec == pytest.approx(agent.end_sec + 0.5)
    assert tracks.shape[1] / 8_000 == pytest.approx(customer.end_sec + 0.25)
    assert [turn.text for turn in (agent, customer)] == ["您好。", "不需要。"]


def test_every_voice_has_its_own_track_and_level() -> None:
    turns, tracks = speak_lines(LINES, 0.125, Synthesizer())

    for speaker, (turn, line) in enumerate(zip(turns, LINES, strict=True)):
        spoken = tracks[:, round(turn.start_sec * 8_000) : round(turn.end_sec * 8_000)]
        assert 10 * np.log10(np.mean(spoken[speaker] ** 2)) == pytest.approx(line.level_db, abs=0.1)
        assert not spoken[1 - speaker].any()


@pytest.mark.parametrize(
    ("agent_channel", "expected"), [(None, [[1, 2]]), (0, [[1, 0], [0, 2]]), (1, [[0, 2], [1, 0]])]
)
def test_the_agent_is_recorded_on_the_agent_channel(agent_channel: int | None, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(lay_out_channels(TRACKS, agent_channel), expected)
