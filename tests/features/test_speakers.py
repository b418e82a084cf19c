"""Tokens of networks that read who speaks, and folders that know nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from msmtfn.calls.rounds import Round
from msmtfn.corpora import demo_model
from msmtfn.features.processor import CallProcessor
from msmtfn.features.processor_config import ProcessorConfig
from msmtfn.model.checkpoint import load_model, model_version, save_model
from msmtfn.model.network import MsmtFn
from tests.features.prepared import CLS, SEP, A, B, C

NEW_FIELDS = ("outer_silence", "speakers")


def tokens_of(tokenizer: BertTokenizer, *stretches: str, max_text_tokens: int = 20) -> list[int]:
    config = ProcessorConfig(speakers="mark", max_text_tokens=max_text_tokens)
    [ids] = CallProcessor(tokenizer, config).tokenize_rounds([Round(0.0, 1.0, " ".join(stretches), stretches)])
    return ids


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        (("a b", "c"), [CLS, A, B, SEP, C, SEP]),
        (("a",), [CLS, A, SEP]),
        (("", "c"), [CLS, SEP, C, SEP]),
        (("a", "c", "b"), [CLS, A, SEP, C, SEP, B, SEP]),
        (("",), []),
        ((), []),
    ],
)
def test_a_separator_stands_where_the_speaker_changes(
    stretches: tuple[str, ...], expected: list[int], tiny_tokenizer: BertTokenizer
) -> None:
    assert tokens_of(tiny_tokenizer, *stretches) == expected


def test_a_text_of_two_sides_is_what_the_tokenizer_makes_of_a_pair(tiny_tokenizer: BertTokenizer) -> None:
    assert tokens_of(tiny_tokenizer, "a b", "c") == tiny_tokenizer("a b", "c")["input_ids"]


def test_rounds_without_text_stay_where_they_are(tiny_tokenizer: BertTokenizer) -> None:
    processor = CallProcessor(tiny_tokenizer, ProcessorConfig(speakers="mark"))
    rounds = [Round(0, 1, "", ("",)), Round(1, 2, "a", ("a",)), Round(2, 3, "", ()), Round(3, 4, "c", ("", "c"))]
    assert processor.tokenize_rounds(rounds) == [[], [CLS, A, SEP], [], [CLS, SEP, C, SEP]]
    assert processor.tokenize_rounds(rounds[:1]) == [[]]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(6, [CLS, A, B, SEP, C, SEP]), (5, [CLS, A, B, SEP, SEP]), (4, [CLS, A, B, SEP]), (3, [CLS, A, SEP])],
)
def test_separators_count_as_tokens(limit: int, expected: list[int], tiny_tokenizer: BertTokenizer) -> None:
    assert tokens_of(tiny_tokenizer, "a b", "c", max_text_tokens=limit) == expected


def test_a_long_text_ends_with_a_separator(tiny_tokenizer: BertTokenizer) -> None:
    ids = tokens_of(tiny_tokenizer, "a b " * 100_000, "c")
    assert (len(ids), ids[:3], ids[-1]) == (20, [CLS, A, B], SEP)


def test_the_processor_of_a_folder_marks_as_its_network_was_trained(
    tiny_network: Any, tiny_tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    save_model(tiny_network(speakers="mark"), tiny_tokenizer, tmp_path, "card")
    turns = [{"speaker": "agent", "start_sec": 0.0, "end_sec": 0.5, "text": "a"}]
    turns.append({"speaker": "customer", "start_sec": 0.5, "end_sec": 1.0, "text": "c"})
    for processor in (load_model(tmp_path).processor, CallProcessor.from_pretrained(tmp_path)):
        call = processor(np.zeros(8000, np.int16), turns, sample_rate=8000)
        assert call["input_ids"].tolist() == [[CLS, A, SEP, C, SEP]]


# ---- folders of older versions


def test_the_embedded_demo_reads_a_call_as_it_always_did() -> None:
    # Its folder lacks both fields: rounds from the first turn to the end of the last, their texts joined.
    model = load_model(demo_model())
    for file in ("config.json", "processor_config.json"):
        assert not set(NEW_FIELDS) & set(json.loads((demo_model() / file).read_text()))
    assert (model.network.config.outer_silence, model.network.config.speakers) == ("drop", "ignore")
    samples = np.random.default_rng(0).integers(-3000, 3000, 8 * 8000).astype(np.int16)
    turns = [
        ("agent", 1.0, 2.0, "您好"),
        ("customer", 2.5, 3.0, "好的"),
        ("agent", 4.0, 5.0, "再见"),
        ("customer", 5, 6, ""),
    ]
    names = ("speaker", "start_sec", "end_sec", "text")
    rows = [dict(zip(names, turn, strict=True)) for turn in turns]
    for processor in (model.processor, CallProcessor.from_pretrained(demo_model())):
        call = processor.process(samples, rows, sample_rate=8000)
        assert [(each.start_sec, each.end_sec) for each in call.rounds] == [(1.0, 4.0), (4.0, 6.0)]
        assert call.input_ids == model.tokenizer(["您好 好的", "再见"])["input_ids"]
        assert np.array_equal(call.samples, samples[8000:48_000])


def test_a_folder_without_the_fields_is_the_network_that_ignores_the_speakers_and_drops_the_silence(
    tiny_network: Any, tiny_tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    save_model(tiny_network(outer_silence="drop"), tiny_tokenizer, tmp_path, "card")
    newer = load_model(tmp_path)
    for name in ("config.json", "processor_config.json"):
        content = json.loads((tmp_path / name).read_text())
        assert content.pop("outer_silence") == "drop"
        assert content.pop("speakers") == "ignore"
        (tmp_path / name).write_text(json.dumps(content))
    older = load_model(tmp_path)
    assert older.processor.config == ProcessorConfig(max_round_sec=2.0, max_text_tokens=20, outer_silence="drop")
    assert older.network.config.to_dict() == newer.network.config.to_dict()
    weights, others = newer.network.state_dict(), older.network.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(others[name], weights[name]) for name in weights)
    assert not older.network.text_encoder.has_types


def test_the_fields_are_in_both_files_of_a_new_folder(
    tiny_network: Any, tiny_tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    save_model(tiny_network(), tiny_tokenizer, tmp_path, "card")
    saved = model_version(tmp_path)
    assert MsmtFn.from_pretrained(tmp_path).config.outer_silence == "keep"
    (tmp_path / "processor_config.json").unlink()  # as its absence means the same, the version stays
    assert model_version(tmp_path) == saved
    assert CallProcessor.from_pretrained(tmp_path).config.outer_silence == "keep"
