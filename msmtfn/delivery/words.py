"""The words of the page, in each of its languages."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)

_VALUE: Final = re.compile(r"\{(\w+)\}")


@cache
def read_words(language: Language) -> Mapping[str, str]:
    """Return the texts of a language by their keys; `{name}` stands for a value."""
    text = (resources.files(__package__) / "assets" / f"{language}.json").read_text(encoding="utf-8")
    words: dict[str, str] = json.loads(text)
    return words


def say(language: Language, key: str, **values: Any) -> str:
    """Return a text with its values filled in; `key_one` is used for `n` = 1 where there is such a text.

    A text that is missing is its key's last part, so that a code of a newer version is shown as it is.
    """
    words = read_words(language)
    if values.get("n") == 1 and f"{key}_one" in words:
        key = f"{key}_one"
    shown = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in values.items()}
    return _VALUE.sub(lambda found: shown.get(found[1], found[0]), words.get(key, key.rpartition(".")[2]))


def say_day(language: Language, date: dt.date) -> str:
    """Return a date with its weekday, in words."""
    return say(
        language,
        "day",
        weekday=say(language, f"weekday.{date.isoweekday()}"),
        month=say(language, f"month.{date.month}"),
        year=str(date.year),
        number=str(date.day),
    )
