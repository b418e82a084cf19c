"""Rows of manifests, recordings and their preparation, for the tests of `prepare.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile as sf

from msmtfn.calls.audio import AudioConfig
from msmtfn.calls.columns import INTERPRETED
from msmtfn.features.prepare import Preparer

PASSTHROUGH = ["row_id", "call_id", "customer_id"]
CALLS = pa.schema(
    [("row_id", pa.int64()), ("row_error", pa.string()), *INTERPRETED, pa.field("customer_id", pa.string())]
)
LIMITS = AudioConfig(max_file_bytes=100_000, max_duration_sec=10.0)
CLS, SEP, A, B, C, HASH_B = 2, 3, 5, 6, 7, 16  # ids of the tiny tokenizer
CUSTOMER = "13800001111"
SECRET = "abba"
MakePreparer = Callable[..., Preparer]


def ramp(num_samples: int) -> npt.NDArray[np.int16]:
    """Make samples that show their position: each is 8 more than the one before, from 0 again after 4096."""
    return (8 * (np.arange(num_samples) % 4096)).astype(np.int16)


def write(path: Path, duration_sec: float = 1.0, rate: int = 8000, **options: Any) -> Path:
    sf.write(path, ramp(round(duration_sec * rate)), rate, **options)
    return path


def calls(*rows: dict[str, Any]) -> pa.Table:
    """Make rows of a manifest; `turns` are (speaker, start, end, text)."""
    names = ("speaker", "start_sec", "end_sec", "text")
    for row in rows:
        if row.get("turns"):
            row["turns"] = [dict(zip(names, turn, strict=True)) for turn in row["turns"]]
    filled = [{"row_id": number, "call_id": f"call-{number}", **row} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(filled, schema=CALLS)


def prepare_one(preparer: Preparer, **row: Any) -> dict[str, Any]:
    [prepared] = preparer.prepare_batch(calls(row), PASSTHROUGH).to_pylist()
    return dict(prepared)


def samples_of(prepared: dict[str, Any]) -> npt.NDArray[np.int64]:
    return np.array(prepared["samples"], np.int64)
