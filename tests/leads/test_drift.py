from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2

from msmtfn.daily.publish import open_parts, read_earlier_successes
from msmtfn.labels import INTENTS
from msmtfn.leads.drift import (
    DISTRIBUTION_FILE,
    NOISE_DEVIATIONS,
    compare_day,
    compare_rejects,
    describe,
    describe_drift,
    psi_threshold,
    read_distribution,
    stability_index,
    write_distribution,
)
from msmtfn.leads.schema import parts_schema
from tests.daily.parts import DATE, RECORD, rejected, scored, write_parts

SCHEMA = parts_schema([pa.field("call_id", pa.string()), pa.field("language", pa.string())])


def draw_calls(number: int, seed: int, **changed: Any) -> list[dict[str, Any]]:
    """Scored calls of one population; what is changed is drawn otherwise."""
    rng = np.random.default_rng(seed)
    five = rng.dirichlet([2, 2, 4, 2, 0.3], number)
    calls = {
        "duration_sec": rng.lognormal(4, 0.5, number),
        "num_rounds": rng.integers(2, 6, number),
        "loudness_dbfs": rng.normal(-25, 3, number),
        "num_tokens": rng.integers(20, 90, number) * (rng.random(number) > 0.1),
        "language": rng.choice(["zh", "yue"], number, p=[0.9, 0.1]),
        **{name: draw(rng, number) for name, draw in changed.items()},
    }
    return [
        scored(row, 50.0, five=dict(zip(INTENTS, five[row].tolist(), strict=True)))
        | {name: values[row].item() for name, values in calls.items()}
        for row in range(number)
    ]


@pytest.fixture
def leads(tmp_path: Path) -> str:
    return str(tmp_path / "leads")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder that knows the population."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_distribution(describe(pa.Table.from_pylist(draw_calls(2000, 0), schema=SCHEMA)), folder)
    return folder


def compare(leads: str, calls: list[dict[str, Any]], model: Path) -> Mapping[str, Any]:
    run = write_parts(leads, "run-1", [calls[:50], calls[50:]], SCHEMA)
    return compare_parts(leads, run, SCHEMA, model)


def compare_parts(leads: str, run: str, schema: pa.Schema, model: Path) -> Mapping[str, Any]:
    return compare_day(open_parts(f"{run}/parts", schema), model, read_earlier_successes(leads, DATE))


@pytest.mark.parametrize("number", [60, 500, 5000])
def test_a_day_of_the_same_calls_has_not_moved(leads: str, model: Path, number: int) -> None:
    drift = compare(leads, draw_calls(number, 1), model)
    assert set(drift["figures"]) >= {"duration_sec", "num_rounds", "loudness_dbfs", "has_text", "language"}
    assert {f"probability_{intent}" for intent in INTENTS} <= set(drift["figures"])
    assert drift["moved"] == []
    assert describe_drift(drift) is None


@pytest.mark.parametrize(
    ("name", "moved", "draw"),
    [
        ("loudness_dbfs", "loudness_dbfs", lambda rng, number: rng.normal(-40, 3, number)),
        ("duration_sec", "duration_sec", lambda rng, number: rng.lognormal(3, 0.5, number)),
        ("num_rounds", "num_rounds", lambda _, number: np.ones(number, np.int64)),
        ("num_tokens", "has_text", lambda _, number: np.zeros(number, np.int64)),
        ("language", "language", lambda rng, number: rng.choice(["zh", "en"], number)),
    ],
)
def test_only_the_figures_that_moved_are_named(leads: str, model: Path, name: str, moved: str, draw: Any) -> None:
    drift = compare(leads, draw_calls(300, 1, **{name: draw}), model)
    assert drift["moved"] == [moved]
    assert f"{moved} (PSI " in str(describe_drift(drift))


def test_more_rounds_than_ever_before_are_noticed_where_there_was_always_one(leads: str, tmp_path: Path) -> None:
    always_one = draw_calls(300, 0, num_rounds=lambda _, number: np.ones(number, np.int64))
    write_distribution(describe(pa.Table.from_pylist(always_one, schema=SCHEMA)), tmp_path)
    drift = compare(leads, draw_calls(100, 1, num_rounds=lambda _, number: np.full(number, 7)), tmp_path)
    assert drift["moved"] == ["num_rounds"]


def test_a_day_without_the_column_language_is_one_of_unknown_language(leads: str, model: Path) -> None:
    schema = SCHEMA.remove(SCHEMA.get_field_index("language"))
    run = write_parts(leads, "run-1", [draw_calls(100, 1)], schema)
    assert compare_parts(leads, run, schema, model)["moved"] == ["language"]


def test_a_day_before_whose_success_is_broken_is_left_out(leads: str, model: Path) -> None:
    for day, text in ((1, "{"), (28, '{"publication": "0123abcd", "files": []}')):
        folder = Path(leads) / f"date={DATE.replace(month=2, day=day)}"
        folder.mkdir(parents=True)
        (folder / "_SUCCESS").write_text(text)
    assert compare(leads, draw_calls(60, 1), model)["rejected"]["days"] == 0


def test_rejects_are_no_calls_to_compare(leads: str, model: Path) -> None:
    calls = draw_calls(100, 1) + [rejected(100 + row, duration_sec=9000.0) for row in range(100)]
    drift = compare(leads, calls, model)
    assert drift["moved"] == []
    assert drift["rejected"] == {"share": 0.5, "share_before": None, "days": 0, "moved": False}


def test_a_model_that_knows_no_distribution_is_compared_with_nothing(leads: str, tmp_path: Path) -> None:
    assert compare(leads, draw_calls(60, 1), tmp_path)["figures"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"figures": 3}',
        '{"figures": {"duration_sec": {"edges": [1], "values": [], "counts": [1]}}}',
        '{"figures": {"duration_sec": {"edges": ["a"], "values": [], "counts": [1, 2]}}}',
        '{"figures": {"duration_sec": {"edges": [1], "values": [], "counts": [0, 0]}}}',
    ],
)
def test_a_distribution_that_cannot_be_understood_costs_no_day(
    leads: str, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / DISTRIBUTION_FILE).write_text(text)
    assert compare(leads, draw_calls(60, 1), tmp_path)["figures"] == {}
    assert "cannot be understood" in caplog.text


def test_a_distribution_comes_back_as_it_was_written(model: Path, tmp_path: Path) -> None:
    distribution = read_distribution(model)
    write_distribution(distribution, tmp_path)
    assert read_distribution(tmp_path) == distribution
    assert sum(distribution["duration_sec"].counts) == 2000
    assert len(distribution["duration_sec"].counts) == 10
    assert json.loads((model / DISTRIBUTION_FILE).read_text())["figures"]["language"]["values"] == ["zh", "yue"]


def test_a_day_without_a_call_is_compared_with_nothing(leads: str, model: Path) -> None:
    drift = compare(leads, [], model)
    assert (drift["figures"], drift["moved"]) == ({}, [])


def test_the_index_is_that_of_the_definition() -> None:
    p, q = (np.array(counts) / sum(counts) for counts in ([50.5, 150.5, 300.5], [100.5, 200.5, 200.5]))
    expected = float(sum((p - q) * np.log(p / q)))
    assert stability_index([100, 200, 200], [50, 150, 300]) == pytest.approx(expected)


def test_chance_exceeds_the_threshold_as_rarely_as_it_should() -> None:
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(4000):
        reference, day = (rng.multinomial(number, [0.2] * 5).tolist() for number in (300, 40))
        exceeded += stability_index(reference, day) > psi_threshold(reference, day)
    assert exceeded / 4000 < 0.002
    assert chi2.sf(4 + NOISE_DEVIATIONS * np.sqrt(8), 4) < 0.0005


def test_in_large_days_the_usual_reading_counts() -> None:
    assert psi_threshold([10_000] * 10, [1000] * 10) == 0.2


@pytest.mark.parametrize(
    ("calls", "rejects", "moved"),
    [(1000, 19, False), (1000, 29, False), (1000, 60, True), (20, 1, False), (20, 8, True), (0, 0, False)],
)
def test_a_rise_of_rejects_is_distinguished_from_chance(calls: int, rejects: int, moved: bool) -> None:
    before = [replace(RECORD, calls=1000, rejected=10)] * 14
    said = compare_rejects(calls, rejects, before)
    assert said["moved"] is moved
    assert said["days"] == (14 if calls else 0)


def test_after_days_without_a_reject_one_is_no_drift() -> None:
    assert not compare_rejects(100, 1, [replace(RECORD, calls=1000)])["moved"]


def test_a_failed_comparison_is_described() -> None:
    said = describe_drift({"figures": {}, "moved": [], "error": "ArrowInvalid"})
    assert said == "not known what (ArrowInvalid, see the log)"


def test_a_rise_of_rejects_is_described() -> None:
    rejects = compare_rejects(1000, 300, [replace(RECORD, calls=1000, rejected=10)] * 3)
    said = describe_drift({"figures": {}, "rejected": rejects, "moved": ["rejected"]})
    assert said == "share of rejects 30.0 %, 1.0 % in the 3 days before"
