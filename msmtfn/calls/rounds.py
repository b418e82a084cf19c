"""Cut a call into rounds: by its turns, by the voice activity of its two channels, or into windows.

A round is one exchange: the agent's turns, then the customer's, up to the agent's next turn. Silence is kept, because
a delayed answer is informative: a round lasts until the next one starts, the first one begins with the call, and the
last one ends with it. In corpora of utterances a round is one turn.
Shapes: C channels, S samples.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from msmtfn.calls.activity import ActivityConfig, detect_channel_activity
from msmtfn.errors import CallError, RejectCode, require

Speaker = str
"""Speaker of a turn: `agent` or `customer`; where it is not known who is who, `speaker_1`, `speaker_2` and so on."""

AGENT: Final = "agent"
CUSTOMER: Final = "customer"
UNKNOWN_ROLE: Final = re.compile("speaker_[1-9]")
NUM_SPEAKERS: Final = 2
SMALLEST_MAX_ROUND_SEC: Final = 0.1  # a few frames of the audio encoder; no real answer is shorter
SHORTEST_PIECE_SEC: Final = 0.05
"""Minimum length of the last piece of a longer span: 400 samples at 8 kHz, the first frame of HuBERT."""

END_SLACK_SEC: Final = 1.0
"""Seconds after the end of the recording in which a turn may still start."""

MILLI: Final = 1000
MILLI_SHARE: Final = 0.1
"""Share of the recording that a transcript in milliseconds covers, at least."""

MILLI_SLACK_SEC: Final = 10.0
"""Seconds that the last turn may lie after the end of the recording in a transcript in milliseconds."""

ZERO_LENGTH_SEC: Final = 1e-10  # much less than a sample, much more than the rounding error of a day in seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """An uninterrupted stretch of one speaker with its text; 0 <= start_sec <= end_sec."""

    speaker: Speaker
    start_sec: float
    end_sec: float
    text: str


@dataclass(frozen=True, slots=True)
class Round:
    """An exchange between agent and customer within the recording; start_sec < end_sec.

    Attributes:
        start_sec: start in seconds.
        end_sec: end in seconds.
        text: the texts of its turns.
        stretches: the same by speaker, for networks that read who speaks: stretches of the agent and of others in turn,
            the agent's first, which is empty where somebody else opens. Empty for other networks.
    """

    start_sec: float
    end_sec: float
    text: str
    stretches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsConfig:
    """Options of cutting a call into rounds."""

    max_round_sec: float = 40.0
    """Maximum length of a round in seconds."""
    overlong_rounds: Literal["truncate", "split"] = "truncate"
    """Treatment of longer rounds: truncate drops the excess audio but no text, split makes further rounds of it."""
    round_unit: Literal["exchange", "turn"] = "exchange"
    """What a round is: an exchange of agent and customer, or a turn, whoever speaks."""
    outer_silence: Literal["keep", "drop"] = "keep"
    """Treatment of what precedes the first turn and follows the last: keep makes it part of the first and the last
    round, as far as it fits in beside the speech (truncate) or with further rounds (split)."""
    speakers: Literal["ignore", "mark"] = "ignore"
    """Whether rounds tell who said what (`Round.stretches`)."""
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    """Voice activity detection that finds the turns of a two-channel call without a transcript."""

    def __post_init__(self) -> None:
        seconds, overlong = self.max_round_sec, self.overlong_rounds
        is_possible = SMALLEST_MAX_ROUND_SEC <= seconds < math.inf
        require(is_possible, "max_round_sec", seconds, f"finite and at least {SMALLEST_MAX_ROUND_SEC}")
        require(overlong in ("truncate", "split"), "overlong_rounds", overlong, "'truncate' or 'split'")
        require(self.round_unit in ("exchange", "turn"), "round_unit", self.round_unit, "'exchange' or 'turn'")
        require(self.outer_silence in ("keep", "drop"), "outer_silence", self.outer_silence, "'keep' or 'drop'")
        require(self.speakers in ("ignore", "mark"), "speakers", self.speakers, "'ignore' or 'mark'")


def speaker_name(number: int) -> Speaker:
    """Return the name of a speaker whose role is unknown; the first one heard has the number 1."""
    return f"speaker_{number}"


def find_rounds(
    channels: NDArray[np.float32],
    sample_rate: int,
    turns: Sequence[Turn] | None,
    agent_channel: int | None,
    config: RoundsConfig,
    activity: Sequence[NDArray[np.float64]] | None = None,
) -> list[Round]:
    """Cut a call into rounds in the best way that its data allow.

    Args:
        channels: (C, S) samples in [-1, 1].
        sample_rate: sample rate of `channels` in Hz.
        turns: the transcript; None or empty if there is none.
        agent_channel: channel of the agent in a two-channel call; None if unknown.
        config: options of the rounds.
        activity: the speech on each channel, where `detect_channel_activity` has found it before.

    Returns:
        The rounds, ordered and disjoint, within the recording; at least one unless the recording is empty.

    Raises:
        CallError: the turns do not belong to the recording (`bad_row`).
        ValueError: the call has two channels and `agent_channel` is neither 0 nor 1.
    """
    num_channels, num_samples = channels.shape
    if turns:
        check_turns(turns, num_samples / sample_rate)
        return _rounds_or_windows(turns, num_samples / sample_rate, config, shortest_sec=1 / sample_rate)
    if num_channels == NUM_SPEAKERS and agent_channel is not None:
        return rounds_from_activity(channels, sample_rate, agent_channel, config, activity)
    return rounds_from_windows(num_samples / sample_rate, config)


def check_turns(turns: Sequence[Turn], duration_sec: float) -> None:
    """Check that most turns start in the recording; a turn that ends long after it is clipped.

    In a transcript in milliseconds the first turns may start in it by chance, so there most turns' middles count.

    Raises:
        CallError: they start after its end, for example because their times are in milliseconds (`bad_row`).
    """
    limit_sec = duration_sec + END_SLACK_SEC
    num_outside = sum(turn.start_sec > limit_sec for turn in turns)
    last_sec = max(turn.end_sec for turn in turns)
    is_milli = MILLI_SHARE * duration_sec <= last_sec / MILLI <= duration_sec + MILLI_SLACK_SEC
    if num_outside and is_milli:
        num_outside = max(num_outside, sum((turn.start_sec + turn.end_sec) / 2 > limit_sec for turn in turns))
    if 2 * num_outside <= len(turns):
        return
    guess = "are they milliseconds? Give seconds" if is_milli else "do they belong to another recording?"
    raise CallError(
        RejectCode.BAD_ROW,
        f"{num_outside} of {len(turns)} turns lie after the end of the recording, which lasts {duration_sec:.1f} s; "
        f"the last one ends at {last_sec:.7g} s: {guess}",
    )


def _rounds_or_windows(
    turns: Sequence[Turn], duration_sec: float, config: RoundsConfig, *, shortest_sec: float = ZERO_LENGTH_SEC
) -> list[Round]:
    """Group the turns of two speakers into rounds; those of one speaker have none, so the whole call is cut.

    Where each turn is a round, the number of speakers does not matter.
    """
    if config.round_unit == "turn" or len({turn.speaker for turn in turns}) >= NUM_SPEAKERS:
        return rounds_from_turns(turns, duration_sec, config, shortest_sec=shortest_sec)
    in_order = sorted(turns, key=lambda turn: turn.start_sec)
    return _split_span(0.0, duration_sec, in_order, config) if duration_sec > 0 else []


def rounds_from_turns(
    turns: Sequence[Turn], duration_sec: float, config: RoundsConfig, *, shortest_sec: float = ZERO_LENGTH_SEC
) -> list[Round]:
    """Group turns, which may overlap and come in any order, into rounds.

    An exchange of at most `shortest_sec`, such as a sample, is merged with its predecessor, since a round needs audio.
    Where the silence after the turns is dropped, the last round ends where the last speech of the call ends, even if
    that belongs to an earlier round's turn. If the turns span no audio (there are none, or they lie outside the
    recording), the whole call is cut into windows.
    """
    if duration_sec <= 0:
        return []
    turns = sorted(turns, key=lambda turn: turn.start_sec)
    end_sec = min(max((turn.end_sec for turn in turns if turn.start_sec < duration_sec), default=0.0), duration_sec)
    if not turns or end_sec - turns[0].start_sec <= shortest_sec:
        return _split_span(0.0, duration_sec, turns, config)
    groups = [[turn] for turn in turns] if config.round_unit == "turn" else _group_exchanges(turns)
    exchanges = _merge_empty_exchanges(groups, end_sec, shortest_sec)
    starts_sec = [exchange[0].start_sec for exchange in exchanges]
    ends_sec = [*starts_sec[1:], end_sec]
    if config.outer_silence == "keep":
        # A round that is truncated would lose its last words to the silence before its first.
        room_sec = math.inf if config.overlong_rounds == "split" else config.max_round_sec
        starts_sec[0] = max(0.0, min(starts_sec[0], ends_sec[0] - room_sec))
        ends_sec[-1] = duration_sec
    opener = _opener(turns)
    rounds = []
    for start_sec, round_end_sec, exchange in zip(starts_sec, ends_sec, exchanges, strict=True):
        rounds += _limit_length(start_sec, round_end_sec, exchange, config, opener)
    return rounds


def rounds_from_activity(
    channels: NDArray[np.float32],
    sample_rate: int,
    agent_channel: int,
    config: RoundsConfig,
    activity: Sequence[NDArray[np.float64]] | None = None,
) -> list[Round]:
    """Group the speech detected on two channels into rounds without text.

    A call that is silent, or in which one channel is, is cut into windows.

    Raises:
        ValueError: there are not two channels, or `agent_channel` is neither 0 nor 1.
    """
    turns = detect_turns(channels, agent_channel, sample_rate, config.activity, activity)
    return _rounds_or_windows(turns, channels.shape[1] / sample_rate, config)


def rounds_from_windows(duration_sec: float, config: RoundsConfig, text: str = "") -> list[Round]:
    """Cut the whole call into windows of `max_round_sec`; the last one takes the remainder.

    The first window gets `text`, the text of a call whose times are unknown.
    """
    if duration_sec <= 0:
        return []
    whole_call = Turn("agent", 0.0, duration_sec, text)
    return _split_span(0.0, duration_sec, [whole_call], config)


def detect_turns(
    channels: NDArray[np.float32],
    agent_channel: int,
    sample_rate: int,
    config: ActivityConfig,
    activity: Sequence[NDArray[np.float64]] | None = None,
) -> list[Turn]:
    """Return both speakers' turns, without text, in a two-channel call.

    Args:
        channels: (2, S) samples in [-1, 1], one speaker per channel.
        agent_channel: channel of the agent, 0 or 1.
        sample_rate: sample rate of `channels` in Hz.
        config: thresholds of the voice activity detector.
        activity: what it has found before on each channel; None to run it.

    Returns:
        The turns in order of their start; turns of different speakers may overlap.

    Raises:
        ValueError: there are not two channels, or `agent_channel` is neither 0 nor 1.
    """
    if channels.shape[:-1] != (NUM_SPEAKERS,):
        raise ValueError(f"channels has shape {channels.shape}; turns can only be detected in two channels, (2, S)")
    if agent_channel not in (0, 1):
        raise ValueError(f"agent_channel is {agent_channel!r}; in a two-channel call it must be 0 or 1")
    if activity is None:
        activity = detect_channel_activity(channels, sample_rate, config)
    turns = []
    for channel, segments in enumerate(activity):
        speaker = AGENT if channel == agent_channel else CUSTOMER
        turns += [Turn(speaker, start_sec, end_sec, "") for start_sec, end_sec in segments.tolist()]
    return sorted(turns, key=lambda turn: turn.start_sec)


def _opener(turns: Sequence[Turn]) -> Speaker:
    """Return the agent of a call.

    Where the roles are unknown, whoever speaks first is taken for the agent: the other choice would cut the call into
    as many rounds, or one more.
    """
    speakers = {turn.speaker for turn in turns}
    return AGENT if AGENT in speakers or speakers == {CUSTOMER} else turns[0].speaker


def _group_exchanges(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Group turns into exchanges; a new one starts whenever the agent takes over from somebody else."""
    exchanges: list[list[Turn]] = []
    previous: Speaker | None = None
    opener = _opener(turns)
    for turn in turns:
        if previous is None or (turn.speaker == opener and previous != opener):
            exchanges.append([])
        exchanges[-1].append(turn)
        previous = turn.speaker
    return exchanges


def _merge_empty_exchanges(
    exchanges: Sequence[Sequence[Turn]], end_sec: float, shortest_sec: float
) -> list[list[Turn]]:
    """Merge exchanges with their predecessor where either of the two would otherwise be a round without audio."""
    merged: list[list[Turn]] = []
    for exchange in exchanges:
        start_sec = exchange[0].start_sec
        if merged and min(start_sec - merged[-1][0].start_sec, end_sec - start_sec) <= shortest_sec:
            merged[-1] += exchange
        else:
            merged.append(list(exchange))
    return merged


def _limit_length(
    start_sec: float, end_sec: float, exchange: Sequence[Turn], config: RoundsConfig, opener: Speaker
) -> list[Round]:
    if config.overlong_rounds == "split":
        return _split_span(start_sec, end_sec, exchange, config, opener)
    end_sec = min(end_sec, start_sec + config.max_round_sec)
    return [Round(start_sec, end_sec, _join_texts(exchange), _stretches(exchange, opener, config))]


def _split_span(
    start_sec: float, end_sec: float, turns: Sequence[Turn], config: RoundsConfig, opener: Speaker | None = None
) -> list[Round]:
    """Cut a span into rounds of `max_round_sec`; a turn's text goes to the round in which the turn starts.

    The last round but one is shorter where the last one would otherwise be too short for the audio encoder. The opener
    of the call is by default that of the turns.
    """
    max_round_sec = config.max_round_sec
    if opener is None and turns:
        opener = _opener(turns)
    num_rounds = max(1, math.ceil((end_sec - start_sec - ZERO_LENGTH_SEC) / max_round_sec))
    edges_sec = [*(start_sec + index * max_round_sec for index in range(num_rounds)), end_sec]
    if num_rounds > 1:
        edges_sec[-2] = min(edges_sec[-2], end_sec - SHORTEST_PIECE_SEC)
    turns_of_round: list[list[Turn]] = [[] for _ in range(num_rounds)]
    for turn in turns:
        index = bisect_right(edges_sec[1:-1], turn.start_sec)
        turns_of_round[index].append(turn)
    return [
        Round(*span_sec, _join_texts(spoken), _stretches(spoken, opener, config))
        for span_sec, spoken in zip(pairwise(edges_sec), turns_of_round, strict=True)
    ]


def _join_texts(turns: Sequence[Turn]) -> str:
    return " ".join(text for turn in turns if (text := turn.text.strip()))


def _stretches(turns: Sequence[Turn], opener: Speaker | None, config: RoundsConfig) -> tuple[str, ...]:
    """Return the text by speaker; see `Round.stretches`."""
    if config.speakers == "ignore":
        return ()
    stretches: list[list[Turn]] = [[]]
    for turn in turns:
        is_opener = len(stretches) % 2 == 1
        if not turn.text.strip():
            continue
        if (turn.speaker == opener) != is_opener:
            stretches.append([])
        stretches[-1].append(turn)
    return tuple(map(_join_texts, stretches))
