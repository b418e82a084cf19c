"""Fixtures of all tests: a tiny network, real recordings if available, and one Ray instance for the session."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from hypothesis import settings
from transformers import BertTokenizer
from xdist.scheduler import LoadScopeScheduling

from msmtfn.model.checkpoint import save_model
from msmtfn.model.config import MmmlConfig, MsmtFnConfig
from msmtfn.model.mmml import Mmml
from msmtfn.model.network import MsmtFn
from tests.s3_server import place, s3  # noqa: F401 - fixtures

settings.register_profile("any speed", deadline=None)  # a busy machine is no failure
settings.load_profile("any speed")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # nor is a Ray that starts slowly; jobs inherit it

TINY_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
TINY_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


TINY_FIELDS: dict[str, Any] = {
    "audio_config": {
        "model_type": "hubert",
        "hidden_size": 24,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        **TINY_SIZES,
    },
    "text_config": {"model_type": "bert", "hidden_size": 40, "vocab_size": len(TINY_VOCABULARY), **TINY_SIZES},
    "encoder_sample_rate": 8000,
    "max_round_sec": 2.0,
    "max_text_tokens": 20,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "feed_forward_size": 64,
}
"""Fields that the tiny networks share: rounds of 2 s and 20 tokens; the encoders' widths differ."""


def make_tiny_config(**options: Any) -> MsmtFnConfig:
    """Make a configuration of the paper's network with the tiny fields."""
    return MsmtFnConfig(**(TINY_FIELDS | {"context_size": 16} | options))


def make_tiny_mmml(seed: int = 0, **options: Any) -> Mmml:
    """Make a tiny MMML in evaluation mode; the same seed gives the same weights."""
    sizes = {"num_cross_layers": 2, "first_head_size": 20, "second_head_size": 12}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Mmml(MmmlConfig(**(TINY_FIELDS | sizes | options)))
    network.train(False)
    return network


def make_tiny_network(seed: int = 0, **options: Any) -> MsmtFn:
    """Make a tiny network in evaluation mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MsmtFn(make_tiny_config(**options))
    network.train(False)
    return network


class RayScheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types for its schedulers
    """Division of the tests among the processes of `pytest -n`: one gets all modules on Ray, no module is divided."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "ray" if _is_on_ray(self.config.rootpath / module) else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return what divides the tests among processes."""
    return RayScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on Ray first: they are the longest group, and the other processes do the rest meanwhile."""
    items.sort(key=lambda item: not _is_on_ray(item.path))


@cache
def _is_on_ray(module: Path) -> bool:
    return "ray_address" in module.read_text()


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MsmtFnConfig]:
    """Return a function that makes a tiny configuration from fields of `MsmtFnConfig`."""
    return make_tiny_config


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., MsmtFn]:
    """Return a function that makes a tiny network from a seed and fields of `MsmtFnConfig`."""
    return make_tiny_network


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BertTokenizer:
    """Return a tokenizer with one token for each of the letters a to j."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(TINY_VOCABULARY)})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: BertTokenizer) -> Path:
    """Return the folder of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny-model")
    save_model(make_tiny_network(), tiny_tokenizer, folder, "# Tiny\n")
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, which are not part of the repository."""
    folder = Path(__file__).parents[2] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"there are no real recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Yield the address of the Ray instance that all tests share; its CPUs are logical."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.WARNING)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
