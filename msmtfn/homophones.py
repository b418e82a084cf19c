"""Characters that sound alike, and texts with the errors that a recogniser of Mandarin makes among them.

The readings are pypinyin's, the first of each character: the one that it has most often. A character is replaced by
common characters only (GB 2312, level 1), as a recogniser writes no rare ones.
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
LEVEL_1_ROWS: Final = range(0xB0, 0xD8)  # of GB 2312: its 3,755 most common characters
ROW_CELLS: Final = range(0xA1, 0xFF)
TONE_MARKS: Final = "\u0304\u0301\u030c\u0300"  # macron, acute, caron, grave: the four tones


@cache
def load_homophones(*, tones_respected: bool = True) -> Mapping[str, str]:
    """The dictionary of homophones.

    Args:
        tones_respected: whether 妈 and 马 are different sounds.

    Returns:
        For each character that has any, the common characters that sound like it, itself left out.

    Raises:
        UsageError: pypinyin is not installed.
    """
    readings = _load_readings(tones_respected)
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for character in _common_characters():
        alike[readings[character]].append(character)
    homophones = {
        character: "".join(other for other in alike[reading] if other != character)
        for character, reading in readings.items()
    }
    return {character: others for character, others in homophones.items() if others}


def substitute_homophones(
    text: str, probability: float, rng: np.random.Generator, *, tones_respected: bool = True
) -> str:
    """Replace each character that has homophones, with `probability`, by one of them; all are equally likely.

    Raises:
        ValueError: `probability` is none.
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
    """The most frequent reading of each unified ideograph."""
    try:
        from pypinyin.constants import PINYIN_DICT  # noqa: PLC0415
    except ImportError as exc:
        raise UsageError("homophones need pypinyin, which is not installed: pip install -e '.[train]'") from exc
    readings = {chr(code): PINYIN_DICT[code].partition(",")[0] for code in UNIFIED_IDEOGRAPHS if code in PINYIN_DICT}
    return readings if tones_respected else {each: _without_tone(reading) for each, reading in readings.items()}


def _without_tone(reading: str) -> str:
    """Keeps the two dots of ü, which are no tone."""
    letters = unicodedata.normalize("NFD", reading)
    return unicodedata.normalize("NFC", "".join(letter for letter in letters if letter not in TONE_MARKS))


def _common_characters() -> list[str]:
    cells = (bytes([row, cell]).decode("gb2312", errors="ignore") for row in LEVEL_1_ROWS for cell in ROW_CELLS)
    return [character for character in cells if character]
