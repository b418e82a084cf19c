from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from msmtfn.features.prepare import PREPARED
from msmtfn.features.processor import FULL_SCALE
from msmtfn.model.network import MsmtFn
from msmtfn.training.calls import EMBEDDED
from msmtfn.training.embedding import Embedder
from tests.conftest import make_tiny_network

INPUTS = ("samples", "round_samples", "tokens", "round_tokens")
SCHEMA = pa.schema([("call_id", pa.string()), ("intent", pa.string()), *(PREPARED.field(name) for name in INPUTS)])
AUDIO_SIZE, TEXT_SIZE = 24, 40  # of the tiny network's encoders


def noise(num_samples: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(num_samples).integers(-3000, 3000, num_samples).astype(np.int16)


def rows(*calls: tuple[list[int], list[list[int]]]) -> pa.Table:
    """Prepared rows of calls, each given by the number of samples and the tokens of its rounds."""
    columns = {
        "call_id": [f"c{number}" for number in range(len(calls))],
        "intent": ["B"] * len(calls),
        "samples": [np.concatenate([noise(length) for length in lengths]) for lengths, _ in calls],
        "round_samples": [lengths for lengths, _ in calls],
        "tokens": [[token for ids in tokens for token in ids] for _, tokens in calls],
        "round_tokens": [[len(ids) for ids in tokens] for _, tokens in calls],
    }
    return pa.table(columns, schema=SCHEMA)


# A frame is 400 samples, and one more every 320: 16,000 samples have 1 + 15,600 // 320 = 49.
CALLS = rows(([16_000, 399], [[2, 5, 3], []]), ([400], [[2, 6, 7, 3]]), ([720, 1_040], [[], [2, 3]]))


@pytest.fixture(scope="module")
def network() -> MsmtFn:
    return make_tiny_network()


@pytest.fixture(scope="module")
def embedded(network: MsmtFn) -> pa.Table:
    return Embedder(network).embed_batch(CALLS)


def test_the_calls_are_returned_in_order_and_in_the_schema(embedded: pa.Table) -> None:
    assert embedded.schema == EMBEDDED
    assert embedded["call_id"].to_pylist() == ["c0", "c1", "c2"]
    assert embedded["intent"].to_pylist() == ["B"] * 3


def test_every_round_has_as_many_frames_as_fit_into_it(embedded: pa.Table) -> None:
    assert embedded["round_frames"].to_pylist() == [[49, 0], [1], [2, 3]]


def test_every_round_has_its_tokens_and_one_without_text_has_none(embedded: pa.Table) -> None:
    assert embedded["round_tokens"].to_pylist() == [[3, 0], [4], [0, 2]]


def test_a_call_has_as_many_values_as_states_times_the_width_of_the_encoder(embedded: pa.Table) -> None:
    assert [len(call) for call in embedded["audio_states"]] == [49 * AUDIO_SIZE, AUDIO_SIZE, 5 * AUDIO_SIZE]
    assert [len(call) for call in embedded["text_states"]] == [3 * TEXT_SIZE, 4 * TEXT_SIZE, 2 * TEXT_SIZE]


def test_the_states_are_those_of_the_encoders(network: MsmtFn, embedded: pa.Table) -> None:
    device = network.device
    samples = torch.from_numpy(noise(720)).float()[None].to(device) / FULL_SCALE
    ids = torch.tensor([[2, 6, 7, 3]], device=device)
    with torch.inference_mode():
        audio, _ = network.audio_encoder(samples, torch.tensor([720], device=device), padded=False)
        text, _ = network.text_encoder(ids, torch.tensor([4], device=device))
    first_round = np.array(embedded["audio_states"][2].as_py()[: 2 * AUDIO_SIZE], np.float32)
    np.testing.assert_allclose(first_round, audio[0].flatten().cpu(), atol=5e-3)
    np.testing.assert_allclose(
        np.array(embedded["text_states"][1].as_py(), np.float32), text[0].flatten().cpu(), atol=5e-3
    )


def test_a_call_is_embedded_the_same_alone_and_in_a_batch(network: MsmtFn, embedded: pa.Table) -> None:
    alone = Embedder(network).embed_batch(CALLS.slice(2, 1))
    for name in ("audio_states", "text_states"):
        np.testing.assert_allclose(alone[name][0].as_py(), embedded[name][2].as_py(), atol=5e-3)


def test_an_empty_batch_has_the_schema(network: MsmtFn) -> None:
    nothing = Embedder(network).embed_batch(CALLS.slice(0, 0))
    assert nothing.schema == EMBEDDED
    assert len(nothing) == 0
