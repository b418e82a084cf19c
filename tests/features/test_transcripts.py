"""Limits on transcripts, which anybody can write into a manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf
from transformers import BertTokenizer

from msmtfn.calls.audio import Recording
from msmtfn.calls.checks import TranscriptConfig
from msmtfn.calls.columns import INTERPRETED
from msmtfn.calls.rounds import Round, Turn
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.model.checkpoint import make_processor
from msmtfn.model.config import MsmtFnConfig

RATE = 8000
ROWS = pa.schema([("row_id", pa.int64()), ("row_error", pa.string()), *INTERPRETED])
MakePreparer = Callable[..., Preparer]


@pytest.fixture
def make_preparer(
    tmp_path: Path, tiny_config: Callable[..., MsmtFnConfig], tiny_tokenizer: BertTokenizer
) -> MakePreparer:
    """Return a function that makes a preparer with limits on transcripts, beside a recording of half a second."""
    sf.write(tmp_path / "a.wav", np.full(RATE // 2, 1000, np.int16), RATE)

    def make(**limits: Any) -> Preparer:
        config = PrepareConfig(transcript=TranscriptConfig(**limits))
        return Preparer(config, make_processor(tiny_config(), tiny_tokenizer), str(tmp_path))

    return make


def exchanges(number: int, length_sec: float, text: str = "a") -> list[dict[str, Any]]:
    """Make alternating turns of agent and customer, one after the other."""
    return [
        {
            "speaker": ("agent", "customer")[index % 2],
            "start_sec": index * length_sec,
            "end_sec": (index + 1) * length_sec,
        }
        | {"end_sec": (index + 1) * length_sec, "text": text}
        for index in range(number)
    ]


def prepare(preparer: Preparer, turns: list[dict[str, Any]]) -> dict[str, Any]:
    rows = pa.Table.from_pylist([{"row_id": 0, "call_id": "a", "uri": "a.wav", "turns": turns}], ROWS)
    (row,) = preparer.prepare_batch(rows, ["row_id"]).to_pylist()
    return dict(row)


def test_a_hundred_thousand_turns_in_half_a_second_are_a_bad_row(make_preparer: MakePreparer) -> None:
    row = prepare(make_preparer(), exchanges(100_000, 0.5 / 100_000))
    assert row["error_code"] == "bad_row"
    assert row["error_detail"] == "turns has 100000 turns; at most 50000 are allowed (--max-turns)"


def test_more_turns_than_anybody_can_take_are_a_bad_row(make_preparer: MakePreparer) -> None:
    row = prepare(make_preparer(), exchanges(111, 0.5 / 111))
    assert row["error_code"] == "bad_row"
    expected = "a recording of 0.5 s has 111 turns; at most 110 are allowed (--max-turns-per-sec)"
    assert row["error_detail"] == expected
    assert prepare(make_preparer(), exchanges(110, 0.5 / 110))["error_code"] is None


@pytest.mark.parametrize(
    ("limits", "text", "detail"),
    [
        ({"max_turn_chars": 5}, "a" * 6, "a turn has 6 characters; at most 5 are allowed (--max-turn-chars)"),
        (
            {"max_transcript_chars": 9},
            "abcde",
            "turns has 10 characters; at most 9 are allowed (--max-transcript-chars)",
        ),
        ({"max_turns": 1}, "a", "turns has 2 turns; at most 1 are allowed (--max-turns)"),
    ],
)
def test_a_transcript_above_a_limit_is_a_bad_row_that_names_the_option(
    make_preparer: MakePreparer, limits: dict[str, int], text: str, detail: str
) -> None:
    row = prepare(make_preparer(**limits), exchanges(2, 0.1, text))
    assert (row["error_code"], row["error_detail"]) == ("bad_row", detail)


def test_more_rounds_than_the_limit_are_a_bad_row(make_preparer: MakePreparer) -> None:
    row = prepare(make_preparer(max_rounds=2), exchanges(6, 0.05))
    assert row["error_code"] == "bad_row"
    assert row["error_detail"] == "the call has 3 rounds; at most 2 are allowed (--max-rounds)"


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_must_be_positive_and_finite(limit: float) -> None:
    with pytest.raises(ValueError, match="max_turns_per_sec is"):
        TranscriptConfig(max_turns_per_sec=limit)


def test_every_round_has_a_sample_of_sound_and_no_text_is_lost(make_preparer: MakePreparer) -> None:
    processor = make_preparer().processor
    turns = [Turn(("agent", "customer")[index % 2], index * 3e-5, 0.25, f"t{index}") for index in range(40)]
    call = processor.process_decoded(Recording(np.ones((1, RATE // 2), np.float32), RATE), turns, None)
    assert 1 < len(call.rounds) < 20
    assert min(call.round_samples) > 0
    assert " ".join(found.text for found in call.rounds).split() == [f"t{index}" for index in range(40)]


def test_turns_within_one_sample_leave_the_call_to_windows(make_preparer: MakePreparer) -> None:
    call = make_preparer().processor.process_decoded(
        Recording(np.ones((1, RATE // 2), np.float32), RATE), [Turn("agent", 0.1, 0.10001, "a")], None
    )
    assert (call.rounds[0].start_sec, call.rounds[0].end_sec) == (0.0, 0.5)


def test_a_long_text_is_cut_before_it_is_tokenised(
    make_preparer: MakePreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = make_preparer().processor
    text = "a b " * 100_000
    tokenizer, max_tokens = processor.tokenizer, processor.config.max_text_tokens
    expected = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
    lengths: list[int] = []

    def record(texts: list[str], **options: Any) -> Any:
        lengths.extend(map(len, texts))
        return tokenizer(texts, **options)

    monkeypatch.setattr(processor, "tokenizer", record)
    assert processor.tokenize_rounds([Round(0.0, 0.5, text)]) == [expected]
    assert lengths == [100 * max_tokens]
