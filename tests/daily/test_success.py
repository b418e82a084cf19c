"""The record of a published day: what every version wrote is read, and anything else is refused by its field."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msmtfn import storage
from msmtfn.daily.publish import read_success
from msmtfn.daily.success import Success
from msmtfn.errors import PublishError, StorageError
from msmtfn.storage.untrusted import MAX_DEPTH
from tests.daily.parts import DATE, EMPTY, write_success

FULL = replace(
    EMPTY,
    calls=7,
    scored=6,
    rejected=1,
    rejected_by_reason={"audio_unreadable": 1},
    unranked_by_reason={"refused": 2},
    startup_seconds=1.5,
    stage_seconds={"prepare": 44.592, "score": 5.409},
    calls_per_sec=0.305,
    drift={"figures": {}, "rejected": {"share": 0.1, "share_before": None, "days": 0, "moved": False}, "moved": []},
    retried=2,
    files=("leads-0123abcd-00000.parquet",),
    replaced=("89abcdef",),
)

WRITTEN_BY_0_2_0 = """{
  "calls": 7,
  "scored": 6,
  "rejected": 1,
  "rejected_by_reason": {
    "audio_unreadable": 1
  },
  "audio_hours": 0.2829,
  "date": "2026-11-21",
  "run_id": "2026-11-21-d0cec4f60591",
  "model": "demo",
  "model_version": "a10e3946856b",
  "calls_resumed": 0,
  "seconds": 134.091,
  "startup_seconds": 111.128,
  "stage_seconds": {
    "prepare": 44.592,
    "score": 5.409
  },
  "calls_per_sec": 0.305,
  "drift": {
    "figures": {
      "language": {
        "psi": 9.1035,
        "threshold": 1.5944,
        "moved": true
      }
    },
    "rejected": {
      "share": 0.1429,
      "share_before": null,
      "days": 0,
      "moved": false
    },
    "moved": [
      "language"
    ]
  },
  "published_at": "2026-11-28T14:48:04+00:00",
  "versions": {
    "msmtfn": "0.2.0",
    "ray": "2.60.0"
  },
  "publication": "41f9142d",
  "files": [
    "leads-41f9142d-00000.parquet"
  ]
}
"""
"""As the version before the typed record wrote it."""


def plant(root: Path, **changes: Any) -> None:
    storage.write_text(f"{root}/date={DATE}/_SUCCESS", json.dumps({**FULL.as_dict(), **changes}))


def test_what_an_earlier_version_wrote_is_read_and_written_byte_for_byte() -> None:
    assert Success.from_json(WRITTEN_BY_0_2_0).to_json() == WRITTEN_BY_0_2_0


@pytest.mark.parametrize("record", [EMPTY, FULL])
def test_a_record_comes_back_as_it_was_written(record: Success) -> None:
    assert Success.from_json(record.to_json()) == record


def test_fields_without_a_value_are_left_out_and_the_others_keep_their_order() -> None:
    optional = {
        "unranked_by_reason",
        "startup_seconds",
        "stage_seconds",
        "calls_per_sec",
        "drift",
        "retried",
        "replaced",
    }
    assert set(FULL.as_dict()) - set(EMPTY.as_dict()) == optional
    assert list(FULL.as_dict())[-5:] == ["versions", "retried", "publication", "files", "replaced"]


def test_fields_of_a_newer_version_are_kept(tmp_path: Path) -> None:
    newer = {"transcribed": 7, "unknown": {"languages": ["xx"]}}
    plant(tmp_path, **newer)
    success = read_success(str(tmp_path), DATE)
    assert success is not None
    assert success.unknown == newer
    assert json.loads(replace(success, replaced=()).to_json()).items() >= newer.items()


@pytest.mark.parametrize("name", ["calls", "date", "run_id", "model", "seconds", "versions", "publication", "files"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    content = FULL.as_dict()
    del content[name]
    with pytest.raises(ValueError, match=f"^the field '{name}' is missing$"):
        Success.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("calls", "7", "must be of type int"),
        ("calls", True, "must be of type int"),
        ("calls", 7.0, "must be of type int"),
        ("rejected", -1, "must be from 0"),
        ("scored", 10**400, "must be from 0"),
        ("retried", None, "must be of type int"),
        ("seconds", float("nan"), "must be a finite number"),
        ("seconds", 10**400, "is too large a number"),
        ("calls_per_sec", "fast", "must be of type float"),
        ("rejected_by_reason", {"bad_row": "2"}, "must be of type int"),
        ("rejected_by_reason", [], "must be of type dict"),
        ("unranked_by_reason", {"refused": "2"}, "must be of type int"),
        ("stage_seconds", {"score": None}, "must be of type float"),
        ("versions", {"ray": 2}, "must be of type str"),
        ("date", "yesterday", "is not a date"),
        ("model", ["demo"], "must be of type str"),
        ("model", "\ud800", "cannot be written as UTF-8"),
        ("files", "leads-0123abcd-00000.parquet", "must be of type list"),
        ("replaced", [7], "must be of type str"),
        ("drift", [], "must be of type dict"),
        ("drift", {}, "is not what a run writes"),
        ("drift", {"moved": ["language"]}, "is not what a run writes"),
        ("drift", {"moved": ["rejected"], "rejected": {"share": "x"}}, "is not what a run writes"),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_the_file(
    tmp_path: Path, name: str, value: Any, expected: str
) -> None:
    plant(tmp_path, **{name: value})
    with pytest.raises(
        PublishError, match=rf"_SUCCESS is not what a run writes \(the field '{name}.* {expected}.*; remove it"
    ):
        read_success(str(tmp_path), DATE)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000])
def test_a_record_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    text = FULL.to_json().replace('"calls": 7', '"calls": 7, "x": ' + "[" * depth + "]" * depth)
    with pytest.raises(ValueError, match="nested too deeply"):
        Success.from_json(text)


def test_a_record_of_three_gigabytes_is_not_read(tmp_path: Path) -> None:
    write_success(tmp_path)
    os.truncate(tmp_path / f"date={DATE}" / "_SUCCESS", 3 * 2**30)
    with pytest.raises(
        StorageError,
        match=r"_SUCCESS cannot be read: it has 3221225472 bytes; at most 16777216 are read; .* remove it$",
    ):
        read_success(str(tmp_path), DATE)
