from __future__ import annotations

import datetime as dt
import re

from msmtfn.delivery.suppression import SUPPRESSING
from msmtfn.delivery.words import LANGUAGES, read_words, say, say_day
from msmtfn.errors import RejectCode
from msmtfn.labels import INTENTS

NEVER_PUBLISHED = {RejectCode.STORAGE_UNAVAILABLE}


def test_every_language_has_the_same_texts_with_the_same_values() -> None:
    english = read_words("en")
    for language in LANGUAGES:
        words = read_words(language)
        plural_only = {key for key in english if key.endswith("_one")}
        assert words.keys() | plural_only == english.keys()
        for key, text in words.items():
            values = set(re.findall(r"\{\w+\}", english[key])) - ({"{month}"} if key == "day" else set())
            assert set(re.findall(r"\{\w+\}", text)) >= values, key


def test_every_reason_error_code_and_intent_is_put_into_words() -> None:
    keys = {
        *(f"code.{code}" for code in set(RejectCode) - NEVER_PUBLISHED),
        *(f"reason.{reason}" for reason in (*SUPPRESSING, "no_conversation", "too_little_evidence")),
        *(f"intent.{intent}" for intent in INTENTS),
    }
    for language in LANGUAGES:
        assert keys <= read_words(language).keys()


def test_a_value_that_looks_like_a_place_stays_as_it_is() -> None:
    assert say("en", "made", model="{version}", version="v1", published="x").startswith("Model {version}, version v1.")


def test_one_is_singular_and_a_code_of_a_newer_version_is_shown_as_it_is() -> None:
    assert say("en", "line.calls", n=1) == "1 call"
    assert say("en", "line.calls", n=1200) == "1,200 calls"
    assert say("zh", "code.from_the_future") == "from_the_future"


def test_a_day_is_said_with_its_weekday() -> None:
    assert say_day("en", dt.date(2026, 1, 5)) == "Monday, 5 January 2026"
    assert say_day("zh", dt.date(2026, 1, 5)) == "2026年1月5日，星期一"
