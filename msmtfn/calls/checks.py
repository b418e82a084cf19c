"""Check the columns of one call that the jobs interpret; a fault rejects only that call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn.calls.rounds import AGENT, CUSTOMER, UNKNOWN_ROLE, Turn
from msmtfn.errors import CallError, RejectCode, require
from msmtfn.labels import INTENTS

SPEAKERS: Final = (AGENT, CUSTOMER)
MAX_QUOTED_CHARS: Final = 2
MAX_URI_CHARS: Final = 4096  # no file system has longer paths, and resolving one takes quadratic time
FREE_TURNS: Final = 100
"""Number of turns that any recording may have, so that a short one is not judged by its density."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptConfig:
    """Limits on the transcript of a call, far above those of real calls."""

    max_turns: int = 50_000
    """Maximum number of turns in a call."""
    max_turns_per_sec: float = 20.0
    """Maximum number of turns per second of the recording, beyond the first 100; people take less than one."""
    max_turn_chars: int = 200_000
    """Maximum number of characters in the text of a turn."""
    max_transcript_chars: int = 2_000_000
    """Maximum number of characters in the text of a call; an hour of speech has about 60,000."""
    max_rounds: int = 20_000
    """Maximum number of rounds in a call."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a limit is not positive.
        """
        for name in self.__slots__:
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0, and finite")


def check_call(uri: str | None, intent: str | None, agent_channel: int | None, row_error: str | None) -> str:
    """Check the scalar columns of one call and return its uri.

    Raises:
        CallError: the row violates the contract (`bad_row`).
    """
    if row_error is not None:
        raise CallError(RejectCode.BAD_ROW, row_error)
    if not uri:
        raise CallError(RejectCode.BAD_ROW, "uri is empty; it must name the recording")
    if len(uri) > MAX_URI_CHARS:
        raise CallError(RejectCode.BAD_ROW, f"uri has {len(uri)} characters; at most {MAX_URI_CHARS} are allowed")
    if intent is not None and intent not in INTENTS:
        # A longer value may be a transcript or a phone number in the wrong column, so it is not quoted.
        shown = repr(intent) if len(intent) <= MAX_QUOTED_CHARS else "a longer text"
        raise CallError(RejectCode.BAD_ROW, f"intent is {shown}; it must be one of {', '.join(INTENTS)} or null")
    if agent_channel is not None and agent_channel not in (0, 1):
        raise CallError(RejectCode.BAD_ROW, "agent_channel is neither 0, 1 nor null")
    return uri


def check_transcript(turns: pa.Array, limits: TranscriptConfig) -> None:
    """Check the size of a call's transcript before its turns become Python objects.

    Args:
        turns: (1,) the column `turns` of one call, of the contract's type.
        limits: the limits.

    Raises:
        CallError: the transcript exceeds a limit (`bad_row`).
    """
    flat = pc.list_flatten(turns)
    lengths = pc.fill_null(pc.utf8_length(pc.struct_field(flat, "text")), 0).to_numpy(zero_copy_only=False)
    _check_limit("turns has", len(flat), "turns", limits.max_turns, "--max-turns")
    _check_limit("a turn has", int(np.max(lengths, initial=0)), "characters", limits.max_turn_chars, "--max-turn-chars")
    total = int(lengths.sum(dtype=np.int64))
    _check_limit("turns has", total, "characters", limits.max_transcript_chars, "--max-transcript-chars")


def check_density(num_turns: int, duration_sec: float, limits: TranscriptConfig) -> None:
    """Check that a recording is long enough for the number of turns in its transcript.

    Raises:
        CallError: there are more turns than anybody can take in that time (`bad_row`).
    """
    limit = FREE_TURNS + math.floor(limits.max_turns_per_sec * duration_sec)
    _check_limit(f"a recording of {duration_sec:.1f} s has", num_turns, "turns", limit, "--max-turns-per-sec")


def check_rounds(num_rounds: int, limits: TranscriptConfig) -> None:
    """Check the number of rounds of a call.

    Raises:
        CallError: there are too many (`bad_row`).
    """
    _check_limit("the call has", num_rounds, "rounds", limits.max_rounds, "--max-rounds")


def _check_limit(what: str, number: int, unit: str, limit: int, option: str) -> None:
    if number > limit:
        raise CallError(RejectCode.BAD_ROW, f"{what} {number} {unit}; at most {limit} are allowed ({option})")


def parse_turns(row: Sequence[Mapping[str, Any] | None] | None) -> list[Turn] | None:
    """Return the turns of one call after checking them; None if the call has no transcript.

    Raises:
        CallError: a turn violates the contract (`bad_row`).
    """
    if row is None:
        return None
    return [_parse_turn(number, turn) for number, turn in enumerate(row)]


def _parse_turn(number: int, turn: Mapping[str, Any] | None) -> Turn:
    if turn is None:
        raise CallError(RejectCode.BAD_ROW, f"turn {number} is null")
    speaker, start_sec, end_sec = turn["speaker"], turn["start_sec"], turn["end_sec"]
    if speaker not in SPEAKERS and not (speaker and UNKNOWN_ROLE.fullmatch(speaker)):
        # The value may be a person's name, a phone number or text in the wrong field, so it is not quoted.
        problem = "no speaker" if speaker is None else "another speaker"
        raise CallError(RejectCode.BAD_ROW, f"turn {number} has {problem}; it must be agent or customer")
    if start_sec is None or end_sec is None or not (math.isfinite(start_sec) and math.isfinite(end_sec)):
        raise CallError(
            RejectCode.BAD_ROW, f"turn {number} lacks its start or its end; both must be finite numbers of seconds"
        )
    if not 0 <= start_sec <= end_sec:
        raise CallError(
            RejectCode.BAD_ROW,
            f"turn {number} runs from {start_sec:g} s to {end_sec:g} s; 0 <= start_sec <= end_sec must hold",
        )
    return Turn(speaker=speaker, start_sec=start_sec, end_sec=end_sec, text=turn["text"] or "")
