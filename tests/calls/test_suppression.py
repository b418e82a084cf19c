from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from msmtfn.calls.suppression import find_suppression, suppression_columns
from msmtfn.errors import CallError

TRUE = [True, 1, 1.0, Decimal(1), "true", "TRUE", " Yes ", "y", "1", "是"]
FALSE = [False, 0, 0.0, Decimal(0), "false", "No", "n", "0", "0.0", "否"]
NO_STATEMENT = [None, float("nan"), "", "  "]
NOT_UNDERSTOOD = ["maybe", "2", 2, -1, 0.5, ["true"], {"value": True}, b"1", "13800001111"]


@pytest.mark.parametrize("value", TRUE)
def test_who_must_not_be_called_is_not_and_who_consents_may_be(value: Any) -> None:
    assert find_suppression({"do_not_call": value}) == "do_not_call"
    assert find_suppression({"consent": value}) is None


@pytest.mark.parametrize("value", FALSE)
def test_who_does_not_consent_is_not_called_and_who_may_be_called_is(value: Any) -> None:
    assert find_suppression({"do_not_call": value}) is None
    assert find_suppression({"consent": value}) == "no_consent"


@pytest.mark.parametrize("value", NO_STATEMENT)
def test_null_says_nothing(value: Any) -> None:
    assert find_suppression({"do_not_call": value, "consent": value}) is None


@pytest.mark.parametrize("name", ["do_not_call", "consent"])
@pytest.mark.parametrize("value", NOT_UNDERSTOOD)
def test_a_value_that_is_not_understood_makes_the_row_a_bad_one_and_is_not_quoted(name: str, value: Any) -> None:
    with pytest.raises(CallError, match=f"bad_row: {name} cannot be understood") as caught:
        find_suppression({name: value})
    assert str(value) not in caught.value.detail.replace("1, 0", "")


def test_a_ban_comes_before_a_missing_consent() -> None:
    assert find_suppression({"consent": False, "do_not_call": True}) == "do_not_call"


def test_of_two_spellings_either_one_counts() -> None:
    assert suppression_columns(["uri", "Do_Not_Call", "do_not_call", "CONSENT"]) == [
        "Do_Not_Call", "do_not_call", "CONSENT",
    ]  # fmt: skip
    assert find_suppression({"Do_Not_Call": False, "do_not_call": 1}) == "do_not_call"
