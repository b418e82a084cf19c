from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from msmtfn.inference.scorer import CallRounds, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import load_model
from tests.benchmarks.scale import WAIT_SEC, WaitingScorer, has_spilled
from tests.integration.job import ROOT

FILL_OBJECT_STORE = """
import sys, ray
ray.init("local", num_cpus=1, object_store_memory=80 * 2**20, _temp_dir=sys.argv[1], include_dashboard=False)
kept = [ray.put(bytes(20 * 2**20)) for _ in range(int(sys.argv[2]))]
ray.shutdown()
"""


def test_a_waiting_scorer_sleeps_for_its_calls_and_gives_a_probability_per_class(tiny_model: Path) -> None:
    scorer = WaitingScorer(load_model(tiny_model).network, ScorerConfig(device="cpu"))
    started = time.perf_counter()
    probabilities = scorer.probabilities([CallRounds([np.zeros(9, np.int16)], [np.zeros(0, np.int32)])] * 2)
    assert time.perf_counter() - started >= 2 * WAIT_SEC
    assert {task: array.shape for task, array in probabilities.items()} == {
        task: (2, len(classes)) for task, classes in TASKS.items()
    }


@pytest.mark.slow
@pytest.mark.long
def test_spilling_of_the_object_store_is_detected(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, number, spilled in (("few", 2, False), ("many", 8, True)):
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-c", FILL_OBJECT_STORE, str(folder / "ray"), str(number)], check=True)
        assert has_spilled(folder) is spilled


@pytest.mark.slow
@pytest.mark.long
def test_scale_measures_a_day_and_waiting_scorers(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "scale", "--json", str(figures)]
    subprocess.run([*command, "--num-calls", "10", "--num-scorers", "2"], cwd=ROOT, check=True)
    day, waiting = json.loads(figures.read_text())["scale"]
    assert (day["calls"], day["spilled"]) == (10, False)
    assert 50 < day["driver_mib"] < day["workers_mib"] < 20_000
    assert day["largest_worker_mib"] < day["workers_mib"]
    assert 15 < waiting["calls_per_sec"] <= 20.0
