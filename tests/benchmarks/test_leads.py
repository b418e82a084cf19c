from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.calibration import Calibration
from msmtfn.model.network import MsmtFn
from tests.benchmarks.leads import EncodedCall, describe_leads


def test_the_leads_of_encoded_calls_agree_whatever_the_heads_say(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    scorer = Scorer(network, ScorerConfig(device="cpu"), calibration=Calibration(set_threshold=1.0))
    generator = torch.Generator().manual_seed(0)
    calls = [
        EncodedCall(torch.randn(number % 4 + 1, 2, network.config.hidden_size, generator=generator), number % 5)
        for number in range(20)
    ]
    rows = {row["figure"]: row for row in describe_leads(scorer, calls, seed=0)}
    sums = rows["tasks that are no sums of one distribution, % of calls"]
    assert (sums["before"], sums["after"]) == (100, 0)
    assert rows["prediction sets that hold the intent, %"]["after"] == 100
    assert rows["intents in a set, mean"]["after"] == 5
    assert rows["calls of two rounds or more"]["after"] == 15
    assert rows["first : random"]["after"] >= 1
    assert all(np.isfinite(rows[f"{task}: log loss"]["after"]) for task in TASKS)
