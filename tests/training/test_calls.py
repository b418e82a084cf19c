from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msmtfn.features.prepare import PREPARED
from msmtfn.inference.scorer import CallRounds
from msmtfn.model.network import MsmtFn
from msmtfn.training.calls import (
    EmbeddedRounds,
    LabelledCall,
    collate,
    embedded_calls,
    prepared_calls,
    split_by_budget,
)
from msmtfn.training.embedding import Embedder
from tests.conftest import make_tiny_network

INPUTS = ("samples", "round_samples", "tokens", "round_tokens")
SCHEMA = pa.schema([("call_id", pa.string()), ("intent", pa.string()), *(PREPARED.field(name) for name in INPUTS)])
CLS, SEP, A, B, C = 2, 3, 5, 6, 7
Rounds = list[tuple[npt.NDArray[np.int16], list[int]]]


def noise(num_samples: int, seed: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-3000, 3000, num_samples).astype(np.int16)


def prepared(*calls: tuple[str, Rounds]) -> pa.Table:
    """Prepared rows of calls, each given by its intent and its rounds."""
    rows = [
        {
            "call_id": f"c{number}",
            "intent": intent,
            "samples": np.concatenate([samples for samples, _ in rounds]),
            "round_samples": [len(samples) for samples, _ in rounds],
            "tokens": [token for _, ids in rounds for token in ids],
            "round_tokens": [len(ids) for _, ids in rounds],
        }
        for number, (intent, rounds) in enumerate(calls)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def labelled(*lengths: int, call_id: str = "c", intent: int = 0) -> LabelledCall:
    """A call with rounds of these lengths and no text."""
    samples = [np.zeros(length, np.int16) for length in lengths]
    return LabelledCall(call_id, intent, CallRounds(samples, [np.zeros(0, np.int32) for _ in lengths]))


THREE_CALLS = prepared(
    ("C", [(noise(12_000, 0), [CLS, A, B, SEP]), (noise(16_000, 1), [])]),
    ("A", [(noise(3_000, 2), [CLS, C, SEP])]),
    ("E", [(noise(100, 3), []), (noise(8_000, 4), [CLS, A, A, B, C, SEP]), (noise(0, 5), [CLS, A, SEP])]),
)


def test_prepared_calls_have_their_rounds_ids_and_labels() -> None:
    first, second = prepared_calls(
        prepared(
            ("C", [(np.array([1, 2, 3], np.int16), [CLS, SEP]), (np.array([4], np.int16), [])]),
            ("A", [(np.array([5, 6], np.int16), [A])]),
        )
    )
    assert isinstance(first.rounds, CallRounds)
    assert isinstance(second.rounds, CallRounds)
    assert [each.tolist() for each in first.rounds.samples] == [[1, 2, 3], [4]]
    assert [each.tolist() for each in first.rounds.tokens] == [[CLS, SEP], []]
    assert [each.tolist() for each in second.rounds.samples] == [[5, 6]]
    assert (first.call_id, first.intent, first.num_rounds, first.lengths) == ("c0", 2, 2, [3, 1])
    assert (second.call_id, second.intent, second.num_rounds, second.lengths) == ("c1", 0, 1, [2])


def test_calls_are_read_from_a_table_in_several_chunks() -> None:
    pieces = pa.concat_tables([THREE_CALLS.slice(0, 1), THREE_CALLS.slice(1, 2)])
    assert [call.lengths for call in prepared_calls(pieces)] == [[12_000, 16_000], [3_000], [100, 8_000, 0]]


def test_a_batch_is_padded_to_its_longest_round_and_keeps_the_lengths() -> None:
    table = prepared(
        ("B", [(np.array([32767, -32767], np.int16), [CLS, A, SEP])]),
        ("D", [(np.array([0], np.int16), []), (np.array([], np.int16), [B])]),
    )
    batch = collate(prepared_calls(table), pad_token_id=9)
    assert batch.audio.tolist() == [[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert batch.audio_lengths.tolist() == [2, 1, 0]
    assert batch.text.tolist() == [[CLS, A, SEP], [9, 9, 9], [B, 9, 9]]
    assert batch.text_lengths.tolist() == [3, 0, 1]
    assert (batch.rounds_per_call, batch.intents.tolist()) == ([1, 2], [1, 3])


def test_embedded_rounds_are_padded_with_zeros_to_at_least_one_state() -> None:
    audio = [np.ones((2, 3), np.float16), np.ones((0, 3), np.float16)]
    text = [np.ones((0, 4), np.float16), np.ones((0, 4), np.float16)]
    batch = collate([LabelledCall("c", 4, EmbeddedRounds(audio, text))], 0)
    assert batch.audio.tolist() == [[[1.0] * 3] * 2, [[0.0] * 3] * 2]
    assert batch.text.tolist() == [[[0.0] * 4]] * 2
    assert (batch.audio_lengths.tolist(), batch.text_lengths.tolist()) == ([2, 0], [0, 0])


def test_the_shortest_calls_share_a_batch() -> None:
    calls = [labelled(9, 2, call_id="a"), labelled(2, 3, call_id="b"), labelled(4, call_id="c")]
    batches = split_by_budget(calls, 18)  # b and c have 3 rounds of up to 4, with a they would have 5 of up to 9
    assert [[call.call_id for call in batch] for batch in batches] == [["b", "c"], ["a"]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=4), max_size=12), st.integers(1, 200))
def test_every_call_is_in_one_batch_under_the_budget_or_alone_if_it_is_larger(
    calls: list[list[int]], budget: int
) -> None:
    batches = split_by_budget([labelled(*each, call_id=str(n)) for n, each in enumerate(calls)], budget)
    assert sorted(int(call.call_id) for batch in batches for call in batch) == list(range(len(calls)))
    for batch in batches:
        size = sum(call.num_rounds for call in batch) * max(max(call.lengths) for call in batch)
        assert size <= budget or len(batch) == 1


def test_rounds_have_the_same_vectors_in_a_group_as_in_the_whole_batch() -> None:
    network, batch = make_tiny_network(), collate(prepared_calls(THREE_CALLS), 0)
    with torch.inference_mode():
        together = batch.vectors(network, np.arange(6))
        some = batch.vectors(network, np.array([4, 2]))
    torch.testing.assert_close(some, together[[4, 2]], atol=1e-5, rtol=0)


def vectors_of(calls: list[LabelledCall], network: MsmtFn) -> Tensor:
    batch = collate(calls, network.config.text.pad_token_id)
    with torch.inference_mode():
        return batch.vectors(network, np.arange(sum(batch.rounds_per_call)))


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("modalities", ["both", "text", "audio"])
def test_embedded_calls_have_the_vectors_of_the_prepared_calls(modalities: str, with_text: bool) -> None:
    network = make_tiny_network(modalities=modalities)
    table = Embedder(network, with_text=with_text).embed_batch(THREE_CALLS)
    network.to("cpu")  # type: ignore[arg-type]
    embedded = embedded_calls(table, 24, 40 if with_text else None)
    calls = prepared_calls(THREE_CALLS)
    assert [(call.call_id, call.intent) for call in embedded] == [("c0", 2), ("c1", 0), ("c2", 4)]
    torch.testing.assert_close(vectors_of(embedded, network), vectors_of(calls, network), atol=1e-2, rtol=0)
