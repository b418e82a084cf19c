from __future__ import annotations

import numpy as np
import pytest

from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.baselines import predict_by_rules, predict_by_words
from msmtfn.labels import INTENTS


def call(*customer: str, agent: str = "您好，请问您需要吗？") -> list[dict[str, str]]:
    turns = [{"speaker": "agent", "text": agent}]
    return turns + [{"speaker": "customer", "text": text} for text in customer]


@pytest.mark.parametrize(
    ("texts", "intent"),
    [
        (["多少钱？", "什么时候可以去"], "A"),
        (["how much is it?", "and when?"], "A"),
        (["好的，你们在哪"], "B"),
        (["嗯", "好的"], "C"),
        (["我不需要，谢谢"], "D"),
        (["多少钱？", "哪里？", "Not interested."], "D"),
        (["Please don't call again"], "D"),
        ([], "E"),
    ],
)
def test_the_rules_read_questions_and_refusals_of_the_customer(texts: list[str], intent: str) -> None:
    [five] = predict_by_rules([call(*texts)])
    assert INTENTS[int(five.argmax())] == intent
    assert five.sum() == pytest.approx(1.0)


def test_what_the_agent_asks_is_no_question_of_the_customer() -> None:
    assert predict_by_rules([call("嗯", agent="多少？什么？怎么？")])[0].argmax() == INTENTS.index("C")


def test_a_call_without_a_transcript_has_no_intent() -> None:
    assert predict_by_rules([None, []]).argmax(axis=1).tolist() == [4, 4]


def test_among_equal_intents_more_questions_are_better() -> None:
    few, many = predict_by_rules([call("多少？", "怎么？"), call("多少？", "怎么？", "哪？")])
    assert few.argmax() == many.argmax() == 0
    refused, asked_and_refused = predict_by_rules([call("不需要"), call("多少？", "不需要")])
    assert asked_and_refused[0] > refused[0]


WORDS = {"A": "我想买一个", "C": "我现在很忙", "D": "别再打电话了"}


def test_the_bag_of_words_learns_what_the_words_say() -> None:
    pytest.importorskip("sklearn")
    intents = [intent for intent in WORDS for _ in range(5)]
    training = [call(f"{WORDS[intent]}{number}") for number, intent in enumerate(intents)]
    five = predict_by_words(
        training, np.array([INTENTS.index(intent) for intent in intents]), [call("你好，我想买"), call("很忙"), None]
    )
    assert five.shape == (3, 5)
    assert five.sum(axis=1).tolist() == pytest.approx([1.0] * 3)
    assert [INTENTS[place] for place in five[:2].argmax(axis=1)] == ["A", "C"]
    assert five[:, [1, 4]].max() == 0.0  # never seen


def test_the_bag_of_words_needs_words_and_two_intents() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(TrainingDataError, match="no customer says a word"):
        predict_by_words([call(), None], np.array([0, 1]), [])
    with pytest.raises(TrainingDataError, match="one intent only"):
        predict_by_words([call("a"), call("b")], np.array([0, 0]), [])
