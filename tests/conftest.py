"""What the tests share: a tiny network, real recordings where they are at hand, one Ray for the session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import BertTokenizer

from msmtfn.model.checkpoint import save_model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from tests.s3_server import place, s3  # noqa: F401 - fixtures

TINY_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
TINY_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def make_tiny_config(**options: Any) -> MsmtFnConfig:
    """The paper's network with two seconds a round, twenty tokens and widths of some dozens; the encoders differ."""
    fields: dict[str, Any] = {
        "audio_config": {
            "model_type": "hubert",
            "hidden_size": 24,
            "conv_dim": [16] * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            **TINY_SIZES,
        },
        "text_config": {"model_type": "bert", "hidden_size": 40, "vocab_size": len(TINY_VOCABULARY), **TINY_SIZES},
        "max_round_sec": 2.0,
        "max_text_tokens": 20,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "feed_forward_size": 64,
        "context_size": 16,
    }
    return MsmtFnConfig(**(fields | options))


def make_tiny_network(seed: int = 0, **options: Any) -> MsmtFn:
    """A network of that configuration in evaluation mode; the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MsmtFn(make_tiny_config(**options))
    network.train(False)
    return network


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MsmtFnConfig]:
    """Make a tiny configuration; the arguments are fields of `MsmtFnConfig`."""
    return make_tiny_config


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., MsmtFn]:
    """Make a tiny network; the arguments are a seed and fields of `MsmtFnConfig`."""
    return make_tiny_network


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BertTokenizer:
    """One token for each of the letters a to j."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(TINY_VOCABULARY)})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: BertTokenizer) -> Path:
    """The folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny-model")
    save_model(make_tiny_network(), tiny_tokenizer, folder, "# Tiny\n")
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Real recordings, which are no part of a user's clone."""
    folder = Path(__file__).parents[2] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"there are no real recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of one Ray for all tests that need one; the number of CPUs is logical."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.WARNING)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
