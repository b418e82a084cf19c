"""What is heard in a call, and the columns of the published transcripts, declared once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from msmtfn.rows import ROW_ID
from msmtfn.speech.turns import SpokenTurn

TRANSCRIBED: Final = "transcribed"
"""Status of a call that was heard, whether anybody speaks in it or not."""

HEARD_TURN: Final = pa.struct(
    [
        ("speaker", pa.string()),
        ("start_sec", pa.float64()),
        ("end_sec", pa.float64()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
    ]
)
IDENTITY: Final = pa.schema([("call_id", pa.string()), ("uri", pa.string())])
OUTCOME: Final = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("reason", pa.string()),
        ("language", pa.string()),
        ("turns", pa.list_(HEARD_TURN)),
        ("agent_confidence", pa.float32()),
        ("speech_sec", pa.float64()),
        ("duration_sec", pa.float64()),
        ("num_invented", pa.int32()),
        ("recogniser", pa.string()),
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("transcribed_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""Columns that transcription adds to a call."""

TRANSCRIPTS: Final = pa.schema([*IDENTITY, *OUTCOME])
PARTS: Final = pa.schema([pa.field(ROW_ID, pa.int64()), *TRANSCRIPTS])


class Reason(StrEnum):
    """Reason of a transcript without turns, although the recording could be read."""

    NO_SPEECH = "no_speech"
    """The detector of speech found none: silence, ringing, music."""
    NOTHING_RECOGNISED = "nothing_recognised"
    """There is speech in which the recogniser heard no words."""
    INVENTED = "invented"
    """All that the recogniser wrote counts as invented."""
    HAS_TURNS = "has_turns"
    """The manifest has turns of its own, which win, so the call was not recognised."""


@dataclass(frozen=True, slots=True)
class HeardCall:
    """Call as a recogniser heard it, before it is known who of the speakers is the agent.

    Attributes:
        language: language of the call; None if unknown.
        by_channel: whether a speaker's number is that of a channel; if not, the speakers were told apart by voice.
        turns: the turns, in order of their start.
        speech_sec: seconds in which somebody speaks.
        duration_sec: length of the recording.
        num_invented: number of segments that count as invented.
        reason: why there are no turns; None if there are.
    """

    language: str | None
    by_channel: bool
    turns: tuple[SpokenTurn, ...]
    speech_sec: float
    duration_sec: float
    num_invented: int = 0
    reason: str | None = None

    def to_json(self) -> str:
        """Return the content as JSON, for the cache."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> HeardCall:
        """Read what `to_json` returns.

        Raises:
            ValueError: it is something else.
        """
        try:
            content = json.loads(text)
            turns = tuple(SpokenTurn(**turn) for turn in content.pop("turns"))
            heard = cls(turns=turns, **content)
            heard.check()
        except (TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise ValueError(f"it is not what was heard in a call ({type(exc).__name__})") from exc
        return heard

    def check(self) -> None:
        """Check the types of what was read.

        Raises:
            TypeError: one is wrong.
        """
        for turn in self.turns:
            fits = isinstance(turn.speaker, int) and isinstance(turn.text, str) and 0 <= turn.start_sec <= turn.end_sec
            if not fits or not (turn.confidence is None or 0 <= turn.confidence <= 1):
                raise TypeError
        if not (isinstance(self.by_channel, bool) and self.speech_sec >= 0 and self.duration_sec >= 0):
            raise TypeError


@dataclass(frozen=True, slots=True)
class Transcript:
    """Transcript of a call: what was heard, and who said it.

    Attributes:
        heard: what was heard.
        speakers: name of the speaker of each turn: `agent`, `customer`, or `speaker_1`, `speaker_2` if unknown.
        agent_confidence: probability that the agent is the agent; 1 where the manifest says so, None if unknown.
    """

    heard: HeardCall
    speakers: Sequence[str]
    agent_confidence: float | None

    def rows_of_turns(self) -> list[dict[str, Any]]:
        """Return the turns as rows of `HEARD_TURN`."""
        return [
            {
                "speaker": speaker,
                "start_sec": turn.start_sec,
                "end_sec": turn.end_sec,
                "text": turn.text,
                "confidence": turn.confidence,
            }
            for speaker, turn in zip(self.speakers, self.heard.turns, strict=True)
        ]
