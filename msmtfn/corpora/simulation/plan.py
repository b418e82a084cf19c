"""The plan of a corpus: the parties, the time and the latent variables of every call, before any speech is made.

Calls are drawn from `latents`, distributed evenly over the splits and assigned to customers. A customer appears in one
split only.
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
from msmtfn.errors import require

SPLITS: Final = ("training", "validation", "test")
PAPER_SPLIT_SIZES: Final = (701, 88, 88)
"""Number of calls in every split (paper, table 4)."""

MIN_CALLS: Final = 10
FIRST_DATE: Final = datetime.date(2026, 1, 5)
CALLS_A_DAY: Final = 100
CALLS_OF_A_CUSTOMER: Final[dict[int, float]] = {1: 0.75, 2: 0.2, 3: 0.05}
ONE_CHANNEL_SHARE: Final = 1 / 3
MULAW_SHARE: Final = 0.5

# Streams of random numbers. Every call and every customer has its own, so the result does not depend on which process
# makes a call, or when.
_PLAN_STREAM, _CUSTOMER_STREAM, _CALL_STREAM = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """Options of a corpus; the same options give the same bytes."""

    calls: int = sum(PAPER_SPLIT_SIZES)
    """Number of calls, at least 10."""
    seed: int = 0
    """Random seed; a different seed gives a different corpus from the same distribution."""
    split: tuple[int, int, int] | None = None
    """Calls for training, validation and test, which add up to --calls; by default in the ratio 701:88:88."""
    brief: bool = False
    """Halve the number of words in a turn, so that a call takes about 30 seconds instead of a minute."""

    def __post_init__(self) -> None:
        require(self.calls >= MIN_CALLS, "calls", self.calls, f"at least {MIN_CALLS}, so that no split is empty")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        adds_up = self.split is None or (min(self.split) >= 1 and sum(self.split) == self.calls)
        require(adds_up, "split", self.split, f"three sizes of at least 1 that add up to {self.calls} calls")

    @property
    def split_sizes(self) -> dict[str, int]:
        """The number of calls in every split."""
        if self.split is not None:
            return dict(zip(SPLITS, self.split, strict=True))
        _, validation, test = (round(self.calls * size / sum(PAPER_SPLIT_SIZES)) for size in PAPER_SPLIT_SIZES)
        return dict(zip(SPLITS, (self.calls - validation - test, validation, test), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """A person who is called."""

    customer_id: str
    voice: Voice


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPlan:
    """One call of the corpus before its speech is made; everything else follows from `seed`.

    Attributes:
        agent_channel: channel of the agent; None for a recording with one channel.
        snr_db: level of the agent's speech relative to the noise, in a downmix to one channel.
        seed: seed of the call's own stream of random numbers.
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
        """The date of the call."""
        return self.started_at.date()


def plan_corpus(config: SimulationConfig) -> list[CallPlan]:
    """Plan every call: the splits follow one another on separate days, and the order within a split is random."""
    rng = np.random.default_rng([config.seed, _PLAN_STREAM])
    parts = _split_evenly(draw_calls(config.calls, rng), list(config.split_sizes.values()), rng)
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


def _split_evenly(
    calls: Sequence[CallLatents], sizes: Sequence[int], rng: np.random.Generator
) -> list[list[CallLatents]]:
    """Split sorted calls into parts of these sizes, so that every part has its share of every kind of call.

    Parts are taken by systematic sampling, like the calls in `latents.draw_calls`.
    """
    remaining = list(calls)
    parts: list[list[CallLatents]] = []
    for size in reversed(sizes[1:]):
        points = (np.arange(size) + rng.random()) / size * len(remaining)
        taken = set(points.astype(int).tolist())
        parts.insert(0, [call for index, call in enumerate(remaining) if index in taken])
        remaining = [call for index, call in enumerate(remaining) if index not in taken]
    return [remaining, *parts]


def _assign_customers(
    calls: Sequence[CallLatents], first_number: int, seed: int, rng: np.random.Generator
) -> list[tuple[CallLatents, Customer]]:
    """Assign every call to a customer of its domain; the intents of a customer's calls are independent."""
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
