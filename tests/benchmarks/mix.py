"""Calls with realistic lengths, as a workload for measurements.

A call has 3.35 rounds on average. Their lengths are log-normal with a median of 14 s and sigma 0.6, clipped to 1 to
40 s, and every round has 60 tokens.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from msmtfn.inference.scorer import CallRounds

ROUNDS_PER_CALL: Final = 3.35
MEDIAN_ROUND_SEC, SIGMA = 14.0, 0.6
SHORTEST_SEC, LONGEST_SEC = 1.0, 40.0
TOKENS_PER_ROUND: Final = 60
SAMPLE_RATE: Final = 8000
DATE: Final = dt.date(2026, 1, 5)
CHARACTERS: Final = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能"


def draw_lengths(num_calls: int, rng: np.random.Generator) -> list[list[float]]:
    """Draw the lengths of the rounds of every call, in seconds; every call has at least one round."""
    num_rounds = max(round(num_calls * ROUNDS_PER_CALL), num_calls)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_ROUND_SEC), SIGMA, num_rounds), SHORTEST_SEC, LONGEST_SEC)
    return [part.tolist() for part in np.array_split(lengths, num_calls)]


def make_call(rng: np.random.Generator, round_sec: Sequence[float]) -> CallRounds:
    """Make a prepared call of noise with random tokens."""
    samples = [_noise(rng, seconds) for seconds in round_sec]
    return CallRounds(samples, [rng.integers(100, 20_000, TOKENS_PER_ROUND).astype(np.int32) for _ in round_sec])


def write_day(folder: Path, calls: Sequence[Sequence[float]], rng: np.random.Generator, subtype: str) -> Path:
    """Write the manifest and the recordings of a day of calls that consist of noise.

    Args:
        folder: root folder of the manifests.
        calls: lengths of the rounds of every call, in seconds.
        rng: source of samples and text.
        subtype: libsndfile's name of the WAV files' subtype.

    Returns:
        `folder`.
    """
    day = folder / f"date={DATE}"
    day.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, round_sec in enumerate(calls):
        name = f"{number:06d}.wav"
        sf.write(folder / name, np.concatenate([_noise(rng, seconds) for seconds in round_sec]), SAMPLE_RATE, subtype)
        rows.append({"call_id": f"call-{number:06d}", "uri": name, "turns": _turns(rng, round_sec)})
    pq.write_table(pa.Table.from_pylist(rows), day / "calls.parquet")
    return folder


def _turns(rng: np.random.Generator, round_sec: Sequence[float]) -> list[dict[str, Any]]:
    """Make the turns: in every round the agent speaks the first half and the customer the second."""
    turns, start = [], 0.0
    for seconds in round_sec:
        middle, end = start + seconds / 2, start + seconds
        for speaker, start_sec, end_sec in (("agent", start, middle), ("customer", middle, end)):
            text = "".join(rng.choice(list(CHARACTERS), (TOKENS_PER_ROUND - 2) // 2))  # [CLS] and [SEP] are added later
            turns.append({"speaker": speaker, "start_sec": start_sec, "end_sec": end_sec, "text": text})
        start = end
    return turns


def _noise(rng: np.random.Generator, seconds: float) -> npt.NDArray[np.int16]:
    return rng.integers(-8000, 8000, round(SAMPLE_RATE * seconds)).astype(np.int16)
