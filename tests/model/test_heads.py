from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from msmtfn.model.heads import TaskHeads

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}


def linear_of(heads: TaskHeads, task: str) -> nn.Linear:
    (linear,) = (module for module in heads.heads[task].modules() if isinstance(module, nn.Linear))
    return linear


def test_there_is_a_logit_for_each_class_of_each_task() -> None:
    logits = TaskHeads(input_size=6, dropout=0.3)(torch.zeros(7, 6))
    assert {task: tuple(tensor.shape) for task, tensor in logits.items()} == {
        task: (7, num_classes) for task, num_classes in NUM_CLASSES.items()
    }


@torch.no_grad()
def test_a_head_is_linear() -> None:
    heads = TaskHeads(input_size=2, dropout=0.3).train(False)
    linear_of(heads, "two").weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    linear_of(heads, "two").bias.copy_(torch.tensor([0.5, -0.5]))
    assert heads(torch.tensor([[10.0, 1.0]]))["two"].tolist() == [[12.5, 33.5]]


@pytest.mark.parametrize("changed", NUM_CLASSES)
@torch.no_grad()
def test_the_heads_share_no_weight(changed: str) -> None:
    heads = TaskHeads(input_size=6, dropout=0.3).train(False)
    calls = torch.randn(3, 6)
    before = heads(calls)
    linear_of(heads, changed).weight.add_(1.0)
    after = heads(calls)
    assert [task for task in NUM_CLASSES if not torch.equal(before[task], after[task])] == [changed]


@torch.no_grad()
def test_dropout_before_each_head_is_applied_in_training_only() -> None:
    heads = TaskHeads(input_size=1, dropout=0.3).train()
    for task in NUM_CLASSES:
        linear_of(heads, task).weight.fill_(1.0)
        linear_of(heads, task).bias.zero_()
    torch.manual_seed(0)
    in_training = heads(torch.ones(10_000, 1))
    for task in NUM_CLASSES:
        assert (in_training[task][:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        assert in_training[task].max().item() == pytest.approx(1 / 0.7)
    assert torch.equal(heads.train(False)(torch.ones(4, 1))["two"], torch.ones(4, 2))


# ---- one head for all tasks


def test_a_single_head_is_the_one_of_the_five_classes() -> None:
    assert list(TaskHeads(input_size=6, dropout=0.3, multi_task=False).heads) == ["five"]


@torch.no_grad()
def test_the_probabilities_of_the_coarser_tasks_are_sums_over_the_five_classes() -> None:
    heads = TaskHeads(input_size=1, dropout=0.0, multi_task=False)
    linear_of(heads, "five").weight.zero_()
    linear_of(heads, "five").bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).log() + 7.0)
    probabilities = {task: logits.softmax(dim=1)[0].tolist() for task, logits in heads(torch.zeros(1, 1)).items()}
    assert list(probabilities) == list(NUM_CLASSES)
    assert probabilities["five"] == pytest.approx([0.1, 0.2, 0.3, 0.15, 0.25], abs=1e-6)
    assert probabilities["four"] == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-6)
    assert probabilities["three"] == pytest.approx([0.1, 0.5, 0.4], abs=1e-6)
    assert probabilities["two"] == pytest.approx([0.6, 0.4], abs=1e-6)


@torch.no_grad()
def test_derived_logits_are_the_logarithms_of_the_sums() -> None:
    heads = TaskHeads(input_size=1, dropout=0.0, multi_task=False)
    linear_of(heads, "five").weight.zero_()
    linear_of(heads, "five").bias.fill_(3.0)  # equal probabilities of 1/5
    assert heads(torch.zeros(1, 1))["two"][0].tolist() == pytest.approx([math.log(0.6), math.log(0.4)], abs=1e-6)
