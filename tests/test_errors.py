from __future__ import annotations

import pytest

from msmtfn.errors import format_trace, require

SECRET = "my card number is four two"


def fail(number: int) -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as exc:
        if number == 0:
            raise ValueError(SECRET) from exc
        if number == 1:
            raise ValueError(SECRET) from None
        raise ValueError(SECRET)  # noqa: B904


def trace(number: int) -> str:
    try:
        fail(number)
    except ValueError as exc:
        return format_trace(exc)
    raise AssertionError


def test_a_field_that_may_not_have_its_value_is_named_with_it_and_the_cure() -> None:
    require(True, "device", "cpu", "another")
    with pytest.raises(ValueError, match=r"^device is 'tpu'; it must be cpu or cuda$"):
        require(False, "device", "tpu", "cpu or cuda")


def test_a_trace_has_locations_but_no_messages() -> None:
    assert trace(1).startswith("ValueError, raised in\n  File ")
    assert "test_errors.py" in trace(1)
    assert "in fail" in trace(1)
    assert SECRET not in trace(1)


def test_a_trace_starts_with_the_cause() -> None:
    for number in (0, 2):
        assert trace(number).startswith("KeyError, raised in\n")
        assert "after which ValueError, raised in\n" in trace(number)
        assert SECRET not in trace(number)
    assert "KeyError, raised" not in trace(1)


def test_exceptions_that_cause_each_other_are_traced_once() -> None:
    one, other = ValueError(SECRET), KeyError(SECRET)
    one.__cause__, other.__cause__ = other, one
    assert format_trace(one).count("raised in") == 2
