from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from msmtfn.storage.fields import read_field, read_items, read_optional, read_unknown, read_values

FIELDS: dict[str, Any] = {
    "count": 3,
    "share": 0.5,
    "whole": 1,
    "name": "a",
    "flag": True,
    "nothing": None,
    "list": [1, 2],
}


def test_fields_of_the_right_type_are_returned() -> None:
    assert read_field(FIELDS, "count", int) == 3
    assert read_field(FIELDS, "flag", bool) is True
    assert read_items({"list": [1, 2]}, "list", int) == (1, 2)


@dataclass
class Named:
    name: str
    unknown: dict[str, Any]


def test_fields_that_a_record_does_not_have_are_kept() -> None:
    assert read_unknown({"name": "a", "share": 0.5, "unknown": 1}, Named) == {"share": 0.5, "unknown": 1}


def test_an_integer_is_read_as_a_float() -> None:
    whole = read_field(FIELDS, "whole", float)
    assert (whole, type(whole)) == (1.0, float)


@pytest.mark.parametrize(
    ("name", "kind"), [("share", int), ("flag", int), ("flag", float), ("count", bool), ("count", str)]
)
def test_a_field_of_another_type_is_named_with_its_value(name: str, kind: type[Any]) -> None:
    with pytest.raises(ValueError, match=f"the field '{name}' is {FIELDS[name]}; it must be of type {kind.__name__}"):
        read_field(FIELDS, name, kind)


def test_only_an_optional_field_may_be_missing_or_null() -> None:
    assert read_optional(FIELDS, "other", str) is read_optional(FIELDS, "nothing", str) is None
    with pytest.raises(ValueError, match="the field 'other' is missing"):
        read_field(FIELDS, "other", str)
    with pytest.raises(ValueError, match="the field 'nothing' is None"):
        read_field(FIELDS, "nothing", str)


def test_an_item_of_another_type_is_named_with_its_index() -> None:
    with pytest.raises(ValueError, match=r"the field 'list\[1\]' is 'b'"):
        read_items({"list": [1, "b"]}, "list", int)


def test_a_number_that_no_float_can_hold_is_named() -> None:
    with pytest.raises(ValueError, match="the field 'share' is too large a number"):
        read_field({"share": 10**400}, "share", float)


def test_a_long_or_deep_value_is_not_quoted() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value, shown in ((deep, "a list"), ({"a": deep}, "an object"), ("x" * 10**6, "'" + "x" * 79 + "…")):
        with pytest.raises(ValueError, match=f"the field 'name' is {shown};"):
            read_field({"name": value}, "name", int)


@pytest.mark.parametrize("value", [-1, 2**53 + 1, 10**400])
def test_a_count_out_of_range_is_named(value: int) -> None:
    assert read_field({"calls": 2**53}, "calls", int) == 2**53
    with pytest.raises(ValueError, match=r"the field 'calls' is .*; it must be from 0 to 2\^53"):
        read_field({"calls": value}, "calls", int)


def test_a_value_of_another_type_is_named_with_its_key() -> None:
    assert read_values({"seconds": {"score": 1, "a.b": 0.5}}, "seconds", float) == {"score": 1.0, "a.b": 0.5}
    with pytest.raises(ValueError, match=r"the field 'seconds.score' is 'x'"):
        read_values({"seconds": {"score": "x"}}, "seconds", float)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"the field 'share' is (nan|inf); it must be a finite number"):
        read_field({"share": value}, "share", float)
