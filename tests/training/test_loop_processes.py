from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from msmtfn.training.loop import InMemoryCalls, Loop
from msmtfn.training.recipe import Recipe
from tests.training.loop_cases import (
    FIVE_CALLS,
    assert_close,
    equal,
    gradients,
    make_loop,
    make_recipe,
    weights_of,
    without_dropout,
)


def two_process_recipe(**options: Any) -> Recipe:
    """A recipe that makes two batches of three calls, the larger one in groups, and one batch of two calls."""
    return make_recipe(
        batch_calls=2, accumulation_steps=2, samples_per_batch=2_500, class_weights="balanced", **options
    )


def process(rank: int, folder: str) -> None:
    """Run one of two processes: a step on its share of the calls, then an epoch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result: dict[str, Any] = {}
    share = FIVE_CALLS[:3] if rank == 0 else FIVE_CALLS[3:]
    for frozen in ("nothing", "convolutions"):
        network = without_dropout()
        loop = Loop(
            network,
            two_process_recipe(frozen=frozen),
            InMemoryCalls(share, share, 0),
            steps_per_epoch=1,
            training_intents=np.array([each.intent for each in FIVE_CALLS]),
        )
        assert isinstance(loop.learner, DistributedDataParallel)
        network.train()
        loss = loop.step(share)
        result[frozen] = {"loss": loss, "gradient": gradients(network)}
        epoch = loop.run_epoch()
        result[frozen] |= {"weights": weights_of(network), "epoch": epoch.as_row()}
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two processes with unequal shares of the calls, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@functools.cache
def one_process(frozen: str) -> dict[str, Any]:
    """The result of one process with all calls in one batch."""
    network = without_dropout()
    recipe = replace(two_process_recipe(frozen=frozen), batch_calls=5, samples_per_batch=1_000_000)
    loop = make_loop(network, recipe, FIVE_CALLS)
    network.train()
    loss = loop.step(FIVE_CALLS)
    result: dict[str, Any] = {"loss": loss, "gradient": gradients(network)}
    return result | {"epoch": loop.run_epoch().as_row()}


@pytest.mark.parametrize("frozen", ["nothing", "convolutions"])
def test_two_processes_with_unequal_shares_have_the_gradient_of_one_with_all_calls(
    shares: list[dict[str, Any]], frozen: str
) -> None:
    for rank in range(2):
        assert_close(shares[rank][frozen]["gradient"], one_process(frozen)["gradient"])
        assert shares[rank][frozen]["loss"] == pytest.approx(one_process(frozen)["loss"], abs=1e-5)


@pytest.mark.parametrize("frozen", ["nothing", "convolutions"])
def test_two_processes_have_the_same_weights_after_an_epoch(shares: list[dict[str, Any]], frozen: str) -> None:
    first, second = (each[frozen]["weights"] for each in shares)
    assert equal(first, second)
    assert not equal(first, weights_of(without_dropout()))


def test_two_processes_report_the_figures_of_one(shares: list[dict[str, Any]]) -> None:
    expected = one_process("nothing")["epoch"]
    for result in shares:
        epoch = result["nothing"]["epoch"]
        for name in ("training_loss", "validation_loss", "accuracy_five", "accuracy_two"):
            assert epoch[name] == pytest.approx(expected[name], abs=1e-3), name
