"""Facts of a call, computed from who speaks when: shares of talk and silence, monologue, reply delay, interruptions.

Terms, which decide every figure:

- A *stretch* is one voice's time without a gap: its segments that overlap or touch are one stretch.
- A stretch that lies within a stretch of the other voice is a *backchannel* ("mhm"): it does not take the turn. Of two
  stretches with the same start and end, the second voice's is the backchannel.
- A *turn* is a run of one voice's stretches, backchannels left out, until the other voice takes over.

All times are clipped to the recording first, and segments without length are dropped.
Shapes: N segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

AGENT, CUSTOMER = 0, 1
VOICES: Final = (AGENT, CUSTOMER)
SECONDS_PER_MINUTE: Final = 60

Spans = npt.NDArray[np.float64]
"""(N, 2) start and end in seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Speakers of a recording, and when each of them speaks.

    Attributes:
        voices: (N,) the voice of each segment, `AGENT` or `CUSTOMER`. Where only `voices` are known, 0 and 1 tell two
            voices apart; where only `speech` is, they mean nothing.
        spans: (N, 2) start and end of each segment in seconds, in any order; segments may overlap.
        duration_sec: length of the recording.
        known: what is known of the speakers: their roles, that there are two voices, or only that somebody speaks.
    """

    voices: npt.NDArray[np.int8]
    spans: Spans
    duration_sec: float
    known: Literal["roles", "voices", "speech"] = "roles"

    def speech(self, *voices: int) -> Spans:
        """Return the disjoint stretches, in order, in which any of these voices speaks; of all voices by default."""
        chosen = np.isin(self.voices, voices) if voices else np.ones(len(self.voices), np.bool_)
        return merge_spans(np.clip(self.spans[chosen], 0.0, self.duration_sec))


@dataclass(frozen=True, kw_only=True, slots=True)
class CallFacts:
    """Facts of a call; None where they cannot be known, or where nothing happened that they measure.

    Attributes:
        agent_talk_share: share of the time with any speech in which the agent speaks, 0 to 1; with the customer's share
            it adds up to more than 1 where they overlap.
        longest_monologue_sec: longest time that a voice speaks within one turn, pauses not counted.
        customer_reply_delay_sec: median time from the end of an agent's turn to the start of the customer's turn after
            it; negative where they overlap.
        interruptions: number of turns that start while the other voice still speaks.
        silence_share: share of the recording in which nobody speaks, 0 to 1.
        turns_per_min: number of turns per minute of the recording.
    """

    agent_talk_share: float | None = None
    longest_monologue_sec: float | None = None
    customer_reply_delay_sec: float | None = None
    interruptions: int | None = None
    silence_share: float | None = None
    turns_per_min: float | None = None


def compute_facts(timeline: Timeline) -> CallFacts | None:
    """Compute the facts of a call; None where the voices are not known, or the recording has no length."""
    if timeline.known == "speech" or timeline.duration_sec <= 0:
        return None
    has_roles = timeline.known == "roles"
    talk_sec = total_sec(timeline.speech())
    voices, spans, spoken_sec = find_turns(timeline)
    gaps_sec = spans[1:, 0] - spans[:-1, 1]
    replies_sec = gaps_sec[voices[1:] == CUSTOMER] if has_roles else gaps_sec[:0]
    return CallFacts(
        agent_talk_share=total_sec(timeline.speech(AGENT)) / talk_sec if has_roles and talk_sec else None,
        longest_monologue_sec=float(spoken_sec.max(initial=0.0)),
        customer_reply_delay_sec=float(np.median(replies_sec)) if len(replies_sec) else None,
        interruptions=int((gaps_sec < 0).sum()),
        silence_share=1.0 - talk_sec / timeline.duration_sec,
        turns_per_min=SECONDS_PER_MINUTE * len(spans) / timeline.duration_sec,
    )


def find_turns(timeline: Timeline) -> tuple[npt.NDArray[np.int8], Spans, npt.NDArray[np.float64]]:
    """Return the turns of a call, in which the two voices alternate.

    Returns:
        The voice of each turn, its start and end, and the seconds that it holds without its pauses.
    """
    first, second = (timeline.speech(voice) for voice in VOICES)
    first_takes = ~_lie_within(first, second, equal_ones=False)
    second_takes = ~_lie_within(second, first, equal_ones=True)
    spans = np.concatenate([first[first_takes], second[second_takes]])
    voices = np.repeat(np.array(VOICES, np.int8), [first_takes.sum(), second_takes.sum()])
    order = np.argsort(spans[:, 0], kind="stable")  # none lies within another, so the ends are in order, too
    spans, voices = spans[order], voices[order]
    starts = np.flatnonzero(np.diff(voices, prepend=np.int8(-1)))
    if not len(starts):
        return voices, spans, np.zeros(0)
    ends = np.append(starts[1:], len(voices)) - 1
    spoken_sec = np.add.reduceat(spans[:, 1] - spans[:, 0], starts)
    return voices[starts], np.stack([spans[starts, 0], spans[ends, 1]], axis=1), spoken_sec


def merge_spans(spans: Spans) -> Spans:
    """Merge spans that overlap or touch, and drop those without length; the result is in order."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    ends = np.maximum.accumulate(spans[:, 1])
    is_first = np.append(True, spans[1:, 0] > ends[:-1])
    return np.stack([spans[is_first, 0], ends[np.append(is_first[1:], True)]], axis=1)


def total_sec(spans: Spans) -> float:
    """Return the sum of the lengths of spans."""
    return float((spans[:, 1] - spans[:, 0]).sum())


def _lie_within(spans: Spans, others: Spans, *, equal_ones: bool) -> npt.NDArray[np.bool_]:
    """Return (N,) True for spans that lie within one of the other voice; spans of a voice are disjoint and in order."""
    if not len(others):
        return np.zeros(len(spans), np.bool_)
    # Only the last of the others that starts no later can reach this far.
    place = np.searchsorted(others[:, 0], spans[:, 0], side="right") - 1
    candidates = others[np.maximum(place, 0)]
    is_within: npt.NDArray[np.bool_] = (place >= 0) & (candidates[:, 1] >= spans[:, 1])
    return is_within if equal_ones else is_within & (candidates != spans).any(axis=1)
