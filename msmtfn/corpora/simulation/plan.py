"""Who rings whom, when and about what: a corpus before a word is spoken.

Calls are drawn from `latents`, spread evenly over the splits and given to customers, each of whom is in one split only.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from msmtfn.corpora.manifests import OPEN_SEC, opening_time
from msmtfn.corpora.simulation.acoustics import AGENTS, SNR_DB, draw_customer_voice
from msmtfn.corpora.simulation.latents import DOMAIN_INTENTS, CallLatents, draw_calls
from msmtfn.corpora.speech import Voice
from msmtfn.corpora.telephone import RecordingFormat

SPLITS: Final = ("training", "validation", "test")
PAPER_SPLIT_SIZES: Final = (701, 88, 88)
"""Calls of each split (paper, table 4)."""

MIN_CALLS: Final = 10
FIRST_DATE: Final = datetime.date(2026, 1, 5)
CALLS_A_DAY: Final = 100
CALLS_OF_A_CUSTOMER: Final[dict[int, float]] = {1: 0.75, 2: 0.2, 3: 0.05}
ONE_CHANNEL_SHARE: Final = 1 / 3
MULAW_SHARE: Final = 0.5

# Streams of random numbers; each call and each customer has its own, whoever makes it and when.
_PLAN_STREAM, _CUSTOMER_STREAM, _CALL_STREAM = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """Which corpus is made; the same options give the same bytes."""

    calls: int = sum(PAPER_SPLIT_SIZES)
    """How many calls."""
    seed: int = 0
    """Another seed gives another corpus of the same kind."""
    split: tuple[int, int, int] | None = None
    """Calls for training, validation and test, which add up to --calls; in the proportions 701, 88, 88 if left out."""
    brief: bool = False
    """Half as many words a turn: about 30 seconds a call instead of a minute."""

    def __post_init__(self) -> None:
        if self.calls < MIN_CALLS:
            raise ValueError(f"calls is {self.calls}; give {MIN_CALLS} or more, so that no split is empty")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more")
        if self.split is not None and (min(self.split) < 1 or sum(self.split) != self.calls):
            raise ValueError(f"split is {self.split}; give three sizes of 1 or more that add up to {self.calls} calls")

    @property
    def split_sizes(self) -> dict[str, int]:
        """Calls of each split."""
        if self.split is not None:
            return dict(zip(SPLITS, self.split, strict=True))
        _, validation, test = (round(self.calls * size / sum(PAPER_SPLIT_SIZES)) for size in PAPER_SPLIT_SIZES)
        return dict(zip(SPLITS, (self.calls - validation - test, validation, test), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """Someone who is rung up."""

    customer_id: str
    voice: Voice


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPlan:
    """One call of the corpus, before it is spoken; all else follows from `seed`.

    Attributes:
        agent_channel: None in a one-channel recording.
        snr_db: the agent's speech against the noise, once the channels are mixed to one.
        seed: of the call's own stream of random numbers.
    """

    call_id: str
    split: str
    started_at: datetime.datetime
    latents: CallLatents
    customer: Customer
    agent_id: str
    agent_channel: int | None
    recording_format: RecordingFormat
    snr_db: float
    seed: tuple[int, ...]
    is_brief: bool

    @property
    def date(self) -> datetime.date:
        """The day of the call."""
        return self.started_at.date()


def plan_corpus(config: SimulationConfig) -> list[CallPlan]:
    """Plan every call: the splits one after the other, each on days of its own, in an order that tells nothing."""
    rng = np.random.default_rng([config.seed, _PLAN_STREAM])
    parts = _share_out(draw_calls(config.calls, rng), list(config.split_sizes.values()), rng)
    plans: list[CallPlan] = []
    date, num_customers = FIRST_DATE, 0
    for split, part in zip(SPLITS, parts, strict=True):
        calls = _assign_customers(part, num_customers, config.seed, rng)
        num_customers += len({customer.customer_id for _, customer in calls})
        for number, index in enumerate(rng.permutation(len(calls))):
            if plans and number % CALLS_A_DAY == 0:
                date += datetime.timedelta(days=1)
            agent_channel = None if rng.random() < ONE_CHANNEL_SHARE else int(rng.integers(2))
            plans.append(
                CallPlan(
                    call_id=f"{date:%Y%m%d}-{number % CALLS_A_DAY + 1:04d}",
                    split=split,
                    started_at=opening_time(date) + datetime.timedelta(seconds=int(rng.integers(OPEN_SEC))),
                    latents=calls[index][0],
                    customer=calls[index][1],
                    agent_id=str(rng.choice(list(AGENTS))),
                    agent_channel=agent_channel,
                    recording_format="wav_mulaw" if rng.random() < MULAW_SHARE else "wav_pcm16",
                    snr_db=float(rng.uniform(*SNR_DB)),
                    seed=(config.seed, _CALL_STREAM, len(plans)),
                    is_brief=config.brief,
                )
            )
    return plans


def _share_out(calls: Sequence[CallLatents], sizes: Sequence[int], rng: np.random.Generator) -> list[list[CallLatents]]:
    """Share sorted calls out in parts of these sizes, so that every part holds its share of each kind of call."""
    left = list(calls)
    parts: list[list[CallLatents]] = []
    for size in reversed(sizes[1:]):
        points = (np.arange(size) + rng.random()) / size * len(left)
        taken = set(points.astype(int).tolist())
        parts.insert(0, [call for index, call in enumerate(left) if index in taken])
        left = [call for index, call in enumerate(left) if index not in taken]
    return [left, *parts]


def _assign_customers(
    calls: Sequence[CallLatents], first_number: int, seed: int, rng: np.random.Generator
) -> list[tuple[CallLatents, Customer]]:
    """Give each call to a customer of its domain, who may get several; their intents have nothing in common."""
    assigned: list[tuple[CallLatents, Customer]] = []
    number = first_number
    for domain in DOMAIN_INTENTS:
        waiting = [calls[index] for index in rng.permutation(len(calls)) if calls[index].domain == domain]
        while waiting:
            voice = draw_customer_voice(np.random.default_rng([seed, _CUSTOMER_STREAM, number]))
            customer = Customer(customer_id=f"customer-{number:05d}", voice=voice)
            num_calls = int(rng.choice(list(CALLS_OF_A_CUSTOMER), p=list(CALLS_OF_A_CUSTOMER.values())))
            assigned += [(call, customer) for call in waiting[:num_calls]]
            waiting = waiting[num_calls:]
            number += 1
    return assigned
