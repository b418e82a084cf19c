"""Tell which speaker of a call is the agent: by channel where it is known, else by what is said and how.

The cues are those of a call centre: who greets with the company's name and offers help, who asks, who speaks for a
company ("we"), who is polite by rule ("您", "sir"), who opens. Each speaker's cues are compared with those of all
others; the weights of `WEIGHTS` turn the difference into a probability. Below a threshold the role stays unknown: a
wrong role is worse than none, since rounds are built from two speakers whether or not it is known who is who.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msmtfn.calls.rounds import AGENT, CUSTOMER, speaker_name
from msmtfn.errors import require
from msmtfn.speech.transcript import HeardCall, Transcript
from msmtfn.speech.turns import SpokenTurn

FIRST_TURNS: Final = 3
"""Turns of a speaker in which a greeting is looked for."""

GREETING: Final = re.compile(
    r"thank(s| you) for (calling|holding|choosing)|how (can|may) i (help|assist)|"
    r"\b(this is|my name is|i'm) \w+ (from|with|calling from|at)\b|(on|calling on) behalf of|"
    r"这里是|我是.{1,12}(公司|中心|医院|教育|学校|银行|保险|客服|顾问|经理|老师)|请问.{0,4}(是|您是).{1,8}(先生|女士|小姐)?吗|"
    r"有什么(可以|能)(帮|为)|为您服务|打扰您|给您来电|工号",
    re.IGNORECASE,
)
SERVICE: Final = re.compile(
    r"\b(can|could|may) (i|you) (have|get|confirm|verify|spell|hold|help)|\bin (our|the) system\b|\b(our|we'll|we) "
    r"(offer|team|service|schedule|advisor|department|policy|promotion)|what time works|anything else|"
    r"\bwould you (like|prefer)|let me (check|look|see|pull)|"
    r"我(们|给您|帮您|为您)|咱们(这边|公司)|(优惠|活动|名额|免费|体验|套餐|报名|预约).{0,8}|给您(讲|介绍|安排|发|登记|推荐)|"
    r"您(看|可以|方便|要是|这边)|回访|老客户",
    re.IGNORECASE,
)
POLITE: Final = re.compile(
    r"\b(sir|ma'am|madam|mr|mrs|ms|certainly|of course|absolutely|apologi[sz]e)\b|您|先生|女士", re.IGNORECASE
)
QUESTION: Final = re.compile(
    r"[?？]|\b(what|when|which|how|could you|can you|would you|do you|are you|did you)\b|吗|请问|怎么样|有没有|是不是",
    re.IGNORECASE,
)
CUSTOMERS: Final = re.compile(
    r"\bi'm calling (because|about|to)|\bi (got|bought|have|had|need|want|was wondering)\b|"
    r"\bmy (car|order|account|bill|name)\b|"
    r"不需要|不用了|没兴趣|别(再)?打|多少钱|我(考虑|想想|在忙|没时间|已经)|你们|打错",
    re.IGNORECASE,
)

WEIGHTS: Final[Mapping[str, float]] = {
    "opens": 0.6,
    "greeting": 2.5,
    "service": 4.0,
    "polite": 2.0,
    "question": 1.5,
    "customer": -4.0,
}
"""Weight of each cue, in log odds per unit of the difference between two speakers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleConfig:
    """Options of telling which speaker is the agent."""

    min_role_confidence: float = 0.8
    """Minimum probability with which a speaker is named the agent; below it the roles stay unknown."""

    def __post_init__(self) -> None:
        """Check the threshold.

        Raises:
            ValueError: it is out of range.
        """
        confidence = self.min_role_confidence
        require(0.5 <= confidence <= 1, "min_role_confidence", confidence, "between 0.5 and 1")  # noqa: PLR2004


def assign_roles(heard: HeardCall, agent_channel: int | None, config: RoleConfig) -> Transcript:
    """Name the speakers of a call.

    Args:
        heard: what was heard.
        agent_channel: channel of the agent, of a recording with a channel for each speaker; None if unknown.
        config: options.
    """
    numbers = [turn.speaker for turn in heard.turns]
    if heard.by_channel and agent_channel is not None:
        return Transcript(heard, [AGENT if number == agent_channel else CUSTOMER for number in numbers], 1.0)
    agent, confidence = find_agent(heard.turns)
    if agent is None or confidence < config.min_role_confidence:
        places = {number: place for place, number in enumerate(dict.fromkeys(numbers), start=1)}
        return Transcript(heard, [speaker_name(places[number]) for number in numbers], None)
    return Transcript(heard, [AGENT if number == agent else CUSTOMER for number in numbers], round(confidence, 4))


def find_agent(turns: Sequence[SpokenTurn]) -> tuple[int | None, float]:
    """Return the speaker who is most likely the agent, and the probability; (None, 0) where only one speaks."""
    speakers = list(dict.fromkeys(turn.speaker for turn in turns))
    if len(speakers) < 2:  # noqa: PLR2004
        return None, 0.0
    scores = {speaker: score_cues(find_cues(turns, speaker)) for speaker in speakers}
    best = max(speakers, key=scores.__getitem__)
    others = max(score for speaker, score in scores.items() if speaker != best)
    return best, 1 / (1 + math.exp(others - scores[best]))


def find_cues(turns: Sequence[SpokenTurn], speaker: int) -> dict[str, float]:
    """Return the cues of one speaker, each from 0 to 1.

    Args:
        turns: all turns of the call, in order.
        speaker: number of the speaker.
    """
    texts = [turn.text for turn in turns if turn.speaker == speaker]
    return {
        "opens": float(turns[0].speaker == speaker),
        "greeting": float(any(GREETING.search(text) for text in texts[:FIRST_TURNS])),
        "service": _share(SERVICE, texts),
        "polite": _share(POLITE, texts),
        "question": _share(QUESTION, texts),
        "customer": _share(CUSTOMERS, texts),
    }


def score_cues(cues: Mapping[str, float]) -> float:
    """Return the log odds that cues speak for an agent."""
    return sum(WEIGHTS[name] * value for name, value in cues.items())


def _share(pattern: re.Pattern[str], texts: Sequence[str]) -> float:
    """Return the share of turns, weighted by the root of their length, that hold a pattern."""
    weights = [math.sqrt(len(text)) for text in texts]
    found = sum(weight for weight, text in zip(weights, texts, strict=True) if pattern.search(text))
    return found / max(sum(weights), 1.0)
