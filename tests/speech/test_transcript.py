from __future__ import annotations

import json

import pytest

from msmtfn.speech.transcript import HeardCall, Transcript
from msmtfn.speech.turns import SpokenTurn

HEARD = HeardCall("zh", False, (SpokenTurn(0, 0.5, 1.5, "您好", 0.9), SpokenTurn(1, 2.0, 2.5, "喂", None)), 1.5, 3.0)


def test_what_was_heard_is_read_as_it_was_written() -> None:
    assert HeardCall.from_json(HEARD.to_json()) == HEARD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**json.loads(HEARD.to_json()), "speech_sec": "long"}),
        json.dumps({**json.loads(HEARD.to_json()), "turns": [{"speaker": 0}]}),
        HEARD.to_json().replace("0.5", "9.5"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, or ours
        HeardCall.from_json(text)


def test_the_rows_of_turns_have_the_speakers_names() -> None:
    rows = Transcript(HEARD, ["agent", "customer"], 0.9).rows_of_turns()
    assert [row["speaker"] for row in rows] == ["agent", "customer"]
    assert rows[0] == {"speaker": "agent", "start_sec": 0.5, "end_sec": 1.5, "text": "您好", "confidence": 0.9}
