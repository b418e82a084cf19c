"""Fixtures of the tests of the scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.model.network import MsmtFn
from tests.inference.batches import MakeScorer


@pytest.fixture
def make_scorer(tiny_network: Callable[..., MsmtFn]) -> MakeScorer:
    """Return a function that makes a scorer with its own tiny network, given fields of `ScorerConfig`."""

    def make(**options: Any) -> Scorer:
        network = tiny_network()
        return Scorer(network, ScorerConfig(device="cpu", **options))

    return make


@pytest.fixture
def scorer(make_scorer: MakeScorer) -> Scorer:
    return make_scorer()


@pytest.fixture
def without_evidence(make_scorer: MakeScorer) -> Scorer:
    return make_scorer(evidence=False)
