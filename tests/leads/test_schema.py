from __future__ import annotations

import pyarrow as pa

from msmtfn.calls.facts import CallFacts
from msmtfn.leads.schema import FACTS, OUTCOME, RESERVED, leads_schema, parts_schema

PASSED = [pa.field("call_id", pa.string()), pa.field("price", pa.decimal128(9, 2))]
CONTRACT = [
    *("status", "error_code", "error_detail", "five", "four", "three", "two", "intent_predicted", "prediction_set"),
    *("lead_score", "lead_rank", "unranked_reason", "evidence", "duration_sec", "num_rounds", "num_tokens"),
    *("loudness_dbfs", "rounds", "facts", "model_version", "run_id", "scored_at"),
]


def test_the_leads_have_what_passed_and_then_the_columns_of_the_contract() -> None:
    assert leads_schema(parts_schema(PASSED)).names == ["call_id", "price", *CONTRACT]


def test_the_parts_have_a_row_number_and_no_rank() -> None:
    names = parts_schema(PASSED).names
    assert names[:3] == ["row_id", "call_id", "price"]
    assert "lead_rank" not in names


def test_a_column_that_passes_through_keeps_its_type() -> None:
    assert leads_schema(parts_schema(PASSED)).field("price").type == pa.decimal128(9, 2)


def test_a_task_has_a_field_for_each_of_its_classes() -> None:
    classes = {task: [field.name for field in OUTCOME.field(task).type] for task in ("five", "four", "three", "two")}
    assert classes == {
        "five": ["A", "B", "C", "D", "E"],
        "four": ["A", "B", "C", "DE"],
        "three": ["A", "BC", "DE"],
        "two": ["ABC", "DE"],
    }


def test_the_leads_have_a_field_for_each_fact_of_a_call() -> None:
    assert [field.name for field in FACTS] == list(CallFacts.__slots__)


def test_every_column_of_the_contract_is_reserved_and_the_name_of_the_days_folders() -> None:
    assert {*CONTRACT, "date"} == RESERVED
