from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from msmtfn.model.losses import multi_task_loss

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}
A, B, C, D, E = range(5)


def even_logits(num_calls: int = 1) -> dict[str, Tensor]:
    """Make logits that are equal for all classes of each task."""
    return {task: torch.zeros(num_calls, num_classes) for task, num_classes in NUM_CLASSES.items()}


def logits_favouring(task: str, index: int) -> dict[str, Tensor]:
    """Make even logits except for one task, where the class at `index` is three times as likely as any other."""
    logits = even_logits()
    logits[task][0, index] = math.log(3)
    return logits


@pytest.mark.parametrize("intent", range(5))
def test_even_logits_cost_the_log_of_the_number_of_classes_in_each_task(intent: int) -> None:
    loss = multi_task_loss(even_logits(), torch.tensor([intent]))
    assert loss.item() == pytest.approx(math.log(5) + math.log(4) + math.log(3) + math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("task", "index", "right"),
    [
        *[("five", index, [index]) for index in range(5)],
        ("four", 0, [A]),
        ("four", 1, [B]),
        ("four", 2, [C]),
        ("four", 3, [D, E]),
        ("three", 0, [A]),
        ("three", 1, [B, C]),
        ("three", 2, [D, E]),
        ("two", 0, [A, B, C]),
        ("two", 1, [D, E]),
    ],
)
def test_each_task_is_charged_for_the_class_that_contains_the_intent(task: str, index: int, right: list[int]) -> None:
    others = sum(math.log(size) for name, size in NUM_CLASSES.items() if name != task)
    total = 3 + NUM_CLASSES[task] - 1
    for intent in range(5):
        loss = multi_task_loss(logits_favouring(task, index), torch.tensor([intent])).item()
        probability = 3 / total if intent in right else 1 / total
        assert loss - others == pytest.approx(-math.log(probability), abs=1e-6)


def test_the_loss_of_several_calls_is_their_mean() -> None:
    logits = even_logits(2)
    logits["two"][0] = torch.tensor([math.log(3), 0.0])
    loss = multi_task_loss(logits, torch.tensor([C, E]))  # the first pays -ln(3/4) for two, the second ln 2
    assert loss.item() == pytest.approx(math.log(60) + (math.log(4 / 3) + math.log(2)) / 2, abs=1e-6)


def test_the_loss_is_a_scalar_with_a_gradient_for_the_logits_of_each_task() -> None:
    logits = {task: even.requires_grad_() for task, even in even_logits().items()}
    loss = multi_task_loss(logits, torch.tensor([B]))
    loss.backward()
    assert loss.shape == ()
    # The gradient of a cross-entropy is the probabilities less the one-hot target.
    assert logits["two"].grad is not None
    assert logits["two"].grad.tolist() == [[-0.5, 0.5]]
    assert all(tensor.grad is not None for tensor in logits.values())


# ---- which tasks, which weights, mean or sum


def test_only_the_requested_tasks_count() -> None:
    loss = multi_task_loss(even_logits(), torch.tensor([A]), tasks=("five", "two"))
    assert loss.item() == pytest.approx(math.log(10), abs=1e-6)


def test_a_task_that_is_left_out_needs_no_logits() -> None:
    loss = multi_task_loss({"five": torch.zeros(1, 5)}, torch.tensor([A]), tasks=("five",))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


@pytest.mark.parametrize(("tasks", "message"), [((), "tasks is empty"), (("six",), "task is 'six'")])
def test_an_empty_list_of_tasks_and_an_unknown_task_are_refused(tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multi_task_loss(even_logits(), torch.tensor([A]), tasks=tasks)


def test_the_sum_reduction_sums_over_the_calls() -> None:
    loss = multi_task_loss(even_logits(3), torch.tensor([A, C, E]), reduction="sum")
    assert loss.item() == pytest.approx(3 * math.log(120), abs=1e-5)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^reduction is 'none'; it must be 'mean' or 'sum'$"):
        multi_task_loss(even_logits(), torch.tensor([A]), reduction="none")  # type: ignore[arg-type]


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 5 * math.log(2)), ("mean", 2.5 * math.log(2))])
def test_class_weights_multiply_a_calls_loss_and_the_mean_divides_by_the_number_of_calls(
    reduction: Literal["mean", "sum"], expected: float
) -> None:
    weights = {"two": torch.tensor([2.0, 3.0])}  # ABC, DE
    loss = multi_task_loss(
        even_logits(2), torch.tensor([C, D]), tasks=("two",), class_weights=weights, reduction=reduction
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_task_without_class_weights_is_unweighted() -> None:
    weights = {"two": torch.tensor([4.0, 1.0])}
    loss = multi_task_loss(even_logits(), torch.tensor([A]), tasks=("five", "two"), class_weights=weights)
    assert loss.item() == pytest.approx(math.log(5) + 4 * math.log(2), abs=1e-6)
