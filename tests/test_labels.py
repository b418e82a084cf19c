from __future__ import annotations

import pytest

from msmtfn.labels import INTENTS, TASKS, class_index

# Design, section 2: A | B | C | D | E, A | B | C | DE, A | BC | DE, ABC | DE.
CLASS_OF_INTENT = {
    "five": [0, 1, 2, 3, 4],
    "four": [0, 1, 2, 3, 3],
    "three": [0, 1, 1, 2, 2],
    "two": [0, 0, 0, 1, 1],
}


def test_the_tasks_are_those_of_the_paper_in_its_order() -> None:
    assert list(TASKS) == ["five", "four", "three", "two"]


def test_the_intents_are_a_to_e() -> None:
    assert INTENTS == ("A", "B", "C", "D", "E")


@pytest.mark.parametrize("task", CLASS_OF_INTENT)
def test_every_task_groups_the_intents_as_the_paper_does(task: str) -> None:
    assert [class_index(task, intent) for intent in "ABCDE"] == CLASS_OF_INTENT[task]


@pytest.mark.parametrize("task", CLASS_OF_INTENT)
def test_every_intent_is_in_exactly_one_class_of_a_task(task: str) -> None:
    assert sorted("".join(TASKS[task])) == ["A", "B", "C", "D", "E"]


def test_a_little_impatient_is_positive_in_the_two_class_task() -> None:
    assert TASKS["two"][class_index("two", "C")] == "ABC"


@pytest.mark.parametrize("intent", ["F", "a", "", "AB", "DE"])
def test_the_error_about_an_unknown_intent_names_the_known_ones(intent: str) -> None:
    with pytest.raises(ValueError, match=f"^intent is '{intent}'; it must be one of A, B, C, D, E$"):
        class_index("four", intent)


def test_the_error_about_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^task is 'six'; it must be one of five, four, three, two$"):
        class_index("six", "A")
