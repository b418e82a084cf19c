from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.labelled import (
    LabelledSplit,
    check_splits,
    keep_ready,
    read_labelled,
    split_by_customer,
)

MONDAY, TUESDAY = dt.date(2026, 3, 2), dt.date(2026, 3, 3)
Columns = dict[str, Any]


def write(root: Path, columns: Columns, day: dt.date = MONDAY, file: str = "calls.parquet") -> None:
    """Write one file of a day's manifest."""
    folder = f"{root}/date={day}"
    storage.make_folder(folder)
    storage.write_parquet(f"{folder}/{file}", pa.table(columns))


def calls(intents: str, **columns: Any) -> Columns:
    """Columns of calls c0, c1, ... with one intent per letter; a space is a call without a label."""
    ids = [f"c{number}" for number in range(len(intents))]
    labels = pa.array([letter.strip() or None for letter in intents], pa.string())
    return {"call_id": ids, "uri": [f"{each}.wav" for each in ids], "intent": labels, **columns}


def read(root: Path, *days: dt.date) -> LabelledSplit:
    return read_labelled("training", str(root), days or (MONDAY,))


def split_of(name: str, intents: str, customers: list[str | None]) -> LabelledSplit:
    columns = calls(intents, customer_id=pa.array(customers, pa.string()), row_id=range(len(intents)))
    return LabelledSplit(name, pa.table(columns), (MONDAY,), "/m")


def many(num_customers: int) -> LabelledSplit:
    """A split with three calls per customer."""
    customers: list[str | None] = [f"p{number}" for number in range(num_customers)]
    return split_of("training", "ABC" * num_customers, [each for each in customers for _ in range(3)])


def customers_of(split: LabelledSplit) -> set[str]:
    return set(split.rows["customer_id"].to_pylist())


def test_calls_without_a_label_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, calls("A C"))
    split = read(tmp_path)
    assert split.rows["call_id"].to_pylist() == ["c0", "c2"]
    assert split.intents.tolist() == [0, 2]
    assert split.counts == {"A": 1, "C": 1}


def test_a_label_outside_a_to_e_is_rejected_with_the_call_s_id(tmp_path: Path) -> None:
    write(tmp_path, calls("ABFG"))
    with pytest.raises(TrainingDataError, match=r"2 calls of .* outside A to E, the first is call c2"):
        read(tmp_path)


def test_days_without_any_label_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, calls("  "))
    with pytest.raises(TrainingDataError, match=r"none of the calls .* from 2026-03-02 to 2026-03-02 has an intent"):
        read(tmp_path)


def test_a_day_without_a_call_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path, calls("AB"), MONDAY)
    write(tmp_path, calls(""), TUESDAY)
    assert len(read(tmp_path, MONDAY, TUESDAY).rows) == 2


def test_duplicate_rows_and_rows_without_an_id_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, calls("ABCD") | {"call_id": ["c0", "c0", None, "c1"]})
    assert read(tmp_path).rows["intent"].to_pylist() == ["A", "D"]


def test_rows_are_numbered_across_all_days(tmp_path: Path) -> None:
    write(tmp_path, calls("AB"), MONDAY)
    write(tmp_path, calls("CD"), TUESDAY)
    assert read(tmp_path, MONDAY, TUESDAY).rows["row_id"].to_pylist() == [0, 1, 2, 3]


def test_relative_uris_become_absolute(tmp_path: Path) -> None:
    uris = ["audio/a.wav", "/other/b.wav", "s3://bucket/c.wav", None]
    write(tmp_path, calls("ABCD") | {"uri": uris})
    assert read(tmp_path).rows["uri"].to_pylist() == [f"{tmp_path}/audio/a.wav", *uris[1:]]


def test_a_customer_id_is_the_same_whether_it_is_stored_as_integer_or_as_float(tmp_path: Path) -> None:
    number = 13_800_138_000
    write(tmp_path, calls("AB", customer_id=pa.array([number, 7], pa.int64())), MONDAY)
    write(tmp_path, calls("AB", customer_id=pa.array([float(number), float("nan")])), TUESDAY)
    expected = [str(number), "7", str(number), None]
    assert read(tmp_path, MONDAY, TUESDAY).rows["customer_id"].to_pylist() == expected


def test_held_out_customers_do_not_depend_on_the_seed_and_are_in_no_other_split() -> None:
    first, second = (split_by_customer(many(1000), 0.2, seed, 0.1) for seed in (0, 1))
    assert customers_of(first[2]) == customers_of(second[2])
    assert customers_of(first[1]) != customers_of(second[1])
    assert not customers_of(first[2]) & (customers_of(first[0]) | customers_of(first[1]))
    assert len(customers_of(first[2])) == pytest.approx(100, abs=30)
    assert sum(len(side.rows) for side in first) == 3000


def test_all_calls_of_a_customer_are_in_one_split_and_no_call_is_lost() -> None:
    training, validation, _ = split_by_customer(many(100), 0.3, 0)
    assert not customers_of(training) & customers_of(validation)
    assert len(training.rows) + len(validation.rows) == 300
    assert (training.name, validation.name) == ("training", "validation")


def test_calls_without_a_customer_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, calls("ABCD", customer_id=pa.array(["a", None, "b", ""])), MONDAY)
    split_by_customer(read(tmp_path, MONDAY), 0.3, 0)
    assert "2 of 4 calls have no customer_id" in caplog.text


def test_the_share_of_validation_customers_is_about_as_requested() -> None:
    _, validation, _ = split_by_customer(many(1000), 0.2, 0)
    assert 150 < len(customers_of(validation)) < 250  # 200, and four standard deviations of 13


def test_a_customer_stays_in_the_same_split_when_there_are_more_calls() -> None:
    _, before, _ = split_by_customer(many(50), 0.3, 0)
    _, after, _ = split_by_customer(many(100), 0.3, 0)
    assert customers_of(before) == customers_of(after) & customers_of(many(50))


def test_another_seed_gives_another_split() -> None:
    first, second = (split_by_customer(many(50), 0.3, seed)[1] for seed in (0, 1))
    assert customers_of(first) != customers_of(second)


@pytest.mark.parametrize("nobody", [None, ""])
def test_a_call_without_a_customer_counts_as_its_own_customer(nobody: str | None) -> None:
    sides = split_by_customer(split_of("training", "AB" * 50, [nobody] * 100), 0.5, 0)[:2]
    assert all(30 < len(side.rows) < 70 for side in sides)
    check_splits(*sides)


def test_splits_that_share_a_customer_are_rejected() -> None:
    training = split_of("training", "ABC", ["p1", "p2", None])
    with pytest.raises(TrainingDataError, match="share 1 customers"):
        check_splits(training, split_of("validation", "AB", ["p2", None]))


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_a_split_without_a_call_is_rejected(empty: str) -> None:
    names = ("training", "validation")
    splits = [split_of(name, "" if name == empty else "AB", [] if name == empty else [name] * 2) for name in names]
    with pytest.raises(TrainingDataError, match=f"there is no {empty} call"):
        check_splits(*splits)


def test_training_calls_of_one_class_are_rejected() -> None:
    with pytest.raises(TrainingDataError, match="have the intents C only; it takes 2 or more"):
        check_splits(split_of("training", "CC", [None] * 2), split_of("validation", "AB", [None] * 2))


def test_the_fingerprint_does_not_depend_on_the_calls_place_in_the_manifests(tmp_path: Path) -> None:
    write(tmp_path / "one", calls("AB", uri=["/a.wav", "/b.wav"]))
    write(tmp_path / "other", calls("AB ", uri=["/a.wav", "/b.wav", "/c.wav"]), file="all.parquet")
    assert read(tmp_path / "one").fingerprint() == read(tmp_path / "other").fingerprint()


def test_the_fingerprint_changes_with_a_label_a_customer_or_the_order() -> None:
    splits = [
        split_of("training", "AB", ["p1", "p2"]),
        split_of("training", "AC", ["p1", "p2"]),
        split_of("training", "AB", ["p1", "p3"]),
        split_of("training", "AB", ["p1", "p2"]).of(np.array([False, True]), "training"),
    ]
    reordered = LabelledSplit("training", splits[0].rows.take(pa.array([1, 0])), splits[0].dates, splits[0].root)
    assert len({split.fingerprint() for split in (*splits, reordered)}) == 5


def test_rejected_rows_are_dropped_and_embedded_rows_are_all_kept() -> None:
    table = pa.table({"call_id": ["c0", "c1"], "status": pa.array([None, "rejected"], pa.string())})
    assert keep_ready(table)["call_id"].to_pylist() == ["c0"]
    assert len(keep_ready(table.drop_columns(["status"]))) == 2
