from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from msmtfn.corpora.simulation.latents import enumerate_calls
from msmtfn.corpora.simulation.plan import CallPlan, SimulationConfig, plan_corpus

DEFAULT = plan_corpus(SimulationConfig())


def by_split(plans: list[CallPlan]) -> dict[str, list[CallPlan]]:
    splits: defaultdict[str, list[CallPlan]] = defaultdict(list)
    for plan in plans:
        splits[plan.split].append(plan)
    return dict(splits)


def test_the_default_is_the_split_of_the_paper() -> None:
    sizes = {split: len(plans) for split, plans in by_split(DEFAULT).items()}
    assert sizes == {"training": 701, "validation": 88, "test": 88}


def test_no_customer_is_in_two_splits_and_some_have_several_calls() -> None:
    splits = [{plan.customer.customer_id for plan in plans} for plans in by_split(DEFAULT).values()]
    assert sum(map(len, splits)) == len(set.union(*splits))
    calls_of = Counter(plan.customer.customer_id for plan in DEFAULT)
    assert set(calls_of.values()) == {1, 2, 3}


def test_a_customer_has_one_voice_and_one_domain() -> None:
    known: dict[str, object] = {}
    for plan in DEFAULT:
        identity = (plan.customer, plan.latents.domain)
        assert known.setdefault(plan.customer.customer_id, identity) == identity


def test_every_split_holds_its_share_of_each_intent() -> None:
    shares: Counter[str] = Counter()
    for call, share in enumerate_calls():
        shares[call.intent] += share  # type: ignore[assignment]
    for plans in by_split(DEFAULT).values():
        for intent, share in shares.items():
            counted = sum(plan.latents.intent == intent for plan in plans)
            assert abs(counted - share * len(plans)) < 6


def test_ids_are_unique_and_splits_have_separate_days() -> None:
    assert len({plan.call_id for plan in DEFAULT}) == 877
    dates = [{plan.date for plan in plans} for plans in by_split(DEFAULT).values()]
    assert [len(days) for days in dates] == [8, 1, 1]
    assert max(dates[0]) < min(dates[1]) <= max(dates[1]) < min(dates[2])


def test_the_order_of_the_calls_does_not_reveal_their_intent() -> None:
    calls = by_split(DEFAULT)["training"]
    first, last = (Counter(plan.latents.intent for plan in part) for part in (calls[:350], calls[350:]))
    assert first["C"] / 350 == pytest.approx(last["C"] / 351, abs=0.1)


def test_formats_channels_and_noise_levels_vary() -> None:
    kinds = Counter((plan.recording_format, plan.agent_channel) for plan in DEFAULT)
    assert set(kinds) == {(name, channel) for name in ("wav_mulaw", "wav_pcm16") for channel in (None, 0, 1)}
    assert 10 <= min(plan.snr_db for plan in DEFAULT) < 11
    assert 29 < max(plan.snr_db for plan in DEFAULT) <= 30


def test_a_different_seed_plans_a_different_corpus() -> None:
    assert plan_corpus(SimulationConfig()) == DEFAULT
    assert plan_corpus(SimulationConfig(seed=1)) != DEFAULT


@pytest.mark.parametrize("calls", [10, 44, 5_000])
def test_other_numbers_of_calls_are_split_in_the_same_proportions(calls: int) -> None:
    sizes = SimulationConfig(calls=calls).split_sizes
    assert sum(sizes.values()) == calls
    assert sizes["test"] == sizes["validation"] == round(calls * 88 / 877) >= 1


def test_the_sizes_of_the_splits_can_be_given() -> None:
    plans = plan_corpus(SimulationConfig(calls=12, split=(6, 2, 4)))
    assert Counter(plan.split for plan in plans) == {"training": 6, "validation": 2, "test": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": 9}, "calls is 9; it must be at least 10"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"calls": 20, "split": (10, 5, 4)}, "add up to 20 calls"),
        ({"calls": 20, "split": (15, 5, 0)}, "three sizes of at least 1"),
    ],
)
def test_the_error_names_the_option_that_is_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**options)  # type: ignore[arg-type]
