"""Simulate the homophone errors of a Mandarin speech recogniser.

Readings come from pypinyin; of a character's readings the first, most frequent one is used. Replacements are common
characters only (GB 2312, level 1), because a recogniser does not output rare ones.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np

from msmtfn.errors import UsageError

UNIFIED_IDEOGRAPHS: Final = range(0x4E00, 0xA000)
LEVEL_1_ROWS: Final = range(0xB0, 0xD8)  # rows of GB 2312 with the 3,755 most common characters
ROW_CELLS: Final = range(0xA1, 0xFF)
TONE_MARKS: Final = "\u0304\u0301\u030c\u0300"  # macron, acute, caron, grave: the four tones


@cache
def load_homophones(*, tones_respected: bool = True) -> Mapping[str, str]:
    """Return the common homophones of every character that has any, without the character itself.

    Args:
        tones_respected: whether homophones must have the same tone; if so, 妈 and 马 are not homophones.

    Raises:
        UsageError: pypinyin is not installed.
    """
    readings = _load_readings(tones_respected)
    characters_by_reading: defaultdict[str, list[str]] = defaultdict(list)
    for character in _common_characters():
        characters_by_reading[readings[character]].append(character)
    homophones = {
        character: "".join(other for other in characters_by_reading[reading] if other != character)
        for character, reading in readings.items()
    }
    return {character: others for character, others in homophones.items() if others}


def substitute_homophones(
    text: str, probability: float, rng: np.random.Generator, *, tones_respected: bool = True
) -> str:
    """Replace every character that has homophones, with `probability`, by a random one of them.

    Raises:
        ValueError: `probability` is not between 0 and 1.
        UsageError: pypinyin is not installed.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; it must be between 0 and 1")
    homophones = load_homophones(tones_respected=tones_respected)
    characters = list(text)
    for index in np.flatnonzero(rng.random(len(text)) < probability):
        if others := homophones.get(characters[index]):
            characters[index] = others[int(rng.random() * len(others))]
    return "".join(characters)


def _load_readings(tones_respected: bool) -> dict[str, str]:
    """Return the most frequent reading of every unified ideograph that pypinyin knows."""
    try:
        from pypinyin.constants import PINYIN_DICT  # noqa: PLC0415
    except ImportError as exc:
        raise UsageError("homophones need pypinyin, which is not installed: pip install -e '.[train]'") from exc
    readings = {chr(code): PINYIN_DICT[code].partition(",")[0] for code in UNIFIED_IDEOGRAPHS if code in PINYIN_DICT}
    if tones_respected:
        return readings
    return {character: _without_tone(reading) for character, reading in readings.items()}


def _without_tone(reading: str) -> str:
    """Return a reading without its tone mark; the diaeresis of ü is not a tone mark and stays."""
    letters = unicodedata.normalize("NFD", reading)
    return unicodedata.normalize("NFC", "".join(letter for letter in letters if letter not in TONE_MARKS))


def _common_characters() -> list[str]:
    cells = (bytes([row, cell]).decode("gb2312", errors="ignore") for row in LEVEL_1_ROWS for cell in ROW_CELLS)
    return [character for character in cells if character]
