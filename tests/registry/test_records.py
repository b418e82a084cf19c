from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msmtfn.errors import ModelError
from msmtfn.model.location import Current, read_current
from msmtfn.registry.records import Decision, GateConfig, VersionRecord
from msmtfn.registry.versions import list_records, write_decision

CURRENT = """{
  "version": "v0002",
  "before": [
    "v0001"
  ],
  "left": [],
  "since": "2026-11-25T08:00:00+00:00"
}
"""
"""`current` as version 0.2.0 wrote it."""

RECORD = """{
  "version": "v0002",
  "run": "train-0123456789ab",
  "added_at": "2026-11-25T07:00:00+00:00",
  "decision": {
    "metric": "accuracy_five",
    "passed": true,
    "reason": "+3.0 points, 90 % interval -1.0 to +7.0: its lower end is not below minus the margin of 2",
    "calls": 1200,
    "candidate": 0.75,
    "present": 0.72,
    "difference": 0.03,
    "interval": [
      -0.01,
      0.07
    ],
    "config": {
      "gate_share": 0.1,
      "gate_margin": 0.02,
      "gate_confidence": 0.9,
      "gate_min_calls": 50
    },
    "compared_with": "v0001",
    "promoted": true
  },
  "decided_at": "2026-11-25T08:00:00+00:00"
}
"""
"""A version's record as version 0.2.0 wrote it."""


def read_record(content: Any, root: Path) -> VersionRecord:
    (root / "v0002.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (record,) = list_records(str(root))
    return record


def test_a_record_of_an_earlier_version_is_read_and_written_the_same(tmp_path: Path) -> None:
    record = read_record(RECORD, tmp_path)
    assert record.decision is not None
    assert record.decision.interval == (-0.01, 0.07)
    assert json.dumps(record.as_json(), indent=2) + "\n" == RECORD


def test_the_current_of_an_earlier_version_is_read_and_written_the_same(tmp_path: Path) -> None:
    (tmp_path / "current").write_text(CURRENT)
    current = read_current(str(tmp_path))
    assert current == Current("v0002", ("v0001",))
    assert json.dumps(current.as_json(), indent=2) + "\n" == CURRENT


def test_the_first_versions_had_neither_a_minimum_of_calls_nor_versions_rolled_back(tmp_path: Path) -> None:
    content = json.loads(RECORD)
    del content["decision"]["config"]["gate_min_calls"]
    decision = read_record(content, tmp_path).decision
    assert decision is not None
    assert decision.config == GateConfig(gate_min_calls=1)
    assert Current.from_json({"version": "v0002", "before": []}) == Current("v0002", (), ())


def test_a_record_without_a_decision_is_one_of_an_unfinished_version(tmp_path: Path) -> None:
    content = {"version": "v0002", "run": "train-1", "added_at": "2026-11-25T07:00:00+00:00", "decision": None}
    record = read_record(content, tmp_path)
    assert record.decision is None
    assert record.as_json() == content


def test_fields_of_a_later_version_are_kept_when_the_record_is_written_again(tmp_path: Path) -> None:
    content = json.loads(RECORD) | {"note": "ours"}
    content["decision"]["judge"] = {"name": "another"}
    content["decision"]["config"]["gate_metric"] = "macro_f1"
    record = read_record(content, tmp_path)
    assert record.decision is not None
    write_decision(str(tmp_path), record, replace(record.decision, promoted=False))
    written = json.loads((tmp_path / "v0002.json").read_text())
    assert written.pop("decided_at") > content.pop("decided_at")
    content["decision"]["promoted"] = False
    assert written == content


@pytest.mark.parametrize("name", ["metric", "passed", "reason", "calls", "candidate", "config", "promoted"])
def test_a_missing_field_of_a_decision_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    content = json.loads(RECORD)
    del content["decision"][name]
    with pytest.raises(ModelError, match=rf"v0002\.json is no record .*the field '{name}' is missing.*; correct it"):
        read_record(content, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("passed", 1, "the field 'passed' is 1"),
        ("calls", 1.5, "the field 'calls' is 1.5"),
        ("candidate", 10**400, "the field 'candidate' is too large a number"),
        ("interval", [0.1], "the field 'interval' has 1 items"),
        ("interval", [0.1, "0.2"], r"the field 'interval\[1\]' is '0.2'"),
        ("config", {"gate_share": 2.0, "gate_margin": 0.02, "gate_confidence": 0.9}, "gate_share"),
        ("compared_with", [], "the field 'compared_with' is a list"),
    ],
)
def test_a_wrong_field_of_a_decision_is_named_with_its_file(tmp_path: Path, name: str, value: Any, shown: str) -> None:
    content = json.loads(RECORD)
    content["decision"][name] = value
    with pytest.raises(ModelError, match=rf"v0002\.json is no record .*{shown}"):
        read_record(content, tmp_path)


def test_a_decision_is_described_in_one_printable_line() -> None:
    decision = Decision(
        passed=False,
        reason="worse\n\x1b[31m",
        calls=1200,
        candidate=0.715,
        present=0.75,
        config=GateConfig(),
        compared_with="v0001",
    )
    assert decision.describe() == (
        r"did not pass: 71.5 % of 1,200 held-out calls classified correctly, v0001 75.0 %; worse\n\x1b[31m"
    )
