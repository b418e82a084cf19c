"""Write Mandarin in simplified characters, whatever mixture a recogniser writes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from msmtfn.errors import ModelError

MANDARIN: Final = ("zh", "cmn")


def simplify(text: str) -> str:
    """Return a text with traditional characters replaced by simplified ones.

    Raises:
        ModelError: the package that knows them is not installed.
    """
    return str(_converter().convert(text))


def check_characters() -> None:
    """Check that the package which knows the characters is installed.

    Raises:
        ModelError: it is not.
    """
    _converter()


@lru_cache(maxsize=1)
def _converter() -> Any:
    try:
        from opencc import OpenCC  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ModelError(
            f"simplified characters need the extra: pip install 'msmtfn[asr]' on every machine, or "
            f"--characters as-heard ({exc})"
        ) from exc
    return OpenCC("t2s")
