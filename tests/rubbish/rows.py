"""Manifest rows that break the contract or come close to it: random, but the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from msmtfn.calls.columns import TURN
from tests.rubbish.recordings import OUTSIDE, SCORED

BAD_ROW: Final = frozenset({"bad_row"})
FINE: Final = frozenset({SCORED})
MISSING: Final = frozenset({"audio_not_found"})
UNREADABLE: Final = frozenset({"audio_unreadable"})
GOOD_URI: Final = "good.wav"
TRANSCRIPT: Final = "planted transcript 4242"
CUSTOMER: Final = "planted customer 1380"

SCHEMA: Final = pa.schema(
    [
        ("planted", pa.int64()),
        ("call_id", pa.string()),
        ("uri", pa.string()),
        ("customer_id", pa.string()),
        ("agent_channel", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("intent", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class RubbishRow:
    """A manifest row with the values that replace the good ones, and the allowed outcomes."""

    kind: str
    values: dict[str, Any]
    outcomes: frozenset[str]


def turn(speaker: Any = "agent", start: Any = 0.0, end: Any = 0.5, text: Any = TRANSCRIPT) -> dict[str, Any]:
    """Return one turn of a transcript."""
    return {"speaker": speaker, "start_sec": start, "end_sec": end, "text": text}


def _uris() -> Iterator[RubbishRow]:
    for uri in (
        "../outside/secret.wav", "/etc/passwd", "file:///etc/passwd", "file://etc/passwd", "/proc/self/mem",
        "/dev/zero", "/dev/stdin", "//etc/passwd", "sub/../../outside/secret.wav", "/", "..", "s3://bucket/../a",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:9/a.wav", "https://host/a.wav", "ftp://host/a.wav", "gs://bucket/a", "s3://bucket/a.wav",
        "s3://", "s3:///", "s3://169.254.169.254/a", "FILE:///etc/passwd", "S3://bucket/a", "memory://a", "concat://a",
        "zip://a::s3://b/c", "simplecache::s3://b/c", "data://text", "://", "a://b", TRANSCRIPT + "://", "\n://",
    ):  # fmt: skip
        yield RubbishRow("uri elsewhere", {"uri": uri}, OUTSIDE)
    for uri in (
        "missing.wav", "~/a.wav", "file:/etc/passwd", "good.wav/a.wav", "concat:good.wav", "x" * 300, "é" * 200,
        "pipe:0", "-", "good.wav\n", "good.wav ", "%67ood.wav", "a/" * 500, "C:\\good.wav", "\u202egood.wav",
    ):  # fmt: skip
        yield RubbishRow("uri of nothing", {"uri": uri}, MISSING | UNREADABLE)
    for uri in ("good.wav\0", "\0", "\0/etc/passwd"):
        yield RubbishRow("uri with a NUL", {"uri": uri}, UNREADABLE | OUTSIDE)
    for none in ("", None, "a" * 5000, "../" * 100_000, "/" * 1_000_000):
        yield RubbishRow("uri that is none", {"uri": none}, BAD_ROW)
    for uri in ("./good.wav", "nothing/../good.wav", ".//good.wav", "good.wav/", "good.wav/."):
        yield RubbishRow("uri the long way", {"uri": uri}, FINE | MISSING)


def _turns() -> Iterator[RubbishRow]:
    for kind, turns in {
        "null": [None],
        "another speaker": [turn(CUSTOMER)],
        "no speaker": [turn(None)],
        "a space behind the speaker": [turn("agent ")],
        "not a number": [turn(start=math.nan)],
        "never ends": [turn(end=math.inf)],
        "always was": [turn(start=-math.inf)],
        "backwards": [turn(start=0.5, end=0.1)],
        "before the call": [turn(start=-1.0)],
        "no start": [turn(start=None)],
        "no end": [turn(end=None)],
        "all after the end": [turn(start=100.0, end=200.0)],
        "past all numbers": [turn(start=1e307, end=1.7e308)],
        "the last of a thousand": [*[turn()] * 1000, turn(start=2.0, end=1.0)],
        "ten thousand": [turn(start=index * 1e-4, end=index * 1e-4, text="a") for index in range(10_000)],
        "a megabyte": [turn(text="a b " * 250_000)],
    }.items():
        yield RubbishRow(f"turns: {kind}", {"turns": turns}, BAD_ROW)
    for kind, turns in {
        "none": [],
        "no text": [turn(text=None)],
        "of no length": [turn(start=0.2, end=0.2)],
        "a year long": [turn(end=3e7)],
        "too small to tell": [turn(start=5e-324, end=1e-323)],
        "one long word": [turn(text="a" * 100_000)],
        "control characters": [turn(text="".join(map(chr, range(1, 160))))],
        "special tokens": [turn(text="[CLS] [SEP] [MASK] [PAD] [UNK] " * 50)],
        "no letters": [turn(text="\u200b\ufeff\u202e\U0001f600\ufffd" * 30)],
        "a NUL": [turn(text="a\0b")],
        "the same ones": [turn()] * 50,
        "in the wrong order": [turn("customer", 0.6, 0.9), turn("agent", 0.1, 0.5), turn("agent", 0.0, 0.9)],
    }.items():
        yield RubbishRow(f"turns: {kind}", {"turns": turns}, FINE)


def _labels() -> Iterator[RubbishRow]:
    for intent in ("F", "a", "", " A", "A ", "AB", "\0", CUSTOMER, TRANSCRIPT, "１", "Ａ"):
        yield RubbishRow("intent", {"intent": intent}, BAD_ROW)
    for channel in (-1, 2, 7, 2**31, 2**63 - 1, -(2**63)):
        yield RubbishRow("agent channel", {"agent_channel": channel}, BAD_ROW)
    for call_id in ("", None, "good"):  # the last is taken
        yield RubbishRow("call id", {"call_id": call_id}, BAD_ROW)
    for number, call_id in enumerate(
        ("\n", "\0", "a'b\"c", "../../etc", "é\u0301", "x" * 100_000, "😀", "date=1", " ")
    ):
        yield RubbishRow("odd call id", {"call_id": f"{call_id}{number}"}, FINE)
    for customer in ("", None, "x" * 100_000, "\0", "../..", "😀"):
        yield RubbishRow("odd customer", {"customer_id": customer}, FINE)


def make_rows(number: int, seed: int) -> list[RubbishRow]:
    """Make every kind of row once, in random order, then rows with two faults."""
    rng = np.random.default_rng(seed)
    single = [*_uris(), *_turns(), *_labels()]
    rows = [single[index] for index in rng.permutation(len(single))]
    while len(rows) < number:
        first, second = (single[index] for index in rng.integers(0, len(single), 2))
        if "call_id" in first.values or "call_id" in second.values:
            continue  # a second row with the same id would be rejected
        values = {**first.values, **second.values}
        outcomes = first.outcomes | second.outcomes
        if not (first.outcomes >= FINE and second.outcomes >= FINE):
            outcomes -= FINE if not set(first.values) & set(second.values) else set()
        rows.append(RubbishRow("two faults", values, outcomes))
    return rows[:number]


def as_tables(rows: list[dict[str, Any]]) -> list[pa.Table]:
    """Convert the rows to tables whose columns have different, compatible types."""
    plain, packed, floats, broken = (rows[start::4] for start in range(4))
    tables = [pa.Table.from_pylist(part, schema=SCHEMA) for part in (plain, packed, floats, broken)]
    packing = {
        "call_id": pa.large_string(),
        "uri": pa.string_view(),
        "intent": pa.dictionary(pa.int32(), pa.string()),
        "customer_id": pa.large_string(),
    }
    for name, kind in packing.items():
        index = SCHEMA.get_field_index(name)
        column = tables[1][name]
        column = column.dictionary_encode() if name == "intent" else column.cast(kind)
        tables[1] = tables[1].set_column(index, name, column)
    index = SCHEMA.get_field_index("agent_channel")
    channels = [None if value is None else float(value) for value in tables[2]["agent_channel"].to_pylist()]
    tables[2] = tables[2].set_column(index, "agent_channel", pa.array(channels, pa.float64()))
    return tables
